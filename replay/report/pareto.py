"""What attainment costs: the runs of multiruns whose instances come and go, and those that no other one beats."""

from collections.abc import Mapping, Sequence

import polars as pl

from replay.metrics import HIGHER, LOWER
from replay.report.folders import Sweep
from replay.report.parts import Figure, Section
from replay.report.style import INK, PALETTE, Panels
from replay.report.tuning import pareto

AXES: Mapping[str, int] = {"cost_usd": LOWER, "slo_attainment": HIGHER}
KEPT = ("gpu_hours", "instances_started", "misses_while_starting")


def sections(sweeps: Sequence[Sweep]) -> list[Section]:
    """Return cost against attainment over all multiruns, a colour each; nothing where no instance comes or goes."""
    parts = [one for one in sweeps if {*AXES, *KEPT} <= set(one.rows.columns)]
    if not parts:
        return []
    names = {*AXES, *KEPT}
    rows = pl.concat(
        [one.rows.select(pl.lit(one.folder.resolve().name).alias("multirun"), "label",
                         *(pl.col(name).cast(pl.Float64) for name in sorted(names))) for one in parts]
    ).drop_nulls(list(AXES))  # fmt: skip
    if rows.height < 2:
        return []
    front = pareto(rows.with_columns(fate=pl.lit("kept")), AXES)
    panels = Panels(["SLO attainment against cost"], columns=1, panel_px=460)
    best = rows.filter(front).sort("cost_usd")
    panels.line(0, "no other is better in both", best["cost_usd"].to_numpy(), best["slo_attainment"].to_numpy(),
                color=INK, dash="dot", shape="hv")  # fmt: skip
    for k, ((name,), part) in enumerate(rows.group_by("multirun", maintain_order=True)):
        colour = PALETTE[k % len(PALETTE)]
        panels.add(
            0, str(name), "scatter", x=part["cost_usd"].to_numpy(), y=part["slo_attainment"].to_numpy(),
            mode="lines+markers", marker={"color": colour, "size": 8}, line={"color": colour, "width": 1.2},
            text=part["label"].to_list(), hovertemplate="%{text}: $%{x:,.0f}, %{y:.4f}<extra></extra>",
        )  # fmt: skip
    panels.axes(0, {"title_text": "cost of the run, USD"}, {"title_text": "share of requests that met their SLO"})
    says = "Every run of the multiruns, a colour each. Of those on the dotted line none is beaten in both by another."
    return [Section("Cost against attainment", says, [Figure("cost and attainment", panels.finish(), rows)])]

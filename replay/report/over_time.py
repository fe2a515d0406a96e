"""Sections about the time of runs: load and queues, hits and objectives, instances, and what it cost."""

from typing import Any

import numpy as np
import polars as pl

from replay.report.folders import Run
from replay.report.looks import Looks
from replay.report.parts import Column, Figure, Section, Table
from replay.report.spells import running, utilisation
from replay.report.style import BLUES, INK, PALETTE, Panels, finish, floats, log_axis, plain, plotly
from replay.report.windows import PHASES, by_tier, by_window

PHASE_COLOURS = {"waiting": PALETTE[1], "prefill": PALETTE[0], "decoding": PALETTE[2]}
MOST_INSTANCES = 32  # in the table on the page
BUSY = "share of each window in which an instance served somebody"
RATES = {"arrivals_per_s": "arrivals", "goodput_per_s": "goodput"}


def sections(looks: Looks) -> list[Section]:
    """Return the sections of what happened over time."""
    frames = {run.label: by_window(run.requests, looks.cuts[run.label], _usd_per_hour(run)) for run in looks.runs}
    every = pl.concat(
        [frame.select(pl.lit(label).alias("run"), pl.all()) for label, frame in frames.items()], how="diagonal"
    )
    return [_load(looks, every), _queues(looks, every), _quality(looks, every), _instances(looks), _cost(looks, every)]


def _usd_per_hour(run: Run) -> float | None:
    value = run.summary.get("usd_per_hour")
    return float(value) if isinstance(value, int | float) else None


def _windows(looks: Looks) -> str:
    return f"windows of {looks.window}"


def _steps(panels: Panels, panel: int, looks: Looks, every: pl.DataFrame, column: str) -> None:
    """Draw a column by window: one line a run."""
    for run in looks.runs:
        part = every.filter(pl.col("run") == run.label)
        colour, dash = (INK, "solid") if looks.alone else looks.styles[run.label]
        panels.line(
            panel, "" if looks.alone else run.label, *looks.steps(part, column), color=colour, dash=dash, shape="hv"
        )


def _load(looks: Looks, every: pl.DataFrame) -> Section:
    """Return arrivals and goodput: together of one run, apart of several."""
    says = f"Arrivals, and requests that finished and met their SLO, a second, in {_windows(looks)}."
    if looks.alone:
        panels = Panels(["requests a second"], panel_px=240)
        for (column, name), colour in zip(RATES.items(), (INK, PALETTE[2]), strict=True):
            panels.line(0, name, *looks.steps(every, column), color=colour, shape="hv")
    else:
        panels = Panels([f"{name} a second" for name in RATES.values()])
        for panel, column in enumerate(RATES):
            _steps(panels, panel, looks, every, column)
    for panel in range(panels.rows * panels.columns):
        panels.axes(panel, {"title_text": looks.time_title}, {"rangemode": "tozero"})
    return Section("Load and goodput", says, [Figure("load", panels.finish(), every)])


def _queues(looks: Looks, every: pl.DataFrame) -> Section:
    """Return how many requests waited, were prefilled and decoded: stacked of one run, a panel a phase of several."""
    says = (
        f"Requests in each phase, the mean over {_windows(looks)}, exact. Waiting is from the arrival to the first "
        "admission to a batch, prefill from there to the first token, decoding from there to the finish, handoff and "
        "preemptions included."
    )
    if looks.alone:
        panels = Panels(["requests in each phase", "most at once in a window"], columns=1)
        for name, colour in PHASE_COLOURS.items():
            panels.line(0, name, *looks.steps(every, name), color=colour, shape="hv", stackgroup="phases", width=0.8)
            panels.line(1, name, *looks.steps(every, f"most_{name}"), color=colour, shape="hv")
    else:
        panels = Panels(
            [f"requests {'in ' if name == 'prefill' else ''}{name}" for name in PHASES], columns=1, panel_px=190
        )
        for panel, name in enumerate(PHASES):
            _steps(panels, panel, looks, every, name)
    for panel in range(panels.rows):
        last = panel == panels.rows - 1
        panels.axes(panel, {"title_text": looks.time_title if last else None}, {"rangemode": "tozero"})
    return Section("Queues and batches", says, [Figure("phases", panels.finish())])


def _quality(looks: Looks, every: pl.DataFrame) -> Section:
    """Return hit rate and SLO attainment by window of arrival."""
    says = (
        f"Of the requests that arrived in each of the {_windows(looks)}: prompt tokens found cached, and requests that "
        "met their SLO."
    )
    panels = Panels(["hit rate", "SLO attainment"])
    _steps(panels, 0, looks, every, "hit_rate")
    tiers = by_tier(looks.runs[0].requests, looks.cuts[looks.runs[0].label])
    if looks.alone:
        for tier in looks.runs[0].tiers:
            part = tiers.filter(pl.col("tier") == tier)
            panels.line(1, tier, *looks.steps(part, "slo_attainment"), color=looks.tiers[tier], shape="hv", width=1.4)
    else:
        _steps(panels, 1, looks, every, "slo_attainment")
    for panel in (0, 1):
        panels.axes(
            panel, {"title_text": looks.time_title}, {"range": [-0.02, 1.04], "tickformat": ".0%", "dtick": 0.25}
        )
    return Section(
        "Hits and SLO over time", says, [Figure("hits and SLO", panels.finish(), tiers if looks.alone else None)]
    )


def _instances(looks: Looks) -> Section:
    """Return requests running on each instance by window, and how much of the time each served somebody."""
    parts: list[Figure | Table] = []
    used = {run.label: utilisation(running(run.requests, run.events), looks.cuts[run.label]) for run in looks.runs}
    used = {label: one for label, one in used.items() if one.table.height}
    most = max((float(one.running.max()) for one in used.values()), default=0.0)
    for label, one in used.items():
        whose = "" if looks.alone else f": {label}"
        parts.append(Figure(f"instances{whose}", _map(looks, label, one.running, (f"requests running{whose}", most))))
        if looks.alone:
            parts.append(Figure("busy over time", _map(looks, label, one.busy, (BUSY, 1.0))))
    if not used:
        return Section("Instances", "", [])
    exact = all(run.events is not None for run in looks.runs)
    how = (
        "read from the event log"
        if exact
        else "from the times of requests, handoffs and waits after a preemption counted in; exact with events=true"
    )
    says = (
        f"Requests in the batch of each instance, mean over {_windows(looks)} ({how}), and the share of the time in "
        "which an instance served somebody."
    )
    columns = [
        Column("instance", "instance"),
        Column("running_mean", "running\nmean"),
        Column("running_most", "most"),
        Column("busy_share", "serves\nsomebody"),
    ]
    named = columns if looks.alone else [Column("run", "run"), *columns]
    every = pl.concat(one.table.select(pl.lit(label).alias("run"), pl.all()) for label, one in used.items())
    return Section(
        "Instances", says, [*parts, _busy(looks, every), Table("instances", every, named, most=MOST_INSTANCES)]
    )


def _map(looks: Looks, label: str, values: np.ndarray, scale: tuple[str, float]) -> Any:
    """Draw a heat map of a value by instance and window of a run.

    values : float64 (instances, windows)
    scale  : title, value of the darkest colour
    """
    title, most = scale
    plot = plotly().graph_objects.Figure()
    plot.add_heatmap(
        x=looks.time(looks.cuts[label].edges_ps / 1e12),
        y=list(range(len(values))),
        z=floats(values.round(3)),
        colorscale=BLUES,
        zmin=0,
        zmax=most or 1.0,
        colorbar={"thickness": 12, "outlinewidth": 0},
        hovertemplate="instance %{y}, at %{x:.4~g}: %{z:.3~g}<extra></extra>",
    )
    finish(
        plot,
        min(520, 18 * max(6, len(values))),
        title={"text": f"<b>{plain(title)}</b>", "font": {"size": 12.5}},
        xaxis_title_text=looks.time_title,
        yaxis_title_text="instance",
    )
    plot.update_yaxes(dtick=max(1, len(values) // 16), showgrid=False, autorange="reversed")
    plot.update_xaxes(showgrid=False)
    return plot


def _busy(looks: Looks, every: pl.DataFrame) -> Figure:
    panels = Panels(["share of the time an instance serves somebody"], panel_px=200)
    for run in looks.runs:
        part = every.filter(pl.col("run") == run.label)
        colour = PALETTE[0] if looks.alone else looks.styles[run.label][0]
        panels.add(
            0,
            "" if looks.alone else run.label,
            "bar",
            x=part["instance"].to_list(),
            y=part["busy_share"].to_numpy(),
            marker={"color": colour},
        )
    panels.axes(
        0,
        {"title_text": "instance", "dtick": max(1, every["instance"].n_unique() // 32)},
        {"range": [0, 1.02], "tickformat": ".0%", "dtick": 0.25},
    )
    return Figure("busy share", panels.finish(barmode="group"))


def _cost(looks: Looks, every: pl.DataFrame) -> Section:
    """Return USD so far, and USD for a million output tokens by window."""
    if "usd_so_far" not in every.columns or not every["usd_so_far"].drop_nulls().len():
        return Section("Cost", "", [])
    says = (
        f"What the cluster has cost so far, and what a million output tokens of the requests that finished in each of "
        f"the {_windows(looks)} cost. The price an hour is that of all instances and of the fabric, busy or not."
    )
    panels = Panels(["USD so far", "USD for a million output tokens"])
    for run in looks.runs:
        part = every.filter(pl.col("run") == run.label)
        colour, dash = (INK, "solid") if looks.alone else looks.styles[run.label]
        ends = looks.time([part["window_s"][0], *(part["window_s"] + part["length_s"])])
        panels.line(0, "" if looks.alone else run.label, ends, [0.0, *part["usd_so_far"]], color=colour, dash=dash)
    _steps(panels, 1, looks, every, "usd_per_million_tokens")
    for panel in (0, 1):
        panels.axes(panel, {"title_text": looks.time_title}, {"rangemode": "tozero"})
    prices = every["usd_per_million_tokens"].drop_nulls().to_numpy()
    if len(prices) and prices.min() > 0 and prices.max() > 8 * np.median(prices):
        panels.axes(1, None, log_axis(float(prices.min()), float(prices.max())))
    return Section("Cost", says, [Figure("cost", panels.finish())])

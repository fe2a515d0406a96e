"""Sections about runs as a whole: their numbers, the objectives they met, and their latencies."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from replay.columns import COLUMNS, COMPARED, COMPARED_FABRIC, COMPARED_FAILURES, COMPARED_LIFE, COMPARED_TIERS
from replay.report.curves import cdf, heavy_tailed
from replay.report.folders import Run, Sweep
from replay.report.looks import ALL, Looks
from replay.report.parts import Column, Figure, Folded, Section, Table
from replay.report.style import PALE, Panels, finish, floats, log_axis, plain, plotly

LATENCIES = {"ttft_s": "TTFT (s)", "tpot_s": "TPOT (ms)", "e2e_s": "E2E (s)", "queue_s": "queue time (s)"}
FACTORS = {"tpot_s": 1e3}
COUNTS = (("requests", "requests"), ("rejected", "rejected"), ("preemptions", "preemp-\ntions"))
COSTS = (("usd_per_hour", "USD\nan hour"), ("usd_per_million_tokens", "USD for 1M\ntokens"))


def sections(looks: Looks, sweeps: Sequence[Sweep]) -> list[Section]:
    """Return the sections of runs: numbers, what varied, objectives, latencies."""
    whole = len(sweeps) == 1 and len(looks.runs) == len(sweeps[0].runs)  # one table says it all
    numbers = [swept(sweep) for sweep in sweeps] + ([] if whole and not looks.alone else [_numbers(looks)])
    return [*numbers, _attainment(looks), _latencies(looks)]


def configurations(looks: Looks) -> Section:
    """Return the section with the configuration and digest of each run, and where they differ."""
    rows = [
        {"run": run.label, "digest": run.digest, "requests": run.requests.height, "folder": run.folder.name}
        for run in looks.runs
    ]
    different = _different(looks.runs)
    tables = [Table("digests", pl.DataFrame(rows)), *([Table("what differs", different)] if different.height else [])]
    folded = [Folded(f"{run.label}: config.yaml", run.yaml) for run in looks.runs if run.yaml]
    says = "The digest hashes what happened to every request: equal histories, equal digests."
    return Section("Configuration", f"{says} The resolved configuration opens on a click.", [*tables, *folded])


def _different(runs: Sequence[Run]) -> pl.DataFrame:
    """Return the keys of configurations in which runs differ, a column a run; out_dir always does and is left out."""
    flat = [_flat(run.config) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one if key != "out_dir")
    rows = [
        {"key": key, **{run.label: one.get(key, "-") for run, one in zip(runs, flat, strict=True)}}
        for key in keys
        if len({one.get(key, "-") for one in flat}) > 1
    ]
    return pl.DataFrame(rows, dict.fromkeys(["key", *(run.label for run in runs)], pl.String))


def _flat(node: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(node, Mapping):
        return {prefix: str(node)}
    found: dict[str, str] = {}
    for key, value in node.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def told(run: Run) -> str:
    """Say what a run replayed and under which policies, as far as its configuration tells."""
    trace, policies = run.config.get("trace"), run.config.get("policy")
    parts = []
    if isinstance(trace, Mapping):
        name = str(trace["path"]).rpartition("/")[2] if trace.get("path") else f"synthetic ({trace.get('kind')})"
        parts.append(f"Trace {name}.")
    if isinstance(policies, Mapping):
        names = [f"{slot} {node.get('name')}" for slot, node in policies.items() if isinstance(node, Mapping)]
        parts.append(f"Policies: {', '.join(names)}.")
    return " ".join(parts)


def _headed(columns: Sequence[tuple[Any, ...]]) -> list[Column]:
    """Turn the columns of the terminal's tables into those of the page; a heading without a name has that before it."""
    found, stem = [], ""
    for heading, key, *_, factor in columns:
        above, _, below = heading.partition("\n")
        joined = above.endswith("-")
        stem = above or stem
        found.append(Column(key, f"{stem[:-1]}{below}" if joined else f"{stem}\n{below}".strip(), factor))
    return found


def _numbers(looks: Looks) -> Section:
    """Return the summary: a row a tier of one run, a row a run of several."""
    if looks.alone:
        run = looks.runs[0]
        tiers = run.tiers if len(run.tiers) > 1 else []
        rows = [
            _row("tier", name, run.summary, prefix)
            for name, prefix in [(ALL, ""), *((tier, f"{tier}.") for tier in tiers)]
        ]
        columns = [Column("tier", "tier"), *(Column(key, name) for key, name in COUNTS), *_headed(COLUMNS)]
        price = run.summary.get("usd_per_million_tokens")
        cost = (
            f" The cluster costs {run.summary['usd_per_hour']:,.2f} USD an hour, {price:,.2f} USD for a million output "
            f"tokens."
            if isinstance(price, int | float)
            else ""
        )
        return Section(
            "Summary",
            f"The metrics of the run, of all requests and by tier.{cost}",
            [Table("summary", pl.DataFrame(rows, infer_schema_length=None), columns)],
        )
    rows = [_row("run", run.label, run.summary, "") for run in looks.runs]
    columns = [Column("run", "run"), *(Column(key, name) for key, name in COUNTS), *_compared(rows)]
    return Section(
        "Summary",
        "The runs side by side; the best of a column is bold.",
        [Table("summary", pl.DataFrame(rows, infer_schema_length=None), columns, best=True)],
    )


def _row(what: str, name: str, summary: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    keys = [key for key in summary if "." not in key and isinstance(summary[key], int | float | None)]
    return {what: name, **{key: summary[prefix + key] for key in keys if prefix + key in summary}}


def _compared(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return the columns that compare runs, of those that any run has."""
    tables: list[Sequence[tuple[Any, ...]]] = [COMPARED]
    tables += [COMPARED_TIERS] if any(row.get("hit_rate_hbm") is not None for row in rows) else []
    tables += [COMPARED_FABRIC] if any(row.get("fabric_ports") is not None for row in rows) else []
    tables += [COMPARED_LIFE] if any(row.get("gpu_hours") is not None for row in rows) else []
    tables += [COMPARED_FAILURES] if any(row.get("instance_failures") for row in rows) else []
    seen = {column[1]: column for table in tables for column in table}
    columns = [*_headed(list(seen.values())), *(Column(key, name) for key, name in COSTS if key not in seen)]
    return [column for column in columns if any(row.get(column.key) is not None for row in rows)]


def swept(sweep: Sweep) -> Section:
    """Return the comparison of a whole multirun."""
    rows = sweep.rows.to_dicts()
    several = sweep.varying if len(sweep.varying) > 1 else ()
    columns = [Column("label", "\n".join(sweep.varying) if len(sweep.varying) == 1 else "run")]
    columns += [Column(name, name.replace("/", "/\n")) for name in several]
    columns += [Column(key, name) for key, name in COUNTS if key in sweep.rows.columns] + _compared(rows)
    failed = sweep.rows["error"].drop_nulls().len()
    says = f"Every run of the multirun {sweep.folder.name}; the best of a column is bold."
    if failed:
        says += f" {failed} failed, with the sentence in the last column."
        columns.append(Column("error", "error"))
    drawn = f" Figures below draw the first {len(sweep.runs)} of {len(rows)} runs; report.runs=N draws more."
    cut = len(sweep.runs) + failed < len(rows)
    return Section(
        f"Comparison {sweep.folder.name}",
        says + (drawn if cut else ""),
        [Table("comparison", sweep.rows, columns, best=True)],
    )


def _attainment(looks: Looks) -> Section:
    """Return bars of SLO attainment by tier."""
    rows = [
        {"run": run.label, "tier": tier, "slo_attainment": run.summary.get(f"{prefix}slo_attainment")}
        for run in looks.runs
        for tier, prefix in [(ALL, ""), *((tier, f"{tier}.") for tier in run.tiers)]
        if run.summary.get(f"{prefix}slo_attainment") is not None
    ]
    if not rows:
        return Section("SLO attainment", "", [])
    frame = pl.DataFrame(rows)
    plot = plotly().graph_objects.Figure()
    for run in looks.runs:
        part = frame.filter(pl.col("run") == run.label)
        colours = [looks.tiers.get(tier, PALE) for tier in part["tier"]] if looks.alone else looks.styles[run.label][0]
        shares = part["slo_attainment"].to_list()
        plot.add_bar(
            x=[plain(tier) for tier in part["tier"]],
            y=floats(shares),
            name=plain(run.label),
            marker={"color": colours},
            showlegend=not looks.alone,
            text=[f"{share:.1%}" for share in shares] if len(looks.runs) <= 4 else None,
            textposition="outside",
            cliponaxis=False,
        )
    finish(
        plot,
        190,
        barmode="group",
        bargap=0.35,
        yaxis_range=[0, 1.08],
        yaxis_tickformat=".0%",
        yaxis_title_text="requests that met their SLO",
        yaxis_dtick=0.25,
    )
    promised = _promised(looks.runs[0])
    says = (
        "Share of arrived requests that finished within every target of their tier; refused and failed ones are misses."
    )
    return Section("SLO attainment", says, [Figure("SLO attainment", plot, frame), *promised])


def _promised(run: Run) -> list[Table]:
    if run.slo is None:
        return []
    rows = [
        {
            "tier": tier.name,
            "ttft_s": tier.ttft_s,
            "tpot_s": tier.tpot_s,
            "itl_s": tier.itl_s,
            "e2e_s": tier.e2e_s,
            "weight": tier.weight,
        }
        for tier in run.slo.tiers
    ]
    kinds = {"tier": pl.String, **dict.fromkeys(("ttft_s", "tpot_s", "itl_s", "e2e_s", "weight"), pl.Float64)}
    columns = [
        Column("tier", "target of"),
        Column("ttft_s", "TTFT s"),
        Column("tpot_s", "TPOT ms", 1e3),
        Column("itl_s", "longest\ngap ms", 1e3),
        Column("e2e_s", "E2E s"),
        Column("weight", "weight"),
    ]
    return [Table("targets", pl.DataFrame(rows, kinds), columns)]


def _latencies(looks: Looks) -> Section:
    """Return the distribution functions of the latencies."""
    panels = Panels(list(LATENCIES.values()))
    frames = []
    for panel, metric in enumerate(LATENCIES):
        factor = FACTORS.get(metric, 1.0)
        everything = np.concatenate([_values(run.requests, metric) for run in looks.runs])
        heavy = heavy_tailed(everything)
        lowest = max(float(everything[everything > 0].min()), 1e-5 * float(everything.max())) if heavy else 0.0
        for run in looks.runs:
            for name, colour, dash, rows in looks.groups(run):
                points = cdf(_values(rows, metric))
                frames.append(points.select(pl.lit(metric).alias("metric"), pl.lit(name).alias("of"), "value", "share"))
                x, y = points["value"].to_numpy(), points["share"].to_numpy()
                if heavy and len(x):  # a logarithmic axis has no zero: the curve starts at the share of what is lower
                    low = x < lowest
                    x, y = x[~low], y[~low]
                    if low.any():
                        x, y = np.append(lowest, x), np.append(points["share"].to_numpy()[low].max(), y)
                panels.line(
                    panel,
                    name,
                    x * factor,
                    y,
                    color=colour,
                    dash=dash,
                    shape="hv",
                    hovertemplate=f"{plain(name)}: %{{y:.1%}} at most %{{x:.4~g}}<extra></extra>",
                )
        if looks.alone:
            _targets(panels, panel, metric, looks, float(everything.max(initial=0.0)))
        panels.axes(
            panel,
            log_axis(lowest, float(everything.max())) if heavy else {"rangemode": "tozero"},
            {"range": [0, 1.02], "tickformat": ".0%", "dtick": 0.25},
        )
    whose = "by tier; dashed verticals are targets of tiers, where they are in sight" if looks.alone else "by run"
    says = (
        f"Share of requests at or below a value, {whose}. Heavy-tailed axes are logarithmic. Queue time is from the "
        f"arrival to the first admission to a batch."
    )
    return Section("Latencies", says, [Figure("latencies", panels.finish(), pl.concat(frames))])


def _targets(panels: Panels, panel: int, metric: str, looks: Looks, most: float) -> None:
    """Draw the targets of tiers that are not far beyond what any request took."""
    run = looks.runs[0]
    for tier in run.slo.tiers if run.slo else ():
        target = getattr(tier, metric, None)
        if target is not None and tier.name in run.tiers and target <= 1.5 * most:
            at = target * FACTORS.get(metric, 1.0)
            panels.add(
                panel,
                "",
                "scatter",
                x=[at, at],
                y=[0, 1],
                mode="lines",
                hoverinfo="skip",
                line={"color": looks.tiers[tier.name], "width": 1, "dash": "dash"},
            )


def _values(rows: pl.DataFrame, metric: str) -> np.ndarray:
    return rows[metric].drop_nulls().to_numpy()

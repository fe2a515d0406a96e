"""Sections about a comparison: paired differences with their intervals, replicates, the worst tiers and windows."""

import polars as pl

from replay.errors import ConfigError
from replay.report.direction import way
from replay.report.folders import Study
from replay.report.names import shortened
from replay.report.parts import Column, Figure, Folded, Section, Table
from replay.report.style import BAD, GOOD, PALE, Panels, run_styles
from replay.table import HIGHER

NEEDED = ("metric", "first", "second", "mean_first", "mean_second", "difference", "low", "high")
VERDICTS = {"better": GOOD, "worse": BAD, "no difference shown": PALE, "differs": "#555555"}
MOST_PAIRS, MOST_PANELS, CONFIDENCE = 12, 12, 0.95


def sections(study: Study) -> list[Section]:
    """Return the sections of a comparison, of those tables that it has.

    raises : ConfigError if a column of its differences is missing
    """
    study, same = shortened(study)
    found = study.tables["differences"]
    missing = [name for name in NEEDED if name not in found.columns]
    if missing:
        raise ConfigError(
            f"'{study.folder / 'differences.parquet'}' must have the columns {', '.join(NEEDED)}, but "
            f"{missing[0]} is missing. Make it again with kvreplay compare."
        )
    texts = [Folded(name, text) for name, text in study.texts.items()]
    stated = study.summary.get("confidence")
    confidence = float(stated) if isinstance(stated, int | float) else CONFIDENCE
    rows = _judged(found, confidence)
    told = f"No difference shown: the adjusted p is {1.0 - confidence:.3g} or more.{same}"
    return [
        _forest(rows, told),
        _differences(rows),
        _replicates(study),
        _worst(study),
        Section("Configuration", "Files of the study; they open on a click.", texts),
    ]


def _judged(found: pl.DataFrame, confidence: float) -> pl.DataFrame:
    """Add what a difference says: percentage of the first mean with its interval, and the verdict.

    A difference is decided where its adjusted p is below 1 - confidence; without one, where its interval leaves out
    zero.
    """
    scale = 100.0 / pl.col("mean_first").abs()
    known = pl.col("mean_first") != 0
    percent = {f"{name}_percent": pl.when(known).then(pl.col(name) * scale) for name in ("difference", "low", "high")}
    decided = (pl.col("low") > 0) | (pl.col("high") < 0)
    if "p_adjusted" in found.columns:
        p = pl.col("p_adjusted").cast(pl.Float64)
        decided = pl.when(p.is_not_null()).then(p < 1.0 - confidence).otherwise(decided)
    ways = pl.Series("way", [way(metric) for metric in found["metric"]], pl.Int64)
    improved = (pl.col("difference") > 0) == (ways == HIGHER)
    verdict = (
        pl.when(~decided.fill_null(False))
        .then(pl.lit("no difference shown"))
        .when(ways.is_null())
        .then(pl.lit("differs"))
        .when(improved)
        .then(pl.lit("better"))
        .otherwise(pl.lit("worse"))
    )
    return found.with_columns(**percent, verdict=verdict)


def _forest(judged: pl.DataFrame, told: str) -> Section:
    """Return the forest plot: a panel a pair, a row a metric; `told` says how to read the verdicts."""
    rows = judged.drop_nulls(["difference_percent"])
    pairs = rows.select("first", "second").unique(maintain_order=True).rows()
    shown = pairs[:MOST_PAIRS]
    if not shown:
        return Section("Differences", "", [])
    metrics = rows["metric"].unique(maintain_order=True).to_list()
    panels = Panels(
        [f"{second} against {first}" for first, second in shown],
        columns=1 if len(shown) == 1 else 2,
        panel_px=60 + 26 * len(metrics),
        horizontal_spacing=0.2 if len(shown) > 1 else 0.0,
    )
    for panel, (first, second) in enumerate(shown):
        pair = rows.filter((pl.col("first") == first) & (pl.col("second") == second))
        for verdict, colour in VERDICTS.items():
            part = pair.filter(pl.col("verdict") == verdict)
            if not part.height:
                continue
            middle = part["difference_percent"]
            panels.add(
                panel,
                verdict,
                "scatter",
                x=middle.to_numpy(),
                y=part["metric"].to_list(),
                mode="markers",
                marker={"color": colour, "size": 8},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "thickness": 1.6,
                    "width": 4,
                    "color": colour,
                    "array": (part["high_percent"] - middle).fill_null(0.0).to_list(),
                    "arrayminus": (middle - part["low_percent"]).fill_null(0.0).to_list(),
                },
                hovertemplate="%{y}: %{x:.3~g} %<extra></extra>",
            )
        panels.axes(
            panel,
            {"zeroline": True, "ticksuffix": " %", "title_text": "difference, % of the first"},
            {"categoryorder": "array", "categoryarray": metrics[::-1], "range": [-0.6, len(metrics) - 0.4]},
        )
    plot = panels.finish()
    plot.update_xaxes(zeroline=True, zerolinecolor="#52606d", zerolinewidth=1)
    says = (
        "The second configuration less the first, paired by replicate, with confidence intervals, as a percentage of "
        f"the first. {told}"
    )
    if len(pairs) > len(shown):
        says += f" The first {len(shown)} of {len(pairs)} pairs are drawn; the table has all."
    return Section("Differences", says, [Figure("forest", plot, rows)])


def _differences(rows: pl.DataFrame) -> Section:
    headings = {
        "metric": "metric",
        "first": "first",
        "second": "second",
        "mean_first": "mean,\nfirst",
        "mean_second": "mean,\nsecond",
        "difference": "differ-\nence",
        "low": "low",
        "high": "high",
        "effect": "effect",
        "p_adjusted": "p\nadjusted",
        "replicates": "repli-\ncates",
        "verdict": "verdict",
        "note": "note",
    }
    noted = "note" in rows.columns and rows["note"].drop_nulls().len()
    columns = [
        Column(key, heading) for key, heading in headings.items() if key in rows.columns and (key != "note" or noted)
    ]
    return Section(
        "Table of differences",
        "In the units of the metrics; low and high are the ends of the interval.",
        [Table("differences", rows, columns)],
    )


def _replicates(study: Study) -> Section:
    """Return the values of every replicate, a panel a metric; a line follows a configuration over the replicates."""
    found = study.tables.get("replicates")
    if found is None or not {"configuration", "replicate"} <= set(found.columns):
        return Section("Replicates", "", [])
    compared = study.tables["differences"]["metric"].unique(maintain_order=True).to_list()
    metrics = [name for name in compared if name in found.columns and found[name].dtype.is_numeric()][:MOST_PANELS]
    if not metrics:
        return Section("Replicates", "", [])
    panels = Panels(metrics, columns=3, panel_px=190)
    styles = run_styles(found["configuration"].unique(maintain_order=True))
    for panel, metric in enumerate(metrics):
        for name, (colour, dash) in styles.items():
            part = found.filter(pl.col("configuration") == name).sort("replicate")
            panels.line(
                panel,
                name,
                part["replicate"].to_list(),
                part[metric].to_list(),
                color=colour,
                dash=dash,
                width=1.2,
                mode="lines+markers",
                marker={"size": 5, "color": colour},
            )
        panels.axes(panel, {"dtick": max(1, found["replicate"].n_unique() // 8)})
    says = (
        "Every configuration on every replicate, whose number is on the x axis: lines that rise and fall together are "
        "why differences are paired."
    )
    return Section("Replicates", says, [Figure("replicates", panels.finish(), found)])


def _worst(study: Study) -> Section:
    found = study.tables.get("worst")
    says = "Where each configuration does worst: the tier and the window of time with the worst value of a metric."
    return Section(
        "Worst tiers and windows", says, [] if found is None or not found.height else [Table("worst", found)]
    )

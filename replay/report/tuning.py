"""Sections about a tuning study: its history, the Pareto front, what mattered, and what it gained."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from replay.errors import ConfigError
from replay.metrics import HIGHER, LOWER, better
from replay.report.folders import Study
from replay.report.parallel import coordinates, short, spreads
from replay.report.parts import Column, Figure, Folded, Section, Table
from replay.report.style import BAD, GOOD, INK, PALE, PALETTE, Panels, log_axis

OBJECTIVE, PARAM, CONSTRAINT = "objective.", "param.", "constraint."
MOST_KEYS, MOST_PAIRS, MOST_POINTS, BEST = 12, 3, 2000, 10
STATES = {"kept": GOOD, "out of bounds": BAD, "pruned": PALE, "failed": "#555555"}


def sections(study: Study) -> list[Section]:
    """Return the sections of a tuning study, of those tables that it has.

    raises : ConfigError if its trials have no objective or no state
    """
    trials = _trials(study)
    objectives = ways(study, [name for name in trials.columns if name.startswith(OBJECTIVE)])
    keys = _by_importance(study, [name for name in trials.columns if name.startswith(PARAM)])
    front = pareto(trials, objectives)
    made = [_gained(study), _history(trials, objectives), _best(trials, objectives, keys, front)]
    made += [_front(trials, objectives, front), _importance(study)]
    made += [coordinates(trials, keys[:8], objectives, front), _slices(trials, objectives, keys[:MOST_KEYS])]
    best = [Folded(name, text) for name, text in study.texts.items()]
    return [*made, Section("Configuration", "Files of the study; they open on a click.", best)]


def _trials(study: Study) -> pl.DataFrame:
    trials = study.tables["trials"]
    path = study.folder / "trials.parquet"
    if not any(name.startswith(OBJECTIVE) for name in trials.columns) or not {"number", "state"} <= set(trials.columns):
        raise ConfigError(
            f"'{path}' must have columns number, state and objective.NAME, but has "
            f"{', '.join(trials.columns) or 'none'}. Make it again with kvreplay tune."
        )
    broken = [pl.col(name).fill_null(0.0) > 0.0 for name in trials.columns if name.startswith(CONSTRAINT)]
    state = pl.col("state").cast(pl.String).str.split(".").list.last().str.to_lowercase()
    done = state == "complete"
    fate = pl.when(~done & (state == "pruned")).then(pl.lit("pruned")).when(~done).then(pl.lit("failed"))
    fate = fate.when(pl.any_horizontal(broken) if broken else pl.lit(False)).then(pl.lit("out of bounds"))
    return trials.sort("number").with_columns(fate=fate.otherwise(pl.lit("kept")))


def ways(study: Study, objectives: Sequence[str]) -> dict[str, int]:
    """Return objective -> HIGHER or LOWER: as the study says, else as its name does."""
    told = {"maximize": HIGHER, "minimize": LOWER}
    names = {name: name.removeprefix(OBJECTIVE) for name in objectives}
    return {name: told.get(str(study.summary.get(f"direction.{key}")), better(key)) for name, key in names.items()}


def pareto(trials: pl.DataFrame, objectives: Mapping[str, int]) -> pl.Series:
    """Tell which trials no other one beats: at least as good in every objective and better in one.

    trials  : with the column fate; only those kept can be on the front
    returns : Boolean, a value a trial
    """
    good = trials.select(
        (pl.col("fate") == "kept") & pl.all_horizontal(pl.col(name).is_not_null() for name in objectives)
    )
    at = np.flatnonzero(good.to_series().to_numpy())
    values = np.stack([-way * trials[name].to_numpy()[at] for name, way in objectives.items()], axis=1)
    front = np.zeros(trials.height, bool)
    for row, value in zip(at, values, strict=True):  # all are lower-is-better here
        beaten = (values <= value).all(axis=1) & (values < value).any(axis=1)
        front[row] = not beaten.any()
    return pl.Series("front", front)


def _by_importance(study: Study, keys: list[str]) -> list[str]:
    """Order parameters by their importance, summed over objectives; those that do not vary are left out."""
    frame = study.tables["trials"]
    varying = [key for key in keys if frame[key].n_unique() > 1]
    found = study.tables.get("importance")
    if found is None or not {"key", "importance"} <= set(found.columns):
        return varying
    weight = dict(found.group_by("key").agg(pl.col("importance").sum()).iter_rows())
    return sorted(varying, key=lambda key: -float(weight.get(key.removeprefix(PARAM)) or 0.0))


def _gained(study: Study) -> Section:
    """Return what the study found beside the default: a row a metric, a column for each of them."""
    prefixes = ("held_out.default.", "held_out.tuned.", "default.", "tuned.", "held_out.")
    rows: dict[str, dict[str, Any]] = {}
    for key, value in study.summary.items():
        prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
        if prefix is not None and isinstance(value, int | float):
            rows.setdefault(key.removeprefix(prefix), {})[prefix.removesuffix(".")] = float(value)
    present = [
        name
        for name in ("default", "tuned", "held_out.default", "held_out.tuned", "held_out")
        if any(name in row for row in rows.values())
    ]
    kinds = {"metric": pl.String, **dict.fromkeys(present, pl.Float64)}
    frame = pl.DataFrame([{"metric": metric, **row} for metric, row in rows.items()], kinds)
    headings = {name: name.replace("held_out", "held out").replace(".", ",\n") for name in present}
    columns = [Column("metric", "metric"), *(Column(name, heading) for name, heading in headings.items())]
    says = "What the configuration found measures beside the default; held out are traces that the search never saw."
    return Section("Tuned against default", says, [Table("tuned", frame, columns)] if rows else [])


def _history(trials: pl.DataFrame, objectives: Mapping[str, int]) -> Section:
    """Return each objective by trial, with the best so far of the trials kept."""
    panels = Panels(
        [f"{short(name)} ({'higher' if objectives[name] == HIGHER else 'lower'} is better)" for name in objectives],
        columns=1 if len(objectives) == 1 else 2,
    )
    for panel, name in enumerate(objectives):
        for fate, colour in STATES.items():
            part = _thinned(trials.filter((pl.col("fate") == fate) & pl.col(name).is_not_null()))
            if part.height:
                panels.add(
                    panel,
                    fate,
                    "scatter",
                    x=part["number"].to_list(),
                    y=part[name].to_numpy(),
                    mode="markers",
                    marker={"color": colour, "size": 5, "opacity": 0.6},
                )
        kept = trials.filter((pl.col("fate") == "kept") & pl.col(name).is_not_null())
        if kept.height:
            so_far = (np.maximum if objectives[name] == HIGHER else np.minimum).accumulate(kept[name].to_numpy())
            turn = np.flatnonzero(np.diff(so_far, prepend=np.nan) != 0)
            x = [*kept["number"].gather(turn).to_list(), int(trials["number"].max())]  # type: ignore[arg-type]
            panels.line(panel, "best so far", x, [*so_far[turn], so_far[-1]], color=INK, shape="hv")
        panels.axes(panel, {"title_text": "trial", "rangemode": "tozero"})
    counts = trials["fate"].value_counts(sort=True)
    told = ", ".join(f"{count:,} {fate}" for fate, count in counts.iter_rows())
    return Section(
        "History",
        f"Every trial in the order of the search: {told}. The line is the best so far of those kept.",
        [Figure("tuning history", panels.finish(), trials)],
    )


def _best(trials: pl.DataFrame, objectives: Mapping[str, int], keys: Sequence[str], front: pl.Series) -> Section:
    """Return the best trials: by the one objective, or those on the front."""
    kept = trials.filter(front) if len(objectives) > 1 else trials.filter(pl.col("fate") == "kept")
    first = next(iter(objectives))
    kept = kept.sort(first, descending=objectives[first] == HIGHER, nulls_last=True).head(BEST)
    columns = [Column("number", "trial"), *(Column(name, name.partition(".")[2]) for name in (*objectives, *keys))]
    which = "The best trials" if len(objectives) == 1 else f"Trials on the Pareto front, by {short(first)}"
    kept = kept.select(column.key for column in columns)
    return Section(
        "Best trials",
        f"{which}, {kept.height} of {trials.height}: objectives, then the keys that were tuned.",
        [Table("best trials", kept, columns)] if kept.height else [],
    )


def _front(trials: pl.DataFrame, objectives: Mapping[str, int], front: pl.Series) -> Section:
    pairs = list(itertools.combinations(objectives, 2))[:MOST_PAIRS]
    if not pairs:
        return Section("Pareto front", "", [])
    panels = Panels(
        [f"{short(y)} against {short(x)}" for x, y in pairs], columns=len(pairs) if len(pairs) < 3 else 2, panel_px=330
    )
    for panel, (x, y) in enumerate(pairs):
        for fate, colour in STATES.items():
            part = _thinned(trials.filter((pl.col("fate") == fate) & ~front).drop_nulls([x, y]))
            if part.height:
                _points(panels, panel, fate, part, (x, y), {"color": colour, "size": 6, "opacity": 0.45})
        best = trials.filter(front).drop_nulls([x, y]).sort(x)
        _points(
            panels,
            panel,
            "Pareto front",
            best,
            (x, y),
            {"color": PALETTE[0], "size": 8},
            "lines+markers" if len(objectives) == 2 else "markers",
        )
        panels.axes(panel, {"title_text": short(x)}, {"title_text": short(y)})
    says = "Trials by two objectives. Of those on the front, none is beaten in every objective by another."
    return Section("Pareto front", says, [Figure("Pareto front", panels.finish(), trials.filter(front))])


def _points(
    panels: Panels,
    panel: int,
    name: str,
    part: pl.DataFrame,
    axes: tuple[str, str],
    marker: dict[str, Any],
    mode: str = "markers",
) -> None:
    line = {"line": {"color": marker["color"], "width": 1.4, "shape": "linear"}} if "lines" in mode else {}
    panels.add(
        panel,
        name,
        "scatter",
        x=part[axes[0]].to_numpy(),
        y=part[axes[1]].to_numpy(),
        mode=mode,
        marker=marker,
        text=[f"trial {number}" for number in part["number"]],
        hovertemplate="%{text}: %{x:.4~g}, %{y:.4~g}<extra></extra>",
        **line,
    )


def _importance(study: Study) -> Section:
    found = study.tables.get("importance")
    if found is None or not found.height or not {"key", "objective", "importance"} <= set(found.columns):
        return Section("Importance", "", [])
    totals = found.group_by("key").agg(pl.col("importance").sum()).sort("importance", "key", descending=[True, False])
    order = totals["key"].head(20).to_list()
    panels = Panels(["share of an objective's variance that a key explains"], panel_px=max(180, 34 + 26 * len(order)))
    for objective, colour in zip(found["objective"].unique(maintain_order=True), PALETTE * 9, strict=False):
        part = found.filter((pl.col("objective") == objective) & pl.col("key").is_in(order))
        panels.add(
            0,
            objective,
            "bar",
            x=part["importance"].to_numpy(),
            y=part["key"].to_list(),
            orientation="h",
            marker={"color": colour},
        )
    panels.axes(0, {"rangemode": "tozero"}, {"categoryorder": "array", "categoryarray": order[::-1]})
    says = "How much each tuned key mattered to each objective; the keys that mattered most are on top."
    return Section("Importance", says, [Figure("importance", panels.finish(barmode="group", bargap=0.3), found)])


def _slices(trials: pl.DataFrame, objectives: Mapping[str, int], keys: Sequence[str]) -> Section:
    """Return the first objective against each key."""
    if not keys:
        return Section("Slices", "", [])
    first = next(iter(objectives))
    panels = Panels([short(key) for key in keys], columns=3, panel_px=200)
    for panel, key in enumerate(keys):
        numeric = trials[key].dtype.is_numeric()
        for fate in ("kept", "out of bounds"):
            part = _thinned(trials.filter(pl.col("fate") == fate).drop_nulls([key, first]))
            if part.height:
                x = part[key].to_numpy() if numeric else [str(value) for value in part[key]]
                panels.add(
                    panel,
                    fate,
                    "scatter",
                    x=x,
                    y=part[first].to_numpy(),
                    mode="markers",
                    marker={"color": STATES[fate], "size": 4, "opacity": 0.55},
                )
        values = trials[key].drop_nulls().to_numpy()
        wide = numeric and spreads(values)
        panels.axes(
            panel,
            log_axis(float(values.min()), float(values.max()))
            if wide
            else {"type": "linear" if numeric else "category", "nticks": 5},
            {"title_text": short(first) if panel % 3 == 0 else None},
        )
    return Section(
        "Slices",
        f"{short(first)} of each trial against each key, those that mattered most first.",
        [Figure("slices", panels.finish())],
    )


def _thinned(part: pl.DataFrame) -> pl.DataFrame:
    """Keep every so many rows of a long table."""
    return part.gather_every(max(1, -(-part.height // MOST_POINTS)))

"""How far replayed requests are from recorded ones: signed relative errors of means and percentiles."""

from collections.abc import Mapping
from typing import Any

import polars as pl
from rich.table import Table

from replay.metrics import QUANTILES, quantile_of
from replay.table import number, plain_table

COMPARED = {"ttft_s": ("TTFT", "s", 1.0), "tpot_s": ("TPOT", "ms", 1e3), "e2e_s": ("E2E", "s", 1.0)}
STATISTICS = ("mean", *QUANTILES)


def statistics(frame: pl.DataFrame) -> dict[str, float | None]:
    """Return <metric>_<statistic> of the metrics that a frame knows: mean, p50, p90, p99 of TTFT, TPOT and E2E."""
    found: dict[str, float | None] = {}
    for metric in COMPARED:
        known = frame.select(pl.col(metric).drop_nulls())
        for name in STATISTICS:
            reduced = pl.col(metric).mean() if name == "mean" else quantile_of(metric, name)
            found[f"{metric}_{name}"] = known.select(reduced).item()
    return found


def errors(recorded: pl.DataFrame, replayed: Mapping[str, pl.DataFrame]) -> list[dict[str, Any]]:
    """Compare replays with a recording, request sets being the same.

    replayed : label -> frame of as many rows, in the same order
    returns  : rows of metric, statistic, recorded, <label> and <label>_error = replayed / recorded - 1; a request
               counts in a metric where its recording knows it
    """
    rows = []
    known = {metric: recorded[metric].is_not_null() for metric in COMPARED}
    found = {label: statistics(frame.with_columns(**{
        metric: pl.when(known[metric]).then(pl.col(metric)) for metric in COMPARED})) for label, frame in
        replayed.items()}  # fmt: skip
    for key, value in statistics(recorded).items():
        metric, _, name = key.rpartition("_")
        row: dict[str, Any] = {"metric": metric, "statistic": name, "recorded": value}
        for label, numbers in found.items():
            row[label] = numbers[key]
            row[f"{label}_error"] = _relative(numbers[key], value)
        rows.append(row)
    return [row for row in rows if row["recorded"] is not None]


def errors_table(rows: list[dict[str, Any]], labels: list[str]) -> Table:
    """Make the table of errors: a row a metric and statistic."""
    made = plain_table("", "", "recorded", *(part for label in labels for part in (label, "error %")), left=2)
    before = None
    for row in rows:
        name, unit, factor = COMPARED[row["metric"]]
        cells = [number(row["recorded"], factor)]
        for label in labels:
            error = row[f"{label}_error"]
            cells += [number(row[label], factor), "-" if error is None else f"{100 * error:+.1f}"]
        made.add_row("" if row["metric"] == before else f"{name} {unit}", row["statistic"], *cells)
        before = row["metric"]
    return made


def _relative(value: float | None, recorded: float | None) -> float | None:
    return None if value is None or not recorded else value / recorded - 1.0

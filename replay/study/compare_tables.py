"""The tables of a comparison: means, differences, and where each configuration is worst."""

from collections.abc import Sequence
from typing import Any

import polars as pl
from rich.table import Table
from rich.text import Text

from replay.study.differences import Plan, verdict
from replay.study.statistics import size
from replay.table import number, plain_table

STYLES = {"better": "green", "worse": "red"}


def means_table(found: pl.DataFrame, plan: Plan) -> Table:
    """Make the table of means with intervals, a row a configuration; found as `differences.means` returns."""
    key, names = short(plan.labels)
    made = plain_table("", key, *plan.metrics, left=2)
    for place, label in enumerate(plan.labels):
        own = {row["metric"]: row for row in found.filter(pl.col("configuration") == label).to_dicts()}
        name = f"{names[label]} (baseline)" if place == plan.baseline else names[label]
        made.add_row(str(place), name, *(_mean(own[metric]) for metric in plan.metrics))
    return made


def differences_table(changes: pl.DataFrame, plan: Plan) -> Table:
    """Make the table of paired differences; changes as `differences.differences` returns."""
    names = short(plan.labels)[1]
    share = f"{100 * plan.confidence:g} %"
    made = plain_table("metric", "second - first" if plan.all_pairs else f"against {names[plan.labels[plan.baseline]]}",
                  "difference", share, "change", "effect", "p Holm", "", left=2)  # fmt: skip
    for row in changes.iter_rows(named=True):
        told = verdict(row, plan.confidence)
        name = f"{names[row['second']]} - {names[row['first']]}" if plan.all_pairs else names[row["second"]]
        cells = ["", "", "", "", ""] if row["difference"] is None else _numbers(row)
        made.add_row(row["metric"], name, *cells, Text(told, STYLES.get(told, "")))
    return made


def worst_table(found: pl.DataFrame, labels: Sequence[str]) -> Table:
    """Make the table of worst tiers and windows; found as `worst.worst` returns."""
    key, names = short(labels)
    made = plain_table(key, "SLO met\nin its worst tier", "\nin its worst window",
                  "TTFT s p99\nin its worst tier", "\nin its worst window")  # fmt: skip
    places = [(metric, what) for metric in ("slo_attainment", "ttft_s_p99") for what in ("tier", "window")]
    for label in labels:
        own = {(row["metric"], row["what"]): row for row in found.filter(pl.col("configuration") == label).to_dicts()}
        told = [f"{number(own[place]['value'])} ({own[place]['name']})" if place in own else "too few requests"
                for place in places]  # fmt: skip
        made.add_row(names[label], *told)
    return made


def short(labels: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return a heading and a name for each label: the value alone where all differ in one key only."""
    keys = {label.partition("=")[0] for label in labels}
    if len(keys) == 1 and not any(" " in label for label in labels):
        return next(iter(keys)), {label: label.partition("=")[2] for label in labels}
    return "configuration", {label: label for label in labels}


def _mean(row: dict[str, Any]) -> str:
    if row["low"] is None:
        return f"{number(row['mean'])} *" if row["mean"] is not None else "-"
    return f"{number(row['mean'])} [{number(row['low'])}, {number(row['high'])}]"


def _numbers(row: dict[str, Any]) -> list[str]:
    relative = "" if row["relative"] is None else f"{_signed(row['relative'])} %"
    effect = "" if row["effect"] is None else f"{row['effect']:+.2f} {size(row['effect'])}"
    p = row["p_adjusted"]
    return [_signed(row["difference"]), f"[{_signed(row['low'])}, {_signed(row['high'])}]", relative, effect,
            "< .001" if p < 0.001 else f"{p:.3f}"]  # fmt: skip


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value)

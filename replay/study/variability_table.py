"""Tables of the study of variability: mean waits beside theory, and in which part of a request the rest went."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from rich.table import Table

from replay.study.kingman import bound_s, gamma_exponential_s, kingman_s
from replay.study.workloads import EQUAL
from replay.table import number, plain_table

PARTS = ("queue_s", "prefill_s", "decode_s")


def rows_of(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Reduce replicates to a row for each workload: means, standard errors, theory, and what exceeds training.

    returns : numbers of the replicates, <part>_error their standard errors, kingman_s, bound_s, exact_s (None where no
              closed form is known, or the cluster is not one server), more_<part> what it is more than in training
    """
    frame = pl.DataFrame([{**row, **theory(row)} for row in rows], infer_schema_length=None)
    frame = frame.with_columns(pl.col(pl.Null).cast(pl.Float64))  # numbers that no replicate has
    means = [name for name, kind in frame.schema.items() if kind.is_numeric() and name not in ("replicate", "batch")]
    errors = [(pl.col(name).std() / pl.len().sqrt()).alias(f"{name}_error") for name in (*PARTS, "e2e_s")]
    first = [pl.col(name).first() for name in ("work", "batch", "equal_gaps", "station")]
    table = frame.group_by("workload", maintain_order=True).agg(*first, pl.col(*means).mean(), *errors)
    return table.with_columns((pl.col(name) - pl.col(name).first()).alias(f"more_{name}") for name in (*PARTS, "e2e_s"))


def theory(row: Mapping[str, Any]) -> dict[str, float | None]:
    """Return what theory says of one replicate, at its own moments."""
    # Work that differs makes a cluster slower, so that it may be offered more than it can serve.
    if row["load"] >= 1.0:
        return {"kingman_s": None, "bound_s": None, "exact_s": None}
    moments = (row["load"], row["gaps_scv"], row["work_scv"], row["service_s"])
    return {"kingman_s": kingman_s(*moments), "bound_s": bound_s(*moments), "exact_s": _exact_s(row)}


def _exact_s(row: Mapping[str, Any]) -> float | None:
    load, mean_s = row["load"], row["service_s"]
    if not row["station"]:
        return None
    if row["equal_gaps"] and row["work"] == EQUAL:
        return float((row["batch"] - 1) / 2 * mean_s)
    if row["poisson"]:
        return kingman_s(load, 1.0, row["work_scv"], mean_s)
    if row["equal_gaps"] and row["work"] == "exponential":
        return gamma_exponential_s(load, 0.0, mean_s)
    return None


def waits_table(table: pl.DataFrame) -> Table:
    """Make the table of mean waits beside theory; of a cluster that is more than one server, beside Kingman's only."""
    known = {"exact": "exact_s", "bound": "bound_s"} if table["station"].all() else {}
    cells = {"rate /s": "rate_per_s", "ca2": "gaps_scv", "cs2": "work_scv", "load": "load", "wait s": "queue_s",
             "+-": "queue_s_error", "Kingman": "kingman_s", **known}  # fmt: skip
    made = plain_table("workload", *cells, gap=1)
    for row in table.iter_rows(named=True):
        made.add_row(row["workload"], *(number(row[name]) for name in cells.values()))
    return made


def parts_table(table: pl.DataFrame) -> Table:
    """Make the table of what each workload takes more than training, by part, and of what it occupied."""
    made = plain_table("workload", "E2E s\nmean", "more than training\nin queue s", "\nprefill", "\ndecode",
                       "running\nmean", "\np99", "KV\nmean", "\np99", "ITL ms\nmean", "\np99", "pre-\nempted",
                       gap=1)  # fmt: skip
    for row in table.iter_rows(named=True):
        more = [number(row[f"more_{name}"]) for name in PARTS]
        held = [number(row[name]) for name in ("running_mean", "running_p99", "kv_mean", "kv_p99")]
        gaps = [number(row[name], 1e3) for name in ("itl_s_mean", "itl_s_p99")]
        made.add_row(row["workload"], number(row["e2e_s"]), *more, *held, *gaps, number(row["preemptions"]))
    return made

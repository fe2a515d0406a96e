"""From replicates of several configurations to means and paired differences, a row for each metric and pair."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from replay.metrics import HIGHER, QUANTILES, better
from replay.study.statistics import FEWEST, holm, interval, least_requests, paired

IDENTICAL, SAME = "identical", "the same difference in every replicate"
MEANS = {"configuration": pl.String, "metric": pl.String, "mean": pl.Float64, "low": pl.Float64, "high": pl.Float64,
         "replicates": pl.Int64, "note": pl.String}  # fmt: skip
DIFFERENCES = {"metric": pl.String, "first": pl.String, "second": pl.String, "mean_first": pl.Float64,
               "mean_second": pl.Float64, "difference": pl.Float64, "low": pl.Float64, "high": pl.Float64,
               "relative": pl.Float64, "effect": pl.Float64, "p": pl.Float64, "p_wilcoxon": pl.Float64,
               "p_adjusted": pl.Float64, "replicates": pl.Int64, "note": pl.String}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What is compared with what, and how sure.

    metrics   : keys of a summary
    labels    : configurations, in order
    baseline  : index into labels
    all_pairs : every pair, not only those with the baseline
    resampled : as in `replay.study.statistics`
    """

    metrics: tuple[str, ...]
    labels: tuple[str, ...]
    baseline: int = 0
    all_pairs: bool = False
    confidence: float = 0.95
    resampled: bool = False

    def pairs(self) -> list[tuple[str, str]]:
        """Return the pairs (first, second); the baseline is always first."""
        base = self.labels[self.baseline]
        ordered = [base, *(label for label in self.labels if label != base)]
        return list(itertools.combinations(ordered, 2)) if self.all_pairs else [(base, other) for other in ordered[1:]]


def means(replicates: pl.DataFrame, plan: Plan) -> pl.DataFrame:
    """Return the mean of each metric of each configuration with its interval: columns as MEANS.

    replicates : a row a configuration and replicate: configuration, replicate, the metrics of the plan, and the counts
                 that `counted_by` names
    """
    rows = []
    for label, metric in itertools.product(plan.labels, plan.metrics):
        own = replicates.filter(pl.col("configuration") == label)
        row: dict[str, Any] = {"configuration": label, "metric": metric, "mean": own[metric].mean(),
                               "replicates": own.height, "note": why_not(own, metric, plan.confidence)}  # fmt: skip
        if row["note"] is None:
            found = interval(own[metric].to_numpy(), plan.confidence, plan.resampled)
            row |= {"low": found.low, "high": found.high}
        rows.append(row)
    return pl.DataFrame(rows, schema=MEANS)


def differences(replicates: pl.DataFrame, plan: Plan) -> pl.DataFrame:
    """Return how configurations differ, second - first, paired by replicate: columns as DIFFERENCES.

    relative is a percentage of mean_first; p_adjusted is Holm's over all rows that have a p. A row whose metric is
    undefined somewhere, or rests on too few requests, has its means and a note.
    """
    rows = [_row(replicates, metric, pair, plan) for metric in plan.metrics for pair in plan.pairs()]
    tested = [row for row in rows if row.get("p") is not None]
    for row, adjusted in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_adjusted"] = adjusted
    return pl.DataFrame(rows, schema=DIFFERENCES)


def _row(replicates: pl.DataFrame, metric: str, pair: tuple[str, str], plan: Plan) -> dict[str, Any]:
    first, second = (replicates.filter(pl.col("configuration") == label).sort("replicate") for label in pair)
    before, after = first[metric].mean(), second[metric].mean()
    row: dict[str, Any] = {"metric": metric, "first": pair[0], "second": pair[1], "mean_first": before,
                           "mean_second": after, "replicates": first.height}  # fmt: skip
    both = pl.concat([first, second], how="vertical_relaxed")
    if (note := why_not(both, metric, plan.confidence)) is not None:
        return row | {"note": note}
    found = paired(first[metric].to_numpy(), second[metric].to_numpy(), plan.confidence, plan.resampled)
    change = found.difference
    note = (SAME if change.mean else IDENTICAL) if found.identical else None
    relative = 100.0 * change.mean / abs(before) if isinstance(before, float) and before else None
    return row | {"difference": change.mean, "low": change.low, "high": change.high, "relative": relative,
                  "effect": found.effect, "p": found.p, "p_wilcoxon": found.p_wilcoxon, "note": note}  # fmt: skip


def why_not(rows: pl.DataFrame, metric: str, confidence: float) -> str | None:
    """Say why no interval of a metric can be given from these replicates; None where one can."""
    without = rows.filter(pl.col(metric).is_null())
    if without.height:
        return f"undefined in {len(set(without['replicate']))} of {len(set(rows['replicate']))} replicates"
    if (quantile := quantile_in(metric)) is not None:
        least, count = least_requests(quantile, confidence), rows[counted_by(metric)].min()
        if isinstance(count, int | float) and count < least:
            return f"too few requests: {int(count)} < {least}"
    return None


def quantile_in(metric: str) -> float | None:
    """Return the quantile that the name of a metric ends with, None if it is none."""
    found = re.search(r"_(p\d+)$", metric)
    return QUANTILES.get(found[1]) if found else None


def counted_by(metric: str) -> str:
    """Return the key of the count of finished requests behind a metric, that of its tier where it has one."""
    tier = metric.rpartition(".")[0]
    return f"{tier}.finished" if tier else "finished"


def verdict(row: dict[str, Any], confidence: float) -> str:
    """Say whether second is better or worse than first, as far as a row of `differences` shows."""
    if row["p_adjusted"] is None or row["note"] == IDENTICAL:
        return row["note"]
    if row["p_adjusted"] >= 1.0 - confidence:
        return "no difference shown"
    return "better" if (row["difference"] > 0) == (better(row["metric"]) == HIGHER) else "worse"


def cautions(replicates: int) -> Iterator[str]:
    """Yield the sentences that a reader of intervals from so few replicates should see."""
    if replicates < FEWEST:
        yield (f"intervals from {replicates} replicates rest on normal differences that so few cannot show: take "
               f"{FEWEST} or more")  # fmt: skip


def flat(found: pl.DataFrame, changes: pl.DataFrame, plan: Plan) -> dict[str, float | int | None]:
    """Return the numbers of a comparison under flat names, as summary.json has them."""
    first = found["replicates"][0]
    numbers: dict[str, float | int | None] = {"configurations": len(plan.labels), "replicates": first,
                                              "confidence": plan.confidence}  # fmt: skip
    for row in found.iter_rows(named=True):
        name = f"{row['configuration']}: {row['metric']}"
        numbers |= {name: row["mean"], f"{name}_low": row["low"], f"{name}_high": row["high"]}
    for row in changes.iter_rows(named=True):
        name = f"{row['second']} - {row['first']}: {row['metric']}"
        keys = ("low", "high", "relative", "effect", "p_adjusted")
        numbers |= {name: row["difference"]} | {f"{name}_{key}": row[key] for key in keys}
    return numbers


def frame(rows: Sequence[dict[str, Any]], plan: Plan) -> pl.DataFrame:
    """Return the replicates as a table: configuration, replicate, counts of requests, metrics.

    rows : with None where a metric is undefined
    """
    counts = dict.fromkeys(["requests", "finished", *(counted_by(metric) for metric in plan.metrics)])
    schema: dict[str, Any] = {"configuration": pl.String, "replicate": pl.Int64} | dict.fromkeys(counts, pl.Int64)
    return pl.DataFrame([dict(row) for row in rows], schema=schema | dict.fromkeys(plan.metrics, pl.Float64))

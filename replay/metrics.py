"""Every metric of the glossary, defined once as a Polars expression over the rows of `requests`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from replay.engine.schema import BINS_PER_OCTAVE
from replay.slo import Slo

PS_PER_S = 1e12
QUANTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99}
Value = float | int | str | None


# A column, because Polars multiplies by the rounded reciprocal of a single number: 1e11 ps would not be 0.1 s.
_PS_PER_S = pl.int_range(pl.len()) * 0 + 10**12


def _between(end: str, start: str) -> pl.Expr:
    return (pl.col(end) - pl.col(start)) / _PS_PER_S


LAST_TOKEN = "last_token_ps"  # only where stages come beside or after the decoder: else it is finish_ps


def _tpot(last: str) -> pl.Expr:
    return pl.when(pl.col("output_tokens") > 1).then(_between(last, "first_token_ps") / (pl.col("output_tokens") - 1))


# Column of `requests` -> its definition from the exact picosecond columns; null where an event did not happen.
COLUMNS: dict[str, pl.Expr] = {
    "arrival_s": pl.col("arrival_ps") / _PS_PER_S,
    "queue_s": _between("scheduled_ps", "arrival_ps"),
    "ttft_s": _between("first_token_ps", "arrival_ps"),
    "tpot_s": _tpot("finish_ps"),
    "max_itl_s": pl.col("max_itl_ps") / _PS_PER_S,
    "e2e_s": _between("finish_ps", "arrival_ps"),
}
PER_REQUEST = ("ttft_s", "tpot_s", "e2e_s", "queue_s")
LONGEST_GAPS = "itl_top10_s"  # only where the gaps were kept
METRICS = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s")
LOWER, HIGHER = -1, 1
# What should be high. All else is a time, a cost, or a count of what nobody wants.
WANTED = (
    "hit_rate", "hit_rate_hbm", "hit_rate_dram", "hit_rate_disk", "slo_attainment", "weighted_attainment",
    "goodput_per_s", "output_tokens_per_s", "requests_per_s", "finished", "hidden_share", "handoff_hidden_share",
    "met", "rate_scale", "requests_per_s_per_gpu", "requests_per_usd", "loads_used", "revenue_usd", "margin_usd",
    "margin", "margin_of_cost", "prediction_tau", "bisection_gb_per_s", "availability", "served_share",
    "tokens_per_iteration", "accepted_per_iteration", "acceptance_rate",
)  # fmt: skip


def _total(column: str, where: pl.Expr) -> pl.Expr:
    """Sum tokens in 64 bits: Polars keeps the 32 of the column, which a few million prompts overflow."""
    return pl.col(column).cast(pl.Int64).filter(where).sum()


FINISHED = pl.col("status") == "finished"
SCHEDULED = pl.col("scheduled_ps").is_not_null()
# Requests that count in attainment: all but those that an interrupted replay never reached. The later turns of a
# refused session count too, or refusing would improve the score.
ARRIVED = pl.col("arrival_ps").is_not_null() | pl.col("status").is_in(["rejected", "failed"])

HIT_RATE = _total("hit_tokens", SCHEDULED) / _total("prompt_tokens", SCHEDULED)
SLO_ATTAINMENT = (pl.col("slo_met") & ARRIVED).sum() / ARRIVED.sum()
_WEIGHT = pl.col("weight").filter(ARRIVED)
WEIGHTED_ATTAINMENT = (_WEIGHT * pl.col("slo_met").filter(ARRIVED)).sum() / _WEIGHT.sum()
# Trace time: from the first arrival to the last finish, of all tiers together, so that goodputs of tiers add up.
SPAN_S = (pl.col("finish_ps").max() - pl.col("arrival_ps").min()) / PS_PER_S


def columns(there: Sequence[str]) -> dict[str, pl.Expr]:
    """Return COLUMNS for rows with these columns: TPOT ends with the last token where that is known to be another."""
    return COLUMNS | ({"tpot_s": _tpot(LAST_TOKEN)} if LAST_TOKEN in there else {})


def itl_mean_s(last: str = "finish_ps") -> pl.Expr:
    """Return the token-weighted mean of every gap of the finished requests, exact; last: their last token."""
    gaps = _total("output_tokens", FINISHED) - FINISHED.sum()
    return (pl.col(last) - pl.col("first_token_ps")).filter(FINISHED).sum() / gaps / PS_PER_S


def better(name: str) -> int:
    """Return which way a number of the summary is better: HIGHER or LOWER.

    name : key of the summary; a tier before it, as in gold.ttft_s_p99, makes no difference
    """
    return HIGHER if name.rpartition(".")[2] in WANTED else LOWER


def quantile_of(column: str, name: str) -> pl.Expr:
    """Return the quantile of a column of `requests` that stands in a summary as <column>_<name>; name in QUANTILES."""
    return pl.col(column).quantile(QUANTILES[name], "linear")


def summary(requests: pl.DataFrame, histogram: np.ndarray, slo: Slo, totals: Mapping[str, Value]) -> dict[str, Value]:
    """Reduce the rows of a replay to a flat name -> number, overall and with a `<tier>.` prefix.

    requests  : one row a request: the picosecond columns, those of `COLUMNS`, and slo_met
    histogram : int64 (num_tiers, BINS), gaps between tokens, read only
    slo       : tiers of the histogram's rows
    totals    : events [count], kernel_s [s], digest [hex], and what else counts for the whole run
    returns   : keys of DESIGN section 5; None where a metric is undefined (no finished request), never NaN
    source    : DistServe (Zhong et al., OSDI 2024) for goodput and attainment
    """
    weights = {tier.name: tier.weight for tier in slo.tiers}
    weight = pl.col("tier").replace_strict(weights, default=1.0, return_dtype=pl.Float64)
    rows = requests.lazy().with_columns(weight=weight)
    span_s = requests.select(SPAN_S).item()
    found = _reductions(PER_REQUEST if LONGEST_GAPS not in requests.columns else (*PER_REQUEST, LONGEST_GAPS))
    if LAST_TOKEN in requests.columns:
        found["itl_s_mean"] = itl_mean_s(LAST_TOKEN)
    overall = rows.select(**found).collect().row(0, named=True)
    tiers = {row["tier"]: row for row in rows.group_by("tier").agg(**found).collect().to_dicts()}
    result: dict[str, Value] = {**_section(overall, histogram.sum(axis=0), span_s)}
    kernel_s, arrived = totals["kernel_s"], overall["arrived"]
    result |= {"span_s": span_s, "events": totals["events"], "kernel_s": kernel_s, "digest": totals["digest"]}
    result |= {name: value for name, value in totals.items() if name not in result}
    result["requests_per_s"] = arrived / kernel_s if isinstance(kernel_s, float) and kernel_s > 0 else None
    for index, name in enumerate(slo.names):
        section = _section(tiers.get(name, {}), histogram[index], span_s)
        result |= {f"{name}.{key}": value for key, value in section.items()}
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in result.items()}


def prefill_work(instances: np.ndarray) -> dict[str, Value]:
    """Return what the prefill-capable instances did: prompt tokens computed, and seconds that they were busy.

    instances : INSTANCE rows of these, read only
    """
    return {"prefill_tokens": int(instances["prefill_done_tokens"].sum()),
            "prefill_busy_s": float(instances["busy_ps"].astype(np.float64).sum() / PS_PER_S)}  # fmt: skip


def gap_quantile_s(histogram: np.ndarray, quantile: float) -> float | None:
    """Return a quantile of the gaps between tokens from their histogram.

    histogram : int64 (BINS,), 64 bins an octave of picoseconds: bin b starts at 2^(b // 64) * (1 + (b % 64) / 64) ps
    returns   : the lower edge of the bin that holds the gap of rank ceil(quantile * count) [s]: at most the exact
                quantile, and more than 64/65 of it; 0 of the first bin, where tokens of one iteration are; None
                without gaps
    """
    counts = np.cumsum(histogram)
    if counts[-1] == 0:
        return None
    index = int(np.searchsorted(counts, max(1, math.ceil(quantile * int(counts[-1])))))
    if index == 0:
        return 0.0
    octave, step = divmod(index, BINS_PER_OCTAVE)
    return float(2.0**octave * (1 + step / BINS_PER_OCTAVE) / PS_PER_S)


def longest_gaps_s(gaps: np.ndarray, first: np.ndarray, output_tokens: np.ndarray) -> np.ndarray:
    """Return the mean of each request's longest tenth of gaps between tokens.

    gaps    : int64 [ps], every gap of every request, read only
    first   : int64 (requests,), where a request's gaps begin; it has output_tokens - 1 of them
    returns : float64 (requests,) [s]: the mean of the ceil(count / 10) longest; NaN for one token
    source  : what Mooncake (Qin et al., FAST 2025, evaluation) calls a request's TBT
    """
    means = np.full(len(first), np.nan)
    for r in np.flatnonzero(output_tokens > 1):
        own = gaps[first[r] : first[r] + output_tokens[r] - 1]
        longest = -(-len(own) // 10)
        means[r] = np.partition(own, len(own) - longest)[len(own) - longest :].mean() / PS_PER_S
    return means


def _reductions(per_request: Sequence[str]) -> dict[str, pl.Expr]:
    found = {"requests": pl.len(), "arrived": ARRIVED.sum(), "met": (pl.col("slo_met") & ARRIVED).sum()}
    for status in ("finished", "rejected", "unfinished", "failed"):
        found[status] = (pl.col("status") == status).sum()
    found |= {
        "hit_rate": HIT_RATE,
        "slo_attainment": SLO_ATTAINMENT,
        "weighted_attainment": WEIGHTED_ATTAINMENT,
        "output_tokens": _total("generated_tokens", FINISHED),
        "preemptions": _total("preemptions", pl.lit(True)),
        "itl_s_mean": itl_mean_s(),
    }
    for metric in per_request:
        found[f"{metric}_mean"] = pl.col(metric).mean()
        for name in QUANTILES:
            found[f"{metric}_{name}"] = quantile_of(metric, name)
    return found


def _section(row: Mapping[str, Any], gaps: np.ndarray, span_s: float | None) -> dict[str, Value]:
    """Order one group's numbers as they stand in summary.json; an empty group has zero counts and no metrics."""
    counts = ("requests", "arrived", "finished", "rejected", "unfinished", "failed", "preemptions")
    section: dict[str, Value] = {name: row.get(name, 0) for name in counts}
    section |= {name: row.get(name) for name in ("hit_rate", "slo_attainment", "weighted_attainment")}
    section["goodput_per_s"] = row.get("met", 0) / span_s if span_s else None
    section["output_tokens_per_s"] = row.get("output_tokens", 0) / span_s if span_s else None
    kept = [LONGEST_GAPS] if f"{LONGEST_GAPS}_mean" in row else []
    for metric in (*METRICS, *kept):
        section[f"{metric}_mean"] = row.get(f"{metric}_mean")
        for name, quantile in QUANTILES.items():
            if metric == "itl_s":
                section[f"{metric}_{name}"] = gap_quantile_s(gaps, quantile)
            else:
                section[f"{metric}_{name}"] = row.get(f"{metric}_{name}")
    return section

"""The worst tier and the worst window of each configuration of a comparison: what a mean hides."""

from typing import Any

import polars as pl

from replay.metrics import ARRIVED, FINISHED, HIGHER, QUANTILES, SLO_ATTAINMENT, better, quantile_of
from replay.study.statistics import least_requests

METRICS = ("slo_attainment", "ttft_s_p99")
LEAST_ARRIVED = 10  # of a window's attainment to be judged: one request in a quiet window says nothing


def parts(requests: pl.DataFrame, windows: int) -> pl.DataFrame:
    """Return a row a tier and a row a window of arrival time of one replay.

    requests : as Result.requests
    windows  : equal parts of the time from the first arrival to the last
    returns  : what (tier or window), name, arrived, finished, slo_attainment, ttft_s_p99
    """
    arrival_s = pl.col("arrival_s")
    start_s, end_s = requests.select(arrival_s.min().alias("start_s"), arrival_s.max().alias("end_s")).row(0)
    numbers = {"arrived": ARRIVED.sum(), "finished": FINISHED.sum(), "slo_attainment": SLO_ATTAINMENT,
               "ttft_s_p99": quantile_of("ttft_s", "p99")}  # fmt: skip
    tiers = requests.group_by(name="tier").agg(**numbers).with_columns(what=pl.lit("tier"))
    if start_s is None or start_s == end_s:
        return tiers.select("what", "name", *numbers)
    width_s = (end_s - start_s) / windows
    place = ((arrival_s - start_s) / width_s).floor().cast(pl.Int64).clip(0, windows - 1)
    cut = requests.filter(arrival_s.is_not_null()).group_by(place=place).agg(**numbers).sort("place")
    names = [f"{start_s + k * width_s:,.0f}-{start_s + (k + 1) * width_s:,.0f} s" for k in cut["place"]]
    named = cut.with_columns(what=pl.lit("window"), name=pl.Series(names, dtype=pl.String))
    order = ("what", "name", *numbers)
    return pl.concat([tiers.sort("name").select(order), named.select(order)])


def worst(found: pl.DataFrame, confidence: float) -> pl.DataFrame:
    """Return, for each configuration and metric, the tier and the window in which it is worst.

    A tier's value is its mean over the replicates; a window is one of one replicate. P99 counts where there are
    requests enough for it (in every replicate, for a tier), attainment where any (ten for a window) arrived.

    found      : rows of `parts` with configuration and replicate before them
    confidence : as `least_requests` takes it
    returns    : configuration, what, name, metric, value
    """
    least = {"slo_attainment": 0, "ttft_s_p99": least_requests(QUANTILES["p99"], confidence)}
    rows: list[dict[str, Any]] = []
    for (configuration,), every in found.group_by("configuration", maintain_order=True):
        tiers = every.filter(pl.col("what") == "tier").group_by("name", maintain_order=True)
        windows = every.filter((pl.col("what") == "window") & (pl.col("arrived") >= LEAST_ARRIVED))
        windows = windows.with_columns(name=pl.format("replicate {}, {}", "replicate", "name"))
        for metric in METRICS:
            value = pl.col(metric)
            enough = pl.col("finished") >= least[metric]
            of_tier = tiers.agg(value.mean(), kept=enough.all()).filter("kept", value.is_not_nan())
            of_window = windows.filter(enough, value.is_not_null())
            for what, table in (("tier", of_tier), ("window", of_window)):
                if table.height:
                    lowest = better(metric) == HIGHER
                    row = table.sort(metric, descending=not lowest, maintain_order=True).row(0, named=True)
                    rows.append({"configuration": configuration, "what": what, "name": row["name"], "metric": metric,
                                 "value": row[metric]})  # fmt: skip
    words = ("configuration", "what", "name", "metric")
    return pl.DataFrame(rows, schema={**dict.fromkeys(words, pl.String), "value": pl.Float64})



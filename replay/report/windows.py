"""Series over the time of a run: windows of equal length, and exact counts of requests in each phase by window."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from replay.metrics import FINISHED, HIT_RATE, PS_PER_S, SLO_ATTAINMENT

PHASES = {
    "waiting": ("arrival_ps", "scheduled_ps"),
    "prefill": ("scheduled_ps", "first_token_ps"),
    "decoding": ("first_token_ps", "finish_ps"),
}
ROUND_S = (1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0)


@dataclass(frozen=True)
class Windows:
    """Windows of equal length [ps] that cover a run, but that the first and the last are cut where the run is.

    start_ps : a multiple of the length, at or before the first arrival
    """

    start_ps: int
    length_ps: int
    count: int
    first_ps: int
    end_ps: int

    @property
    def edges_ps(self) -> np.ndarray:
        """Where windows begin, and where the run ends: (count + 1,) int64."""
        edges = self.start_ps + self.length_ps * np.arange(self.count + 1, dtype=np.int64)
        edges[0] = self.first_ps
        edges[-1] = max(self.end_ps, edges[-2] + 1)
        return edges

    @property
    def starts_s(self) -> np.ndarray:
        """Where windows begin [s]."""
        return self.edges_ps[:-1] / PS_PER_S

    @property
    def lengths_s(self) -> np.ndarray:
        """How long windows are [s], as far as the run goes on in them."""
        return np.diff(self.edges_ps) / PS_PER_S

    def index(self, column: str) -> pl.Expr:
        """Give the window in which a time falls; a time at the end of the run falls in the last."""
        return ((pl.col(column) - self.start_ps) // self.length_ps).clip(0, self.count - 1)


def horizon_ps(requests: pl.DataFrame) -> tuple[int, int]:
    """Return the first arrival and the last thing that happened to any request; 0 and 0 where nothing did."""
    columns = ("arrival_ps", "scheduled_ps", "first_token_ps", "finish_ps")
    low = requests["arrival_ps"].min()
    high = [requests[name].max() for name in columns]
    known = [value for value in high if isinstance(value, int)]
    return (low, max(known)) if isinstance(low, int) else (0, 0)


def length_ps(requests: Iterable[pl.DataFrame], most: int) -> int:
    """Return the length of windows that cut each of some runs into about `most` or fewer: a round number of seconds.

    requests : rows of the runs; what is shorter than a second takes a power of ten, or 2 or 5 times that
    """
    spans = [horizon_ps(frame) for frame in requests]
    least_s = max(end - start for start, end in spans) / most / PS_PER_S
    power = 10.0 ** np.floor(np.log10(least_s)) if least_s > 0 else 1e-6
    steps = ROUND_S if 1.0 <= least_s <= ROUND_S[-1] else tuple(power * step for step in (1, 2, 5, 10))
    return max(1, round(next(step for step in steps if step >= least_s * (1 - 1e-9)) * PS_PER_S))


def windows(requests: pl.DataFrame, length: int) -> Windows:
    """Cut the time of a run into windows of a length [ps]; runs with the same length have the same edges inside."""
    first, end = horizon_ps(requests)
    start = first // length * length
    return Windows(start, length, max(1, -(-(end - start) // length)), first, end)


def counts(starts_ps: np.ndarray, ends_ps: np.ndarray, cut: Windows) -> tuple[np.ndarray, np.ndarray]:
    """Return how many intervals are open in each window: mean over its time, and the most at once.

    starts_ps, ends_ps : (intervals,) int64, start <= end, read only
    returns            : float64 (count,), int64 (count,); exact but for the rounding of the mean
    """
    edges = cut.edges_ps
    starts, ends = np.sort(np.asarray(starts_ps)), np.sort(np.asarray(ends_ps))
    open_at = np.searchsorted(starts, edges[:-1], "right") - np.searchsorted(ends, edges[:-1], "right")
    length_s = cut.lengths_s
    mean = open_at.astype(np.float64)
    for times, sign in ((starts, 1.0), (ends, -1.0)):
        inside = times[(times > edges[0]) & (times < edges[-1])]
        window = np.searchsorted(edges, inside, "left") - 1  # at an edge: `open_at` has counted it in the window after
        after_s = (edges[window + 1] - inside) / PS_PER_S
        mean += sign * np.bincount(window, after_s, cut.count) / length_s
    times, change = _changes(starts, ends)
    level = np.cumsum(change)
    window = np.searchsorted(edges, times, "right") - 1
    within = (window >= 0) & (window < cut.count)
    most = open_at.copy()
    np.maximum.at(most, window[within], level[within])
    return np.maximum(mean, 0.0), most


def _changes(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the times at which a count changes, each once, and by how much."""
    times, place = np.unique(np.concatenate((starts, ends)), return_inverse=True)
    signs = np.concatenate((np.ones(len(starts)), -np.ones(len(ends))))
    return times, np.bincount(place, signs, len(times)).astype(np.int64)


def merged(starts_ps: np.ndarray, ends_ps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the intervals in which at least one of the given ones is open: starts and ends [ps]."""
    times, change = _changes(np.asarray(starts_ps), np.asarray(ends_ps))
    held = np.concatenate(([False], np.cumsum(change) > 0))
    return times[np.flatnonzero(held[1:] & ~held[:-1])], times[np.flatnonzero(~held[1:] & held[:-1])]


def phase(requests: pl.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return when requests were in a phase: starts and ends [ps].

    waiting is arrival to first admission, prefill from there to the first token, decoding to the finish. A request
    still under way is in its phase until the end of the run; one refused or failed has no phase after its last time.
    """
    start, end = PHASES[name]
    last_ps = horizon_ps(requests)[1]
    rows = requests.select(
        pl.col(start).alias("start"),
        pl.when(pl.col("status") == "unfinished").then(pl.col(end).fill_null(last_ps)).otherwise(end).alias("end"),
    ).drop_nulls()
    return rows["start"].to_numpy(), rows["end"].to_numpy()


def by_window(requests: pl.DataFrame, cut: Windows, usd_per_hour: float | None) -> pl.DataFrame:
    """Return one row a window: what arrived, finished, waited and ran in it, and what it cost.

    requests     : rows of a run
    usd_per_hour : what the cluster costs; None where that is not known
    returns      : window_s (its start), length_s; arrivals_per_s; goodput_per_s and output_tokens_per_s of what
                   finished in it; hit_rate and slo_attainment of what arrived in it, null where nothing did; waiting,
                   prefill, decoding (mean) and most_waiting, most_prefill, most_decoding; usd_so_far,
                   usd_per_million_tokens
    """
    arrived = (
        requests.filter(pl.col("arrival_ps").is_not_null())
        .group_by(window=cut.index("arrival_ps"))
        .agg(arrivals=pl.len(), hit_rate=HIT_RATE, slo_attainment=SLO_ATTAINMENT)
    )
    finished = (
        requests.filter(FINISHED)
        .group_by(window=cut.index("finish_ps"))
        .agg(met=pl.col("slo_met").sum(), tokens=pl.col("generated_tokens").cast(pl.Int64).sum())
    )
    frame = pl.DataFrame({"window": np.arange(cut.count), "window_s": cut.starts_s, "length_s": cut.lengths_s})
    frame = frame.join(arrived, on="window", how="left").join(finished, on="window", how="left").sort("window")
    per_s = {"arrivals_per_s": "arrivals", "goodput_per_s": "met", "output_tokens_per_s": "tokens"}
    frame = frame.with_columns(**{name: pl.col(of).fill_null(0) / pl.col("length_s") for name, of in per_s.items()})
    for name in PHASES:
        mean, most = counts(*phase(requests, name), cut)
        frame = frame.with_columns(pl.Series(name, mean), pl.Series(f"most_{name}", most))
    if usd_per_hour:
        usd = pl.col("length_s") * usd_per_hour / 3600.0
        frame = frame.with_columns(
            usd_so_far=usd.cum_sum(),
            usd_per_million_tokens=pl.when(pl.col("tokens") > 0).then(usd / pl.col("tokens") * 1e6),
        )
    frame = frame.with_columns(pl.col("hit_rate").fill_nan(None), pl.col("slo_attainment").fill_nan(None))
    return frame.drop("window", "arrivals", "met", "tokens")


def by_tier(requests: pl.DataFrame, cut: Windows) -> pl.DataFrame:
    """Return SLO attainment by tier and window of arrival: tier, window_s, length_s, arrived, slo_attainment."""
    arrived = requests.filter(pl.col("arrival_ps").is_not_null())
    found = arrived.group_by("tier", window=cut.index("arrival_ps")).agg(
        arrived=pl.len(), slo_attainment=SLO_ATTAINMENT
    )
    found = found.sort("tier", "window")
    at = found["window"].to_numpy()
    times = {"window_s": cut.starts_s[at], "length_s": cut.lengths_s[at]}
    return found.with_columns(pl.Series(name, values) for name, values in times.items()).select(
        "tier", *times, "arrived", "slo_attainment"
    )

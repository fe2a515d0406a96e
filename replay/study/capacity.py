"""How much load something carries: the highest rate scale at which it keeps what it promised."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from replay.metrics import ARRIVED, SLO_ATTAINMENT

if TYPE_CHECKING:
    from replay.session import Session

MOST_SCALE, LEAST_SCALE = 2.0**16, 2.0**-10  # an hour at the least scale takes 43 days of the 106 that time has
EVENTS_A_SLICE = 20_000
WORTH = 5.0  # look at a run again after so many times as long as looking takes


def capacity(keeps: Callable[[float], bool], tolerance: float = 0.02) -> float:
    """Return the highest rate scale found at which a promise is kept; 0 where the least scale breaks it.

    keeps     : rate scale -> whether the promise is kept; expensive, called once a scale
    tolerance : relative width of the last interval: its lower end kept the promise, its upper end broke it. Attainment
                need not fall with the rate everywhere; what is returned kept the promise, and one step above did not
    cost      : about 2 log2(answer) + log2(1 / tolerance) replays
    source    : DistServe (Zhong et al., OSDI 2024): goodput by bisection on the rate
    """
    low, high = 0.0, 1.0
    if keeps(1.0):
        low = 1.0
        while low < MOST_SCALE:
            high = 2.0 * low
            if not keeps(high):
                break
            low = high
        else:
            return low
    else:
        while high > LEAST_SCALE:
            low = 0.5 * high
            if keeps(low):
                break
            high = low
        else:
            return 0.0
    while high > low * (1.0 + tolerance):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


@dataclass(frozen=True)
class Verdict:
    """Whether a run meets a target, and its attainment; None where the run was stopped before its end."""

    keeps: bool
    attained: float | None


def judged(session: "Session", target: float) -> Verdict:
    """Advance a session until it is certain whether its attainment reaches a target.

    A request that is late already misses, whatever comes; one that finished in time is met. As soon as these decide,
    the rest is not replayed: the verdict is that of the whole run.

    session : advanced in place
    target  : share of the trace's requests within (0, 1]
    """
    most_misses = len(session.trace) * (1.0 - target) * (1.0 + 1e-12)
    looked_s = waited_s = 0.0
    while not session.advance(EVENTS_A_SLICE):
        if session.kernel_s - waited_s < WORTH * looked_s:
            continue
        started_s = time.perf_counter()
        if certain_misses(session) > most_misses:
            return Verdict(False, None)
        looked_s, waited_s = time.perf_counter() - started_s, session.kernel_s
    attained = float(session.result().requests.select(SLO_ATTAINMENT).item())
    return Verdict(attained >= target, attained)


def certain_misses(session: "Session") -> int:
    """Count the requests that miss their objectives for certain, at this moment of a replay.

    What has not finished is taken to finish now, with its first token now where it has none: if that is too late,
    everything later is.
    """
    rows = session.result().requests
    waiting = (pl.col("status") == "unfinished") & pl.col("arrival_ps").is_not_null()
    since_s = pl.lit(session.now_s) - pl.col("arrival_s")
    best = rows.with_columns(
        ttft_s=pl.when(waiting).then(pl.col("ttft_s").fill_null(since_s)).otherwise(pl.col("ttft_s")),
        e2e_s=pl.when(waiting).then(since_s).otherwise(pl.col("e2e_s")),
        tpot_s=pl.when(waiting).then(None).otherwise(pl.col("tpot_s")),
        status=pl.when(waiting).then(pl.lit("finished")).otherwise(pl.col("status")),
    )
    return int(best.select((session.slo.met().not_() & ARRIVED).sum()).item())

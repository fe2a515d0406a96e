"""SLO misses that late scaling may have caused: those of requests that waited while an instance was starting."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from replay.engine.life_schema import STARTING
from replay.metrics import ARRIVED

if TYPE_CHECKING:
    from replay.session import Session

PREFILLS, DECODES = ("prefill", "mixed"), ("decode", "mixed")


def misses_while_starting(session: "Session", requests: pl.DataFrame) -> int:
    """Count the arrived requests that missed their SLO and were held up while help was on its way.

    One is counted if, from its arrival to its first token, an instance that prefills (prefill, mixed) was starting; or
    if, from its first token to its end, one that decodes (decode, mixed) was. What never had a first token, or never
    ended, goes on to now. All that sooner starts could have saved is among them; so are some that these would not have.

    requests : one row a request, read only
    """
    now_ps = int(session.state.cluster["now_ps"][0])
    roles = np.array([instance.role for instance in session.cluster.instances])
    moments = session.state.lives.moments[: int(session.state.lives.setting["moments"][0])]
    moments = moments[moments["instance"] < len(roles)]
    missed = requests.filter(ARRIVED & pl.col("slo_met").not_() & pl.col("arrival_ps").is_not_null())
    ends = missed.select(pl.col("arrival_ps"), pl.col("first_token_ps").fill_null(now_ps),
                         pl.col("finish_ps").fill_null(now_ps))  # fmt: skip
    arrived, first, end = (ends[name].to_numpy().astype(np.int64) for name in ends.columns)
    late = np.zeros(len(arrived), bool)
    for some, since, until in ((PREFILLS, arrived, first), (DECODES, first, end)):
        begun, over = starts(moments[np.isin(roles[moments["instance"]], some)], now_ps)
        # how many had begun by the end of the wait, less those over before it began
        late |= np.searchsorted(begun, until, "left") > np.searchsorted(over, since, "right")
    return int(late.sum())


def starts(moments: np.ndarray, now_ps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return when instances began to start, and when each start was over or given up, both in order [ps].

    moments : MOMENT rows of the instances that count, in order of time
    """
    begun, over = [], []
    for i in np.unique(moments["instance"]):
        own = moments[moments["instance"] == i]
        at = np.flatnonzero(own["state"] == STARTING)
        begun.append(own["time_ps"][at])
        over.append(np.append(own["time_ps"], now_ps)[at + 1])
    if not begun:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.sort(np.concatenate(begun)), np.sort(np.concatenate(over))

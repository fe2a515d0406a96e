"""Lay intervals into lanes so that none overlaps another: what a track of a timeline can hold."""

import heapq
from collections.abc import Sequence

import numpy as np
import polars as pl


def lanes(starts_ps: Sequence[int], ends_ps: Sequence[int]) -> list[int]:
    """Return a lane for each interval, as few as there are intervals at once.

    starts_ps, ends_ps : in the order of starts; an interval that begins where another ends may follow it in its lane
    returns            : lane of each interval, from 0; the lowest that is free
    """
    free: list[int] = []
    busy: list[tuple[int, int]] = []
    found = []
    for start, end in zip(starts_ps, ends_ps, strict=True):
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (end, lane))
        found.append(lane)
    return found


def clipped(intervals: pl.DataFrame, window_ps: tuple[int, int]) -> pl.DataFrame:
    """Return the intervals that reach into a window, cut at its ends.

    intervals : with start_ps and end_ps; one without length counts where it is in the window
    """
    low, high = window_ps
    point = pl.col("start_ps") == pl.col("end_ps")
    inside = (pl.col("end_ps") > low) & (pl.col("start_ps") < high) | point & pl.col("start_ps").is_between(low, high)
    return intervals.filter(inside).with_columns(pl.col("start_ps", "end_ps").clip(low, high))


def levels(intervals: pl.DataFrame, window_ps: tuple[int, int]) -> list[tuple[int, int]]:
    """Return how many intervals are open: time [ps] and count at the start of a window and wherever it changes inside.

    intervals : whole, not clipped
    """
    low, high = window_ps
    starts, ends = intervals["start_ps"].to_numpy(), intervals["end_ps"].to_numpy()
    times, place = np.unique(np.concatenate((starts, ends)), return_inverse=True)
    change = np.bincount(place, np.concatenate((np.ones(len(starts)), -np.ones(len(ends)))), len(times)).astype(
        np.int64
    )
    count = np.cumsum(change)
    at = int(np.searchsorted(times, low, "right")) - 1
    inside = (times > low) & (times <= high) & (change != 0)
    return [(low, int(count[at]) if at >= 0 else 0), *zip(times[inside].tolist(), count[inside].tolist(), strict=True)]

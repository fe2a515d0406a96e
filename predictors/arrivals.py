"""Forecasts of how many requests arrive in the intervals to come, made of past counts only: what an autoscaler reads.

Each kind is one pass over the counts, so that a forecast never depends on a later count. In the formulas y is a count,
l the level, b the trend per interval and s the season of one interval of the period.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from predictors.errors import PredictorError

MOST_INTERVALS = 10**8
MOST_COUNT = 2.0**53  # whole numbers above are no longer exact in float64
RANGES = {"window": (1, MOST_INTERVALS), "alpha": (0.0, 1.0), "beta": (0.0, 1.0), "gamma": (0.0, 1.0),
          "damping": (0.0, 1.0), "period": (2, MOST_INTERVALS), "horizon": (1, MOST_INTERVALS)}  # fmt: skip
WHOLE = ("window", "period", "horizon")


def counts(arrivals_s: Any, interval_s: float) -> np.ndarray:
    """Count the arrivals of each interval [k interval_s, (k + 1) interval_s), from 0 s to the last arrival.

    arrivals_s : float (requests,) [s] sorted, >= 0
    returns    : int64 (intervals,); the last interval may not be over yet; none without arrivals
    raises     : PredictorError for arrivals that are negative, not finite or not sorted, or an interval of no length
    """
    if isinstance(interval_s, bool) or not isinstance(interval_s, int | float) or not 0 < interval_s < np.inf:
        raise PredictorError(f"interval_s must be a number of seconds > 0, but is {interval_s!r}. Choose 60.")
    arrivals = _row(arrivals_s, "arrivals_s")
    wrong = np.flatnonzero(~(np.isfinite(arrivals) & (arrivals >= 0)))
    if len(wrong):
        raise PredictorError(f"arrivals_s must be finite and >= 0 s, but arrival {wrong[0]} is "
                             f"{arrivals[wrong[0]]:g} s. Subtract the start of the trace.")
    if (falls := np.flatnonzero(np.diff(arrivals) < 0)).size:
        later = falls[0] + 1
        raise PredictorError(f"arrivals_s must be sorted, but arrival {later} at {arrivals[later]:g} s follows one at "
                             f"{arrivals[later - 1]:g} s. Sort them.")
    if len(arrivals) and arrivals[-1] / interval_s >= MOST_INTERVALS:
        raise PredictorError(f"interval_s must cut the trace into at most {MOST_INTERVALS:g} intervals, but "
                             f"{interval_s:g} s of {arrivals[-1]:g} s are more. Choose a longer one.")
    return np.bincount(np.floor(arrivals / interval_s).astype(np.int64)).astype(np.int64)


def forecast(counts: Any, kind: str, horizon: int = 1, **parameters: Any) -> np.ndarray:
    """Forecast every count from those at least `horizon` intervals before it.

    counts     : (intervals,) whole or real numbers >= 0
    kind       : one of KINDS
    horizon    : intervals from the last count known to the one forecast
    parameters : of that kind; see the functions below for their meaning and defaults
    returns    : float64 (intervals,) >= 0; entry t is made of counts[:t - horizon + 1], NaN where that is empty
    raises     : PredictorError for an unknown kind or parameter, a value out of range, or counts that are none
    """
    made = ahead(counts, kind, horizon, **parameters)
    found = np.full(len(made), np.nan)
    found[horizon:] = made[: max(0, len(made) - horizon)]
    return found


def ahead(counts: Any, kind: str, horizon: int = 1, **parameters: Any) -> np.ndarray:
    """Return `forecast` by when it is made: entry t is the forecast of counts[t + horizon], made of counts[:t + 1].

    returns : float64 (intervals,) from 0 to 2^53, never NaN; the last entry is of an interval not counted yet.
              Of high beta and gamma together `seasonal` may swing without limit; it is then cut to these
    raises  : as `forecast`
    """
    values = checked(counts)
    refuse_unknown(kind, parameters)
    in_range("horizon", horizon)
    if len(values) == 0:
        return np.empty(0)
    made = KINDS[kind](values, horizon, **parameters)
    return np.clip(np.nan_to_num(made, nan=MOST_COUNT, posinf=MOST_COUNT), 0.0, MOST_COUNT)


def last(values: np.ndarray, horizon: int) -> np.ndarray:
    """Expect the last count again: f_t = y_t."""
    return values.copy()


def mean(values: np.ndarray, horizon: int, window: int = 10) -> np.ndarray:
    """Expect the mean of the last `window` counts, of fewer at the beginning."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def smoothed(values: np.ndarray, horizon: int, alpha: float = 0.3) -> np.ndarray:
    """Expect the level l = alpha y + (1 - alpha) l', from l = y at first.

    source : simple exponential smoothing, Brown (1959)
    """
    levels, level = np.empty(len(values)), float(values[0])
    for now, value in enumerate(values.tolist()):
        level += alpha * (value - level)
        levels[now] = level
    return levels


def trend(values: np.ndarray, horizon: int, alpha: float = 0.3, beta: float = 0.1, damping: float = 0.98) -> np.ndarray:
    """Expect the level and a trend that fades: l + (d + d^2 + ... + d^horizon) b with d = damping.

    l = alpha y + (1 - alpha) (l' + d b') and b = beta (l - l') + (1 - beta) d b', from l = y and b = 0 at first.
    source : Holt (1957), damped as by Gardner and McKenzie (1985)
    """
    made, level, slope = np.empty(len(values)), float(values[0]), 0.0
    reach = float(horizon) if damping == 1 else damping * (1 - damping**horizon) / (1 - damping)
    for now, value in enumerate(values.tolist()):
        before, expected = level, level + damping * slope
        level = expected + alpha * (value - expected)
        slope = beta * (level - before) + (1 - beta) * damping * slope
        made[now] = level + reach * slope
    return made


def seasonal(values: np.ndarray, horizon: int, period: int, alpha: float = 0.3, beta: float = 0.01,
             gamma: float = 0.1) -> np.ndarray:  # fmt: skip
    """Expect the level, its trend and what the same interval of the period added: l + horizon b + s.

    l = alpha (y - s') + (1 - alpha) (l' + b'), b = beta (l - l') + (1 - beta) b', s = gamma (y - l) + (1 - gamma) s',
    where s' is the season one period ago. They start from the first two periods; until those are over, as `smoothed`.

    period : intervals after which the load repeats, e.g. a day
    source : Winters (1960), additive
    """
    made = smoothed(values, horizon, alpha)
    if len(values) < 2 * period:
        return made
    level, slope, season = _first_season(values[: 2 * period], period)
    for now in range(2 * period - 1, len(values)):
        if now >= 2 * period:
            value, place, before = float(values[now]), now % period, level
            level = alpha * (value - season[place]) + (1 - alpha) * (level + slope)
            slope = beta * (level - before) + (1 - beta) * slope
            season[place] = gamma * (value - level) + (1 - gamma) * season[place]
        made[now] = level + horizon * slope + season[(now + horizon) % period]
    return made


KINDS: dict[str, Callable[..., np.ndarray]] = {
    "last": last, "mean": mean, "smoothed": smoothed, "trend": trend, "seasonal": seasonal,
}  # fmt: skip


def known(kind: str) -> tuple[str, ...]:
    """Return the names of a kind's parameters, without the horizon; raises PredictorError for an unknown kind."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise PredictorError(f"a forecast's kind must be one of {', '.join(KINDS)}, but is {kind!r}. Name one.")
    return tuple(inspect.signature(KINDS[kind]).parameters)[2:]


def refuse_unknown(kind: str, given: dict[str, Any]) -> None:
    """Refuse parameters that a kind does not have, values out of range, and the lack of a period where it is needed."""
    names = known(kind)
    for name, value in given.items():
        if name not in names:
            raise PredictorError(f"{name} is no parameter of the forecast {kind}, which has "
                                 f"{', '.join(names) or 'none'}. Leave it out.")
        in_range(name, value)
    if kind == "seasonal" and "period" not in given:
        raise PredictorError("the forecast seasonal needs period, the intervals after which the load repeats, but has "
                             "none. Divide a day by the interval.")


def in_range(name: str, value: Any) -> None:
    """Raise PredictorError unless a parameter of RANGES is a number of its kind and within its range."""
    low, high = RANGES[name]
    number = int | np.integer if name in WHOLE else int | float | np.integer | np.floating
    if isinstance(value, bool) or not isinstance(value, number) or not low <= value <= high:
        what = "a whole number" if name in WHOLE else "a number"
        raise PredictorError(f"{name} of a forecast must be {what} from {low:g} to {high:g}, but is {value!r}. "
                             "Change it.")


def checked(counts: Any) -> np.ndarray:
    """Return counts as float64 (intervals,); raises PredictorError unless they are finite, >= 0 and exact."""
    values = _row(counts, "counts")
    wrong = np.flatnonzero(~((values >= 0) & (values <= MOST_COUNT)))
    if len(wrong):
        raise PredictorError(f"counts must be from 0 to 2^53, but count {wrong[0]} is {values[wrong[0]]:g}. Count "
                             "arrivals with predictors.arrivals.counts.")
    return values


def _row(given: Any, what: str) -> np.ndarray:
    try:
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        values = np.empty((0, 0))
    if values.ndim != 1:
        raise PredictorError(f"{what} must be one row of numbers, but is {type(given).__name__}: {str(given):.40}. "
                             "Pass an array of one dimension.")
    return values


def _first_season(values: np.ndarray, period: int) -> tuple[float, float, list[float]]:
    """Return the level and trend at the end of two periods, and the mean deviation of each of their intervals.

    The trend is the difference of the two periods' means; it is taken out before the deviations are.
    """
    two = values.reshape(2, period)
    means = two.mean(axis=1)
    slope = float(means[1] - means[0]) / period
    line = means[:, None] + slope * (np.arange(period) - (period - 1) / 2)
    return float(line[1, -1]), slope, (two - line).mean(axis=0).tolist()

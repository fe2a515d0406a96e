"""Cumulative distributions, thinned to what a screen can show."""

import numpy as np
import polars as pl

MOST_POINTS = 250
HEAVY = 8.0  # p99 over median from which an axis is logarithmic


def cdf(values: np.ndarray) -> pl.DataFrame:
    """Return points of the empirical distribution function.

    values  : (count,) float64 without NaN, read only
    returns : value, share of values <= it; every value where there are few, else evenly by share and finer at both ends
    """
    ordered = np.sort(np.asarray(values, np.float64))
    count = len(ordered)
    if count == 0:
        return pl.DataFrame({"value": [], "share": []}, {"value": pl.Float64, "share": pl.Float64})
    if count <= MOST_POINTS:
        ranks = np.arange(count)
    else:
        even = np.linspace(0.0, 1.0, MOST_POINTS - 40)
        tail = np.geomspace(1.0 / count, 0.01, 20)
        shares = np.unique(np.concatenate((even, tail, 1.0 - tail)))
        ranks = np.unique(np.clip(np.ceil(shares * count).astype(np.int64) - 1, 0, count - 1))
    points = pl.DataFrame({"value": ordered[ranks], "share": (ranks + 1) / count})
    return points.group_by("value", maintain_order=True).agg(pl.col("share").max())


def heavy_tailed(values: np.ndarray) -> bool:
    """Tell whether a distribution asks for a logarithmic axis."""
    positive = values[values > 0]
    if len(positive) < 10:
        return False
    median, high = np.quantile(positive, (0.5, 0.99))
    return bool(high > HEAVY * median or median > HEAVY * np.quantile(positive, 0.01))

"""Choose the parameters of a forecast of arrivals on one part of the counts, and judge it on the rest."""

import json
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import polars as pl
from scipy import optimize

from predictors.arrivals import KINDS, RANGES, checked, forecast, in_range, known, refuse_unknown
from predictors.errors import PredictorError

STARTS = {"alpha": (0.05, 0.3, 0.8), "beta": (0.01, 0.1, 0.5), "gamma": (0.05, 0.3, 0.8), "damping": (0.8, 0.98)}
MOST_WINDOW = 1024
FADING = 0.99  # echoes may grow by 1 % a period: rounding would decide of those that just stay
STEPS = {"xatol": 1e-3, "fatol": 1e-9, "maxfev": 200}


def fit(counts: Any, kind: str, **fixed: Any) -> dict[str, Any]:
    """Return the parameters of a kind with the least squared error one interval ahead.

    Windows are tried one by one, smoothing parameters by Nelder and Mead's simplex from the best of a coarse grid.
    Of `seasonal`, only forecasts after the first two periods are judged, and parameters under which one odd count
    would swing ever higher are left out.

    counts  : (intervals,) numbers >= 0, the part to learn from
    fixed   : parameters that are given; `seasonal` needs its period
    returns : all parameters of the kind, for `forecast`; none of `last`
    raises  : PredictorError as `forecast` does, for too few counts, or fixed parameters that no others can steady
    cost    : at most about 300 passes over the counts, or one a window
    """
    values = checked(counts)
    refuse_unknown(kind, fixed)
    needed = 2 * fixed["period"] + 1 if kind == "seasonal" else 2
    if len(values) < needed:
        raise PredictorError(f"a fit of the forecast {kind} needs at least {needed} counts, but has {len(values)}. "
                             "Give a longer part or shorter intervals.")
    free = [name for name in known(kind) if name not in fixed]

    def error(chosen: Sequence[float]) -> float:
        parameters = {**fixed, **dict(zip(free, chosen, strict=True))}
        if kind == "seasonal" and not settles(**parameters):
            return np.inf
        made = forecast(values, kind, 1, **parameters)
        return float(np.square(made[needed - 1 :] - values[needed - 1 :]).mean())

    if free == ["window"]:
        window = min(range(1, min(len(values) - 1, MOST_WINDOW) + 1), key=lambda width: error([width]))
        return {"window": window}
    if not free:
        return fixed
    start = min(product(*(STARTS[name] for name in free)), key=error)
    if not np.isfinite(error(start)):
        raise PredictorError(f"no fit of the forecast {kind} can keep {fixed} from swinging ever higher. Fix fewer of "
                             "its parameters.")
    bounds = [RANGES[name] for name in free]
    found = optimize.minimize(error, start, method="Nelder-Mead", bounds=bounds, options=STEPS)
    return {**fixed, **dict(zip(free, found.x.tolist(), strict=True))}


def settles(period: int, alpha: float, beta: float, gamma: float) -> bool:
    """Return whether the echo of one odd count in `seasonal` grows by less than 1 % a period.

    With B the step back by one interval, errors e make counts y by (1 - B)(1 - B^m) y = theta(B) e, where theta(B) is
    (1 - B)(1 - B^m) + alpha B (1 - B^m) + alpha beta B (1 + ... + B^(m - 1)) + gamma (1 - alpha) B^m (1 - B).
    Echoes do not grow at all if no root of theta is nearer to 0 than 1, as Schur and Cohn's recursion tells.

    cost   : O(period^2)
    source : Hyndman, Koehler, Ord and Snyder, Forecasting with Exponential Smoothing (2008), chapter 10
    """
    theta = np.zeros(period + 2)
    theta[[0, 1, -2, -1]] = 1.0, alpha - 1.0, gamma * (1 - alpha) - 1.0, (1 - alpha) * (1 - gamma)
    theta[1:-1] += alpha * beta
    theta *= FADING ** (np.arange(period + 2) / period)
    while len(theta) > 1:
        last = theta[-1]
        if abs(last) >= 1:
            return False
        theta = (theta - last * theta[::-1])[:-1] / (1 - last * last)
    return True


def evaluate(counts: Any, train_share: float = 0.5, kinds: Sequence[str] | None = None, horizon: int = 1,
             period: int | None = None) -> pl.DataFrame:  # fmt: skip
    """Fit forecasts on the first part of the counts and return how far off they are on the rest.

    The rest is forecast one by one as it arrives, with the parameters left as they are.

    train_share : of the counts to learn from, above 0 and below 1
    kinds       : of KINDS; all by default, without `seasonal` if there is no period
    returns     : a row a kind: kind, mae, rmse [requests per interval], mase, parameters (JSON). mase is mae divided by
                  that of `last` on the same counts at the same horizon, null if that is 0
    raises      : PredictorError as `fit` does, or for a part without counts
    """
    values = checked(counts)
    chosen = list(kinds) if kinds is not None else [kind for kind in KINDS if kind != "seasonal" or period is not None]
    in_range("horizon", horizon)
    start = _start(len(values), train_share, horizon)
    truth, reference = values[start:], _mae(forecast(values, "last", horizon)[start:], values[start:])
    rows = []
    for kind in chosen:
        fixed = {"period": period} if kind == "seasonal" and period is not None else {}
        parameters = fit(values[:start], kind, **fixed)
        made = forecast(values, kind, horizon, **parameters)[start:]
        mae, rmse = _mae(made, truth), float(np.sqrt(np.square(made - truth).mean()))
        rows.append((kind, mae, rmse, mae / reference if reference > 0 else None, json.dumps(parameters, default=int)))
    columns = {"kind": pl.String, "mae": pl.Float64, "rmse": pl.Float64, "mase": pl.Float64, "parameters": pl.String}
    return pl.DataFrame(rows, schema=columns, orient="row")


def _mae(made: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(made - truth).mean())


def _start(intervals: int, train_share: float, horizon: int) -> int:
    """Return where the part that judges begins."""
    if isinstance(train_share, bool) or not isinstance(train_share, int | float) or not 0 < train_share < 1:
        raise PredictorError(f"train_share must be a number above 0 and below 1, but is {train_share!r}. Choose 0.5.")
    start = int(intervals * train_share)
    if start < max(2, horizon):
        raise PredictorError(f"an evaluation needs at least {max(2, horizon)} counts to learn from, but train_share "
                             f"{train_share:g} of {intervals} counts leaves {start}. Give more counts.")
    return start

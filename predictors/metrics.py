"""How good predictions of output length are: each number defined once."""

import numpy as np
from scipy import stats


def quality(predicted: np.ndarray, true: np.ndarray) -> dict[str, float | None]:
    """Return the rank correlation and the errors of predictions, of the requests that have one.

    predicted : int (requests,), -1 unknown; true : int (requests,)
    returns   : prediction_tau (Kendall tau-b, None where one side is constant), prediction_mae_tokens,
                prediction_log_mae (mean |ln predicted - ln true|); none without any prediction
    """
    known = predicted > 0
    if not known.any():
        return {}
    guess, truth = predicted[known].astype(np.float64), true[known].astype(np.float64)
    found = tau(guess, truth)
    return {
        "prediction_tau": None if np.isnan(found) else found,
        "prediction_mae_tokens": float(np.abs(guess - truth).mean()),
        "prediction_log_mae": float(np.abs(np.log(guess) - np.log(truth)).mean()),
    }


def tau(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return Kendall's tau-b, NaN where one side is constant. O(n log n)."""
    if len(true) < 2 or np.ptp(predicted) == 0 or np.ptp(true) == 0:
        return float("nan")
    return float(stats.kendalltau(predicted, true).statistic)


LEVEL_OF = {"p05": 0.05, "p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


def pinball(predicted: np.ndarray, true: np.ndarray, quantile: str) -> float:
    """Return the mean pinball loss of a predicted quantile [tokens]: level above, 1 - level below, times the distance.

    quantile : of LEVEL_OF
    source   : Koenker and Bassett 1978
    """
    level, distance = LEVEL_OF[quantile], true - predicted
    return float(np.maximum(level * distance, (level - 1.0) * distance).mean())


def coverage(low: np.ndarray, high: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Return the share of outputs within their interval, its ends included, and the median width [tokens]."""
    return float(((low <= true) & (true <= high)).mean()), float(np.median(high - low))


def calibration(quantiles: dict[str, np.ndarray], true: np.ndarray) -> dict[str, float]:
    """Return for each quantile the share of outputs at or below it."""
    return {name: float((true <= values).mean()) for name, values in quantiles.items()}

"""Intervals that hold what they promise: a model's quantiles moved by what its errors were on requests it did not see.

The scale is that of log-lengths. `split` and `cqr` are MAPIE's; they promise coverage where requests are exchangeable.
By group (`mondrian`) the promise holds for each kind. Under drift none of them holds; `adaptive` follows the errors.
"""

from typing import Any

import numpy as np
import polars as pl

from predictors.conformal_kernels import follow
from predictors.errors import PredictorError
from predictors.model import COVERAGE, HIGH, LEVELS, LOW, MEDIAN

METHODS = ("none", "split", "cqr", "mondrian", "adaptive")
WINDOW = 400  # latest errors that the adaptive quantiles are taken from
FEWEST = 20  # calibration rows of a group that has its own


class Chosen:
    """A regressor for MAPIE that predicts one column of what it is given: ours are made already."""

    _estimator_type = "regressor"

    def __init__(self, column: int) -> None:
        self.column = column
        self.fitted_ = True

    def fit(self, rows: np.ndarray, target: np.ndarray) -> "Chosen":
        """Learn nothing."""
        return self

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Return the column."""
        return np.asarray(rows)[:, self.column]


def conformal(
    method: str, calibration: tuple[np.ndarray, np.ndarray], logs: np.ndarray, frames: tuple[pl.DataFrame, pl.DataFrame]
) -> np.ndarray:
    """Return log-quantiles (rows, 5) whose interval, columns LOW to HIGH, is calibrated to hold 90 %.

    method      : one of METHODS
    calibration : log-quantiles (n, 5) of requests that the model did not learn from, all finished; their log-outputs
    logs        : log-quantiles of the requests at hand
    frames      : META of the calibration rows and of the rows at hand: arrival_s, finish_s, kind, output_tokens.
                  Only `adaptive` reads the outputs at hand, each once it has finished before an arrival.
    raises      : PredictorError for an unknown method, or no calibration rows
    source      : split and CQR: Romano et al., NeurIPS 2019; by group: Vovk 2012; adaptive: Gibbs and Candes, NeurIPS
                  2021, with one level for each quantile and a rolling calibration set
    """
    if method not in METHODS:
        raise PredictorError(f"predictor.conformal must be one of {', '.join(METHODS)}, but is {method!r}.")
    if method == "none":
        return logs
    known, true = np.sort(calibration[0], axis=1), calibration[1]
    if len(known) < FEWEST:
        raise PredictorError(
            f"predictor.conformal={method} needs at least {FEWEST} finished requests to calibrate on, but "
            f"there are {len(known)}. Use a longer trace, or predictor.conformal=none."
        )
    ordered = np.sort(logs, axis=1)
    if method == "adaptive":
        return _adaptive(known, true, ordered, frames)
    if method == "mondrian":
        return _by_group(known, true, ordered, [frame["kind"].to_numpy() for frame in frames])
    return _bounded(ordered, *(_split if method == "split" else _cqr)(known, true, ordered))


def _bounded(logs: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Put an interval into log-quantiles; the others stay where the order allows it."""
    found = logs.copy()
    found[:, LOW], found[:, HIGH] = np.minimum(low, high), np.maximum(low, high)
    found[:, MEDIAN:HIGH] = np.clip(found[:, MEDIAN:HIGH], found[:, [LOW]], found[:, [HIGH]])
    found[:, HIGH + 1 :] = np.maximum(found[:, HIGH + 1 :], found[:, [HIGH]])
    return found


def _mapie() -> Any:
    try:
        import mapie.regression as regression
    except ImportError:
        raise PredictorError(
            "predictor.conformal=split and cqr need MAPIE, which is not installed. Install "
            "kvreplay[predict], or use predictor.conformal=adaptive."
        ) from None
    return regression


def _split(known: np.ndarray, true: np.ndarray, logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wrapped = _mapie().SplitConformalRegressor(Chosen(MEDIAN), confidence_level=COVERAGE, prefit=True)
    bounds = wrapped.conformalize(known, true).predict_interval(logs)[1]
    return bounds[:, 0, 0], bounds[:, 1, 0]


def _cqr(known: np.ndarray, true: np.ndarray, logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    models = [Chosen(LOW), Chosen(HIGH), Chosen(MEDIAN)]
    wrapped = _mapie().ConformalizedQuantileRegressor(models, confidence_level=COVERAGE, prefit=True)
    bounds = wrapped.conformalize(known, true).predict_interval(logs, symmetric_correction=True)[1]
    return bounds[:, 0, 0], bounds[:, 1, 0]


def score_quantile(scores: np.ndarray, coverage: float) -> float:
    """Return the ceil((n + 1) coverage)-th smallest score, the largest where there are too few."""
    rank = int(np.ceil((len(scores) + 1) * coverage))
    return float(np.sort(scores)[min(rank, len(scores)) - 1])


def _by_group(known: np.ndarray, true: np.ndarray, logs: np.ndarray, kinds: list[np.ndarray]) -> np.ndarray:
    scores = np.maximum(known[:, LOW] - true, true - known[:, HIGH])
    every = score_quantile(scores, COVERAGE)
    moved = np.full(len(logs), every)
    for kind in np.unique(kinds[1].astype(str)):
        own = scores[kinds[0].astype(str) == kind]
        if len(own) >= FEWEST:
            moved[kinds[1].astype(str) == kind] = score_quantile(own, COVERAGE)
    return _bounded(logs, logs[:, LOW] - moved, logs[:, HIGH] + moved)


def _adaptive(
    known: np.ndarray, true: np.ndarray, logs: np.ndarray, frames: tuple[pl.DataFrame, pl.DataFrame]
) -> np.ndarray:
    finish_s, arrival_s = frames[1]["finish_s"].to_numpy(), frames[1]["arrival_s"].to_numpy()
    output = np.log(np.maximum(frames[1]["output_tokens"].to_numpy(), 1)).astype(np.float64)
    order = np.argsort(finish_s, kind="stable")
    latest = np.argsort(frames[0]["finish_s"].to_numpy(), kind="stable")[-WINDOW:]
    events = (output, arrival_s, finish_s, order)
    found = np.empty_like(logs)
    for k, level in enumerate(LEVELS):
        if k == MEDIAN:  # a best guess, which following single errors would only blur
            found[:, k] = logs[:, k]
            continue
        errors = true[latest] - known[latest, k]
        found[:, k] = follow(np.sort(errors), errors, logs[:, k].copy(), events, level)
    found[:, LOW] = np.minimum(found[:, LOW], found[:, MEDIAN])
    found[:, MEDIAN:] = np.maximum.accumulate(found[:, MEDIAN:], axis=1)
    return found

"""What a replay is given of a predictor: a length for every request, and how it was come by."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from predictors.errors import PredictorError
from predictors.survival import refresh_table

UNKNOWN = -1


@dataclass(frozen=True)
class Refresh:
    """What is expected still to come once a request has generated some tokens, asked anew every `every_tokens`.

    edges : float64 (classes - 1,), ascending predicted lengths between classes
    left  : float64 (classes, GRID), expected tokens still to come at the grid of `survival.grid_tokens`
    first : row of the first request that arrived after what this was learned from; earlier ones are not looked at again
    """

    every_tokens: int
    edges: np.ndarray
    left: np.ndarray
    first: int = 0


@dataclass(frozen=True)
class Predictions:
    """Output lengths as predicted at arrival.

    tokens      : int32 (requests,), the middle; UNKNOWN without one, and where the replay itself learns them
    p90, p99    : int32 (requests,), quantiles, never below tokens; those of `tokens` where a predictor has none
    inference_s : what a prediction takes on the control plane before the request is admitted
    workers     : predictions that are made at once
    refresh     : None for a prediction at arrival only
    online      : expected tokens before anything has finished, of a model that learns inside the replay; 0 for none
    """

    tokens: np.ndarray
    p90: np.ndarray
    p99: np.ndarray
    inference_s: float = 0.0
    workers: int = 1
    refresh: Refresh | None = None
    online: float = 0.0


def of_tokens(tokens: np.ndarray) -> Predictions:
    """Return predictions that have no more than a middle; PredictorError unless they are whole numbers from -1."""
    given = np.asarray(tokens)
    if given.ndim != 1 or given.dtype.kind not in "iu" or (given < UNKNOWN).any() or (given > 2**31 - 1).any():
        raise PredictorError(
            "predictions must be whole numbers of tokens from 1, or -1 for unknown, one a request, but are "
            f"of type {given.dtype} and shape {given.shape}."
        )
    rows = given.astype(np.int32)
    return Predictions(rows, rows, rows)


def of_quantiles(frame: pl.DataFrame) -> Predictions:
    """Return predictions of a frame's quantiles p50, p90 and p99, as whole tokens."""
    return Predictions(
        *(np.rint(frame[name].to_numpy()).clip(1, 2**31 - 1).astype(np.int32) for name in ("p50", "p90", "p99"))
    )


def refresh_of(every_tokens: int, predicted: np.ndarray, true: np.ndarray, first: int = 0) -> Refresh:
    """Return a refresh learned from what was predicted of finished requests and what they were.

    raises : PredictorError where there are too few
    """
    if len(true) == 0:
        raise PredictorError(
            "predictor.refresh_tokens learns from requests that have finished, but none has. Use a longer "
            "trace, or leave it at 0."
        )
    return Refresh(every_tokens, *refresh_table(predicted.astype(np.float64), true.astype(np.int64)), first)

"""What every length model is: fitted on a frame of features, it predicts quantiles of the output length."""

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
import polars as pl

from predictors.errors import PredictorError

LEVELS = (0.05, 0.5, 0.9, 0.95, 0.99)
QUANTILES = ("p05", "p50", "p90", "p95", "p99")
LOW, MEDIAN, HIGH = 0, 1, 3  # columns of the nominal 90 % interval, and the middle
COVERAGE = 0.9
FEWEST_ROWS = 50
LARGEST_LOG = float(np.log(2.0**31 - 1))


class Model(ABC):
    """A model of output length, on the scale of natural logarithms.

    kind     : its name in conf/predictor and in files
    features : columns of the frame that it reads, known once fitted
    """

    kind = ""
    features: list[str]

    @abstractmethod
    def fit(self, frame: pl.DataFrame) -> Self:
        """Learn from the features and outputs of finished requests; raises PredictorError where they are too few."""

    @abstractmethod
    def logs(self, frame: pl.DataFrame) -> np.ndarray:
        """Return the logarithm of the quantiles LEVELS, float64 (rows, 5), not necessarily in order."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return what a file keeps as JSON; with `arrays`, enough for `restored`."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what a file keeps as arrays."""
        return {}

    @classmethod
    @abstractmethod
    def restored(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> Self:
        """Return the fitted model that `settings` and `arrays` describe."""

    def predict(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the quantiles of the output length in tokens: float64 columns QUANTILES, at least 1, in order."""
        return tokens(self.logs(frame))


def tokens(logs: np.ndarray) -> pl.DataFrame:
    """Return log-quantiles (rows, 5) as tokens: put in order (rearranged), at least 1, at most 2^31 - 1."""
    ordered = np.exp(np.clip(np.sort(logs, axis=1), 0.0, LARGEST_LOG))
    return pl.DataFrame({name: ordered[:, k] for k, name in enumerate(QUANTILES)})


def output_logs(frame: pl.DataFrame, kind: str) -> np.ndarray:
    """Return the logarithms of the true outputs of a training frame; raise PredictorError where rows are too few."""
    if frame.height < FEWEST_ROWS:
        raise PredictorError(
            f"a {kind} predictor needs at least {FEWEST_ROWS} finished requests to learn from, but there "
            f"are {frame.height}. Use a longer trace, or predictor=constant."
        )
    return np.log(np.maximum(frame["output_tokens"].to_numpy(), 1))


def require(frame: pl.DataFrame, features: list[str]) -> None:
    """Raise PredictorError naming the features that a frame lacks."""
    if missing := [name for name in features if name not in frame.columns]:
        raise PredictorError(
            f"the model reads the features {', '.join(missing)}, which this trace does not give. Train a "
            f"model on a trace with the same columns."
        )


def matrix(frame: pl.DataFrame, features: list[str]) -> np.ndarray:
    """Return features as float32 (rows, features), C order; raises as `require`."""
    require(frame, features)
    rows = np.empty((frame.height, len(features)), np.float32)
    for k, name in enumerate(features):
        rows[:, k] = frame[name].to_numpy()
    return rows

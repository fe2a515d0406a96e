"""Models without a learner: quantiles of a group, and the mean of what the nearest prefix or session had before."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import polars as pl

from predictors.errors import PredictorError
from predictors.features import PREFIX_DEPTHS, feature_names
from predictors.model import LEVELS, Model, output_logs, require

BY = ("tier", "kind")
# groups that say most about a request first
NEAREST = ("session", *(f"prefix_{depth}" for depth in reversed(PREFIX_DEPTHS)), "tenant", "kind", "same", "similar")
PRIOR = 2.0  # completions that the mean of all is worth beside those of a group


class Group(Model):
    """Quantiles of the output lengths of a request's tier or kind; without `by`, of all: the constant baseline.

    by : columns of BY whose values tell groups apart; a group that was not seen has the quantiles of all
    """

    kind = "group"

    def __init__(self, by: Sequence[str] = ()) -> None:
        if isinstance(by, str) or any(name not in BY for name in by):
            raise PredictorError(
                f"predictor.by must be a list of {' and '.join(BY)}, but is {by!r}. Write predictor.by=[kind]."
            )
        self.by, self.features = list(by), []
        self.table: dict[str, list[float]] = {}

    def fit(self, frame: pl.DataFrame) -> Self:
        """Take the quantiles of each group; raises PredictorError for fewer than 50 rows."""
        logs = output_logs(frame, self.kind)
        names = self._names(frame)
        self.table = {"": np.quantile(logs, LEVELS).tolist()}
        for name in np.unique(names):
            self.table[str(name)] = np.quantile(logs[names == name], LEVELS).tolist()
        return self

    def logs(self, frame: pl.DataFrame) -> np.ndarray:
        """Return the log-quantiles of each row's group, float64 (rows, 5)."""
        found, rows = np.unique(self._names(frame), return_inverse=True)
        return np.array([self.table.get(str(name), self.table[""]) for name in found])[rows]

    def settings(self) -> dict[str, Any]:
        """Return the groups and their quantiles."""
        return {"by": self.by, "features": [], "table": self.table}

    @classmethod
    def restored(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> Self:
        """Return the model of a file."""
        model = cls(settings["by"])
        model.table = {str(name): list(map(float, values)) for name, values in settings["table"].items()}
        return model

    def _names(self, frame: pl.DataFrame) -> np.ndarray:
        if not self.by:
            return np.full(frame.height, "")
        return frame.select(pl.concat_str(self.by, separator="\t")).to_series().to_numpy().astype(str)


class History(Model):
    """The recent mean log-output of the nearest group with completions, drawn to that of all where they are few.

    The nearest is the first of NEAREST with a completion: the session, the longest known prefix, and so on.
    """

    kind = "history"

    def __init__(self) -> None:
        self.features: list[str] = []
        self.center = 0.0  # mean log-output in training, where nothing has finished yet
        self.spread = np.zeros(len(LEVELS))

    def fit(self, frame: pl.DataFrame) -> Self:
        """Take the spread of the outputs around the means; raises PredictorError for fewer than 50 rows."""
        logs = output_logs(frame, self.kind)
        there = {f"{name}_{part}" for name in NEAREST for part in ("recent", "known")}
        self.features = [name for name in feature_names(frame) if name in there or name == "all_recent"]
        self.center = float(logs.mean())
        self.spread = np.quantile(logs - self._middle(frame), LEVELS)
        return self

    def logs(self, frame: pl.DataFrame) -> np.ndarray:
        """Return the log-quantiles, float64 (rows, 5): the mean and the spread of training around it."""
        return self._middle(frame)[:, None] + self.spread

    def settings(self) -> dict[str, Any]:
        """Return the spread and the mean of training."""
        return {"features": self.features, "center": self.center, "spread": self.spread.tolist()}

    @classmethod
    def restored(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> Self:
        """Return the model of a file."""
        model = cls()
        model.features, model.center = list(settings["features"]), float(settings["center"])
        model.spread = np.array(settings["spread"], np.float64)
        return model

    def _middle(self, frame: pl.DataFrame) -> np.ndarray:
        require(frame, self.features)
        every = frame["all_recent"].to_numpy().astype(np.float64)
        middle = np.where(every >= 0, every, self.center)
        waits = np.ones(frame.height, bool)
        for name in NEAREST:
            if f"{name}_known" not in self.features:
                continue
            known = frame[f"{name}_known"].to_numpy().astype(np.float64)
            mean = (known * frame[f"{name}_recent"].to_numpy() + PRIOR * middle) / (known + PRIOR)
            taken = waits & (known > 0)
            middle = np.where(taken, mean, middle)
            waits &= ~taken
        return middle

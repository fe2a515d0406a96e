"""How long a prefill and an iteration of one instance take, learned from rows that were measured or sampled.

Both models are sums of non-negative coefficients times known terms, so that more work never takes less time. They are
fitted to relative error: a row's residual is divided by its time, hence short and long ones weigh the same.

source : the terms are the operations of a transformer's forward pass, as in DistServe (Zhong et al., OSDI 2024),
         appendix A; non-negative least squares by Lawson and Hanson (1974), in scipy.optimize.nnls
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
from scipy.optimize import nnls

from predictors.errors import PredictorError

TIME = "time_s"
UNFITTED = np.empty(0)


@dataclass(eq=False)
class TimeModel(ABC):
    """Seconds as a non-negative combination of terms.

    coefficients : float64 (len(terms),) [s per unit of its term] >= 0; empty before `fit`
    kind, columns, terms : the model's name in its settings, the columns it reads, and what each coefficient multiplies
    """

    coefficients: np.ndarray = field(default_factory=lambda: UNFITTED)
    kind: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    terms: ClassVar[tuple[str, ...]]

    @staticmethod
    @abstractmethod
    def combine(*columns: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the terms, each float64 (rows,), of the columns in the order of `columns`."""

    def fit(self, frame: pl.DataFrame) -> Self:
        """Choose the coefficients with the least sum of squared relative errors; return the model itself.

        A term that is 0 in all rows gets the coefficient 0: rows should hold all the work that is to be predicted.

        frame  : `columns` and time_s [s] > 0; at least as many rows as terms
        raises : PredictorError for columns that are missing or hold no numbers, too few rows, or impossible values
        """
        design, time_s = self._design(frame, (*self.columns, TIME)), _times(frame)
        if len(time_s) < len(self.terms):
            raise PredictorError(f"a fit of {self.kind} needs at least {len(self.terms)} rows, one a coefficient, but "
                                 f"has {len(time_s)}. Measure more sizes.")
        self.coefficients = _non_negative(design / time_s[:, None])
        return self

    def predict(self, frame: pl.DataFrame) -> np.ndarray:
        """Return the seconds of every row, float64 (rows,); raises PredictorError as `fit` does, or before it."""
        if len(self.coefficients) != len(self.terms):
            raise PredictorError(f"{self.kind} predicts only after a fit, but has no coefficients. Call fit first.")
        return self._design(frame, self.columns) @ self.coefficients

    def settings(self) -> dict[str, Any]:
        """Return the fitted model as plain values, which `restored` reads and JSON holds exactly."""
        return {"kind": self.kind, "coefficients": self.coefficients.tolist()}

    @classmethod
    def restored(cls, settings: Mapping[str, Any]) -> Self:
        """Return the model whose `settings` are given.

        raises : PredictorError for another kind, other keys, or coefficients that no fit could give
        """
        if not isinstance(settings, Mapping) or set(settings) != {"kind", "coefficients"}:
            raise PredictorError(f"settings of {cls.kind} must have kind and coefficients, but are {settings!r}. Store "
                                 "what settings() returns.")
        if settings["kind"] != cls.kind:
            raise PredictorError(f"settings of {cls.kind} must be of that kind, but are of {settings['kind']!r}. "
                                 "Restore them with the model of that kind.")
        try:
            found = np.array(settings["coefficients"], np.float64)
        except (TypeError, ValueError):
            found = UNFITTED
        if found.shape != (len(cls.terms),) or not np.isfinite(found).all() or (found < 0).any():
            raise PredictorError(f"coefficients of {cls.kind} must be {len(cls.terms)} finite numbers >= 0, for "
                                 f"{', '.join(cls.terms)}, but are {settings['coefficients']!r}. Fit the model again.")
        return cls(found)

    def _design(self, frame: pl.DataFrame, required: tuple[str, ...]) -> np.ndarray:
        """Return the terms, float64 (rows, len(terms)), or say what is wrong with the columns."""
        _require(frame, required, self.kind)
        design = np.column_stack(self.combine(*(_floats(frame, name) for name in self.columns)))
        wrong = np.argwhere(~(np.isfinite(design) & (design >= 0)))
        if len(wrong):
            row, term = wrong[0]
            raise PredictorError(f"the term {self.terms[term]} of {self.kind} must be finite and >= 0 in every row, "
                                 f"but is {design[row, term]:g} in row {row}. Correct or drop that row.")
        return design


@dataclass(eq=False)
class PrefillTime(TimeModel):
    """Seconds of one prompt prefilled alone: c0 + c1 n + c2 n^2 + c3 n cached.

    columns : new_tokens n, computed now; cached_tokens, the prefix found in the cache
    """

    kind = "prefill_time"
    columns = ("new_tokens", "cached_tokens")
    terms = ("1", "new", "new^2", "new*cached")

    @staticmethod
    def combine(*columns: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return 1, n, n^2 and n * cached, each float64 (rows,)."""
        new, cached = columns
        return np.ones(len(new)), new, new * new, new * cached

    def fit(self, frame: pl.DataFrame) -> Self:
        """Choose the coefficients as TimeModel.fit does; of rows without any cached token c3 is set to 2 c2.

        Attention of n tokens after `cached` others computes (n + cached)^2 - cached^2 = n^2 + 2 n cached pairs (twice).
        """
        super().fit(frame)
        if not _floats(frame, "cached_tokens").any():
            self.coefficients[3] = 2 * self.coefficients[2]
        return self


@dataclass(eq=False)
class IterationTime(TimeModel):
    """Seconds of one iteration: c0 + c1 p + c2 p (p + 2 cached) + c3 batch + c4 context.

    columns : prefill_tokens p, computed in this iteration; cached_tokens, the context already there of the prompt that
              is prefilled; batch, requests that decode; context_tokens, the sum of their contexts
    Of several chunks [a, b) in one iteration, cached_tokens stands for (Q / p - p) / 2 with Q their sum of b^2 - a^2;
    it may then be negative, down to -p / 2.
    """

    kind = "iteration_time"
    columns = ("prefill_tokens", "cached_tokens", "batch", "context_tokens")
    terms = ("1", "prefill", "prefill*(prefill+2*cached)", "batch", "context")

    @staticmethod
    def combine(*columns: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return 1, p, p (p + 2 cached), batch and context, each float64 (rows,)."""
        prefill, cached, batch, context = columns
        return np.ones(len(prefill)), prefill, prefill * (prefill + 2 * cached), batch, context


def errors(model: TimeModel, frame: pl.DataFrame) -> dict[str, float]:
    """Return how far a fitted model is off, as shares of the true times.

    frame   : as for `fit`, of rows that the fit has not seen if the error of new ones is asked for
    returns : relative_error_mean, relative_error_median, relative_error_p90, all >= 0
    raises  : PredictorError as `fit` does, or for a frame without rows
    """
    _require(frame, (*model.columns, TIME), model.kind)
    time_s = _times(frame)
    if len(time_s) == 0:
        raise PredictorError(f"errors of {model.kind} need at least 1 row, but the frame has 0. Hold out some rows.")
    relative = np.abs(model.predict(frame) / time_s - 1.0)
    return {
        "relative_error_mean": float(relative.mean()),
        "relative_error_median": float(np.median(relative)),
        "relative_error_p90": float(np.quantile(relative, 0.9)),
    }


def _require(frame: pl.DataFrame, names: tuple[str, ...], kind: str) -> None:
    """Refuse a frame that lacks columns, or whose columns hold no numbers, naming all of them."""
    if missing := [name for name in names if name not in frame.columns]:
        raise PredictorError(f"{kind} needs the columns {', '.join(names)}, but the frame lacks {', '.join(missing)}. "
                             "Rename or add them.")
    if texts := [f"{name} ({frame[name].dtype})" for name in names if not frame[name].dtype.is_numeric()]:
        raise PredictorError(f"{kind} needs numbers in every column it reads, but finds {', '.join(texts)}. Cast them.")


def _floats(frame: pl.DataFrame, name: str) -> np.ndarray:
    """Return a column as float64 (rows,), nulls as NaN."""
    return frame[name].cast(pl.Float64).to_numpy().astype(np.float64)


def _times(frame: pl.DataFrame) -> np.ndarray:
    time_s = _floats(frame, TIME)
    wrong = np.flatnonzero(~(np.isfinite(time_s) & (time_s > 0)))
    if len(wrong):
        raise PredictorError(f"{TIME} must be finite and > 0 s in every row, but is {time_s[wrong[0]]:g} in row "
                             f"{wrong[0]}. Drop the rows without a measured time.")
    return time_s


def _non_negative(design: np.ndarray) -> np.ndarray:
    """Return the c >= 0 (terms,) of the least |design c - 1|; columns are brought to one length first, for accuracy."""
    lengths = np.linalg.norm(design, axis=0)
    lengths[lengths == 0] = 1.0
    found, _ = nnls(design / lengths, np.ones(len(design)), maxiter=100 * design.shape[1])
    return np.asarray(found / lengths, np.float64)

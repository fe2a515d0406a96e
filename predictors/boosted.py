"""Gradient-boosted quantiles of the log-length, and a model that learns only who is longer than whom."""

from typing import Any, Self

import numpy as np
import polars as pl

from predictors.errors import PredictorError
from predictors.features import feature_names
from predictors.model import LEVELS, Model, matrix, output_logs
from predictors.trees import DEPTH, Tree, Trees, joined, of_lightgbm, of_sklearn

LIBRARIES = ("sklearn", "lightgbm")
ITERATIONS, LEARNING_RATE, LEAVES, FEWEST_IN_LEAF, FEATURE_SHARE = 60, 0.1, 31, 50, 0.5
FEWEST_SHARED = 100_000  # rows from which on several threads grow trees
RANK_GRID = 50  # steps of the map from rank to length


class Boosted(Model):
    """Quantiles of the log-length by gradient boosting, one ensemble a level.

    library : sklearn (HistGradientBoostingRegressor) or lightgbm, which must be installed
    seed    : of the features that each split may use
    source  : quantile boosting as in LightGBM (Ke et al., NeurIPS 2017), whose histograms scikit-learn follows
    """

    kind = "boosted"

    def __init__(self, library: str = "sklearn", seed: int = 0, iterations: int = ITERATIONS) -> None:
        if library not in LIBRARIES:
            raise PredictorError(f"predictor.library must be one of {', '.join(LIBRARIES)}, but is {library!r}.")
        if isinstance(iterations, bool) or not isinstance(iterations, int) or not 1 <= iterations <= 10_000:
            raise PredictorError(
                f"predictor.iterations must be a whole number from 1 to 10,000, but is {iterations!r}."
            )
        self.library, self.seed, self.iterations = library, seed, iterations
        self.features: list[str] = []
        self.trees: Trees | None = None

    def fit(self, frame: pl.DataFrame) -> Self:
        """Grow the trees; raises PredictorError for fewer than 50 rows, or a library that is not installed."""
        logs = output_logs(frame, self.kind)
        self.features = feature_names(frame)
        rows = matrix(frame, self.features)
        self.trees = joined([grown(self.library, rows, logs, self.seed, self.iterations, level) for level in LEVELS])
        return self

    def logs(self, frame: pl.DataFrame) -> np.ndarray:
        """Return the log-quantiles, float64 (rows, 5)."""
        assert self.trees is not None, "fit comes before predict"
        return self.trees.predict(matrix(frame, self.features))

    def settings(self) -> dict[str, Any]:
        """Return library, seed, iterations and features."""
        return {"library": self.library, "seed": self.seed, "iterations": self.iterations, "features": self.features}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the trees."""
        assert self.trees is not None, "fit comes before save"
        return self.trees._asdict()

    @classmethod
    def restored(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> Self:
        """Return the model of a file."""
        model = cls(settings["library"], settings["seed"], settings["iterations"])
        model.features = list(settings["features"])
        model.trees = Trees(*(arrays[name] for name in Trees._fields))
        model.trees.check(len(model.features))
        return model


class Rank(Boosted):
    """The share of requests that are shorter, by boosting; lengths are those of training near the same score.

    What orders by length needs no more than ranks, and ranks have no tail that could dominate their fit.

    source : learning to rank for LLM scheduling (Fu et al., NeurIPS 2024), by regression on the rank instead of lists
    """

    kind = "rank"

    def __init__(self, library: str = "sklearn", seed: int = 0, iterations: int = ITERATIONS) -> None:
        super().__init__(library, seed, iterations)
        self.grid, self.scores = np.zeros((1, len(LEVELS))), np.zeros(1)

    def fit(self, frame: pl.DataFrame) -> Self:
        """Grow trees on the ranks, and map their scores to quantiles of the lengths there, never falling."""
        logs = output_logs(frame, self.kind)
        self.features = feature_names(frame)
        rows = matrix(frame, self.features)
        order = np.sort(logs)
        ranks = (np.searchsorted(order, logs, "left") + np.searchsorted(order, logs, "right")) / (2.0 * len(logs))
        self.trees = joined([grown(self.library, rows, ranks, self.seed, self.iterations, None)])
        scores = self.trees.predict(rows)[:, 0]
        parts = np.array_split(np.argsort(scores, kind="stable"), min(RANK_GRID, len(scores) // FEWEST_IN_LEAF or 1))
        self.scores = np.array([scores[part].mean() for part in parts])
        grid = np.array([np.quantile(logs[part], LEVELS) for part in parts])
        self.grid = np.maximum.accumulate(grid, axis=0)
        return self

    def logs(self, frame: pl.DataFrame) -> np.ndarray:
        """Return the log-quantiles of the ranks, float64 (rows, 5)."""
        scores = super().logs(frame)[:, 0]
        return np.column_stack([np.interp(scores, self.scores, self.grid[:, k]) for k in range(len(LEVELS))])

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the trees and the map from score to length."""
        return {**super().arrays(), "scores": self.scores, "grid": self.grid}

    @classmethod
    def restored(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> Self:
        """Return the model of a file."""
        model = super().restored(settings, arrays)
        model.scores, model.grid = arrays["scores"], arrays["grid"]
        return model


def grown(
    library: str, rows: np.ndarray, target: np.ndarray, seed: int, iterations: int, level: float | None
) -> tuple[float, list[Tree]]:
    """Return the start and the trees of a quantile of a target, of its mean if level is None."""
    if library == "lightgbm":
        return of_lightgbm(_lightgbm(rows, target, seed, iterations, level))
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    model = HistGradientBoostingRegressor(
        loss="squared_error" if level is None else "quantile",
        quantile=level,
        max_iter=iterations,
        random_state=seed,
        learning_rate=LEARNING_RATE,
        max_leaf_nodes=LEAVES,
        max_depth=DEPTH,
        min_samples_leaf=min(FEWEST_IN_LEAF, len(rows) // 4),
        max_features=FEATURE_SHARE,
        early_stopping=False,
    )
    with threadpool_limits(limits=_threads(rows), user_api="openmp"):
        return of_sklearn(model.fit(rows, target))


def _threads(rows: np.ndarray) -> int | None:
    """Return how many threads may grow trees: one for few rows, where they would wait longer than they work."""
    return 1 if len(rows) < FEWEST_SHARED else None


def _lightgbm(rows: np.ndarray, target: np.ndarray, seed: int, iterations: int, level: float | None) -> Any:
    try:
        import lightgbm
    except ImportError:
        raise PredictorError(
            "predictor.library=lightgbm needs LightGBM, which is not installed. Install "
            "kvreplay[predict], or leave it at sklearn."
        ) from None
    objective = {"objective": "regression"} if level is None else {"objective": "quantile", "alpha": level}
    settings = {
        **objective,
        "learning_rate": LEARNING_RATE,
        "num_leaves": LEAVES,
        "max_depth": DEPTH,
        "verbose": -1,
        "seed": seed,
        "min_data_in_leaf": min(FEWEST_IN_LEAF, len(rows) // 4),
        "feature_fraction_bynode": FEATURE_SHARE,
        "deterministic": True,
        "num_threads": _threads(rows) or 0,
        "force_row_wise": True,
        "use_missing": False,
    }
    return lightgbm.train(settings, lightgbm.Dataset(rows, target), num_boost_round=iterations)

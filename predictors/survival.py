"""How many tokens are still to come from a request that has so many already: survival of output lengths.

Requests that still run when a model learns are not left out, which would hide the long ones: they are censored.
"""

from typing import Any, Self

import numpy as np
import polars as pl

from predictors.errors import PredictorError
from predictors.model import LARGEST_LOG, LEVELS, Model, output_logs

STEPS_AN_OCTAVE = 4
GRID = 4 * 31 + 1  # points of generated tokens, 2^(k / 4) - 1
CLASSES = 8  # of requests by predicted length, as many in each


def grid_tokens() -> np.ndarray:
    """Return the generated tokens at which the expectation is kept, float64 (GRID,): 0, .19, .41, ... 2^31 - 1."""
    return 2.0 ** (np.arange(GRID) / STEPS_AN_OCTAVE) - 1.0


def kaplan_meier(seen: np.ndarray, ended: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return lengths and the share that lives longer than each, by the product-limit estimate.

    seen    : int (requests,), tokens when last seen
    ended   : bool (requests,), whether that was the end; False is censored
    returns : distinct lengths at which something ended, ascending; float64 survival after each, the last one 0
    source  : Kaplan and Meier 1958; the largest length counts as an end, so that expectations are finite
    """
    order = np.lexsort((~ended, seen))
    seen, ended = seen[order], ended[order].copy()
    ended[-1] = True
    lengths, first = np.unique(seen, return_index=True)
    ends = np.add.reduceat(ended.astype(np.int64), first)
    at_risk = len(seen) - first
    alive = np.cumprod(1.0 - ends / at_risk)
    kept = ends > 0
    return lengths[kept].astype(np.float64), alive[kept]


def expected_left(lengths: np.ndarray, alive: np.ndarray, generated: np.ndarray) -> np.ndarray:
    """Return E[L - g | L > g] of a survival curve, float64 like `generated`; 1 beyond its end: a next token is sure."""
    before = np.concatenate(([1.0], alive[:-1]))  # survival up to each length
    edges = np.concatenate(([0.0], lengths))
    areas = np.concatenate((np.cumsum((before * np.diff(edges))[::-1])[::-1], [0.0]))  # from each edge on
    place = np.searchsorted(lengths, generated, "right")
    there = place < len(lengths)
    k = np.minimum(place, len(lengths) - 1)
    share = before[k]
    area = areas[k + 1] + before[k] * (lengths[k] - generated)
    return np.where(there & (share > 0), np.maximum(area / np.maximum(share, 1e-300), 1.0), 1.0)


class Survival(Model):
    """Survival curves of the output lengths, one a class of prompt lengths; its quantiles are those of the curves.

    fit takes every request that had arrived: those whose output is not known yet by `now_s` count as censored.
    """

    kind = "survival"

    def __init__(self, classes: int = CLASSES) -> None:
        if isinstance(classes, bool) or not isinstance(classes, int) or not 1 <= classes <= 64:
            raise PredictorError(f"predictor.classes must be a whole number from 1 to 64, but is {classes!r}.")
        self.classes, self.features = classes, ["prompt_log"]
        self.edges = np.zeros(0)
        self.table = np.zeros((1, len(LEVELS)))
        self.left = np.zeros((1, GRID))

    def fit(self, frame: pl.DataFrame) -> Self:
        """Estimate the curves; a column `generated_tokens` marks requests cut off, -1 for those that finished."""
        output_logs(frame, self.kind)
        cut = frame["generated_tokens"].to_numpy() if "generated_tokens" in frame.columns else np.full(frame.height, -1)
        seen = np.where(cut >= 0, cut, frame["output_tokens"].to_numpy())
        prompt = frame["prompt_log"].to_numpy()
        self.edges, curves = curves_by(prompt, seen, cut < 0, self.classes)
        self.table = np.array([_quantiles(*curve) for curve in curves])
        self.left = _left(curves)
        return self

    def logs(self, frame: pl.DataFrame) -> np.ndarray:
        """Return the log-quantiles of each row's curve, float64 (rows, 5)."""
        return self.table[np.searchsorted(self.edges, frame["prompt_log"].to_numpy(), "right")]

    def expected_left(self, frame: pl.DataFrame, generated: np.ndarray) -> np.ndarray:
        """Return the expected tokens still to come after so many, float64 (rows,), linear between grid points."""
        rows = np.searchsorted(self.edges, frame["prompt_log"].to_numpy(), "right")
        return left_after(self.left, rows, generated)

    def settings(self) -> dict[str, Any]:
        """Return the number of classes."""
        return {"classes": self.classes, "features": self.features}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the curves."""
        return {"edges": self.edges, "table": self.table, "left": self.left}

    @classmethod
    def restored(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> Self:
        """Return the model of a file."""
        model = cls(settings["classes"])
        model.edges, model.table, model.left = arrays["edges"], arrays["table"], arrays["left"]
        return model


def _quantiles(lengths: np.ndarray, alive: np.ndarray) -> list[float]:
    places = [min(int(np.argmax(alive <= 1.0 - level + 1e-12)), len(lengths) - 1) for level in LEVELS]
    return [min(float(np.log(max(lengths[place], 1.0))), LARGEST_LOG) for place in places]


def left_after(table: np.ndarray, rows: np.ndarray, generated: np.ndarray) -> np.ndarray:
    """Return a table's expectation (classes, GRID) for a class and a number of tokens each, linear between points."""
    place = np.minimum(STEPS_AN_OCTAVE * np.log2(np.maximum(generated, 0) + 1.0), GRID - 1.0)
    low = np.minimum(place.astype(np.int64), GRID - 2)
    return table[rows, low] + (place - low) * (table[rows, low + 1] - table[rows, low])


def refresh_table(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what a predictor's own record says of tokens still to come: edges of its classes, expectations.

    predicted : of finished requests, tokens; true : their lengths
    returns   : edges of predicted tokens float64 (classes - 1,), ascending; float64 (classes, GRID)
    """
    edges, curves = curves_by(predicted, true, np.ones(len(true), bool), CLASSES)
    return edges, _left(curves)


def curves_by(
    values: np.ndarray, seen: np.ndarray, ended: np.ndarray, classes: int
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Return edges between classes of values, as many requests in each, and the survival curve of each class.

    seen, ended : as for `kaplan_meier`, whose curve of all an empty class has
    """
    edges = np.unique(np.quantile(values, np.arange(1, classes) / classes))
    rows = np.searchsorted(edges, values, "right")
    masks = [mask if (mask := rows == k).any() else rows >= 0 for k in range(len(edges) + 1)]
    return edges, [kaplan_meier(seen[mask], ended[mask]) for mask in masks]


def _left(curves: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return what is expected still to come at the grid, float64 (curves, GRID)."""
    return np.array([expected_left(*curve, grid_tokens()) for curve in curves])

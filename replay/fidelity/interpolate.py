"""Read values between the points of a measured grid: straight lines in log-log, one rule for every kernel table.

Inside a grid a value lies on the straight line between its neighbours in log-log, so that a power law is met exactly
and a value never leaves the range of its neighbours. Below the first point the first value holds: a kernel that has
nothing to do still has to be launched. Beyond the last point the last slope goes on, within [0, 2]: no kernel here
costs less for more, or grows faster than a square.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

STEEPEST = 2.0


def between(x: np.ndarray, points: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Interpolate in log-log by the rule of this module.

    x       : float64 (n,) read only
    points  : float64 (num_points,), positive, rising
    values  : float64 (num_points,), positive
    returns : float64 (n,); exactly `values` at `points`
    """
    x = np.maximum(np.asarray(x, np.float64), points[0])
    if len(points) == 1:
        return np.full_like(x, values[0])
    logs = np.log(values)
    at = np.clip(np.searchsorted(points, x, side="right") - 1, 0, len(points) - 2)
    slope = (logs[at + 1] - logs[at]) / np.log(points[at + 1] / points[at])
    inside = np.exp(logs[at] + slope * np.log(x / points[at]))
    last = np.clip((logs[-1] - logs[-2]) / np.log(points[-1] / points[-2]), 0.0, STEEPEST)
    beyond = values[-1] * np.exp(last * np.log(np.maximum(x, points[-1]) / points[-1]))
    found = np.where(x > points[-1], beyond, inside)
    exact = np.minimum(np.searchsorted(points, x), len(points) - 1)
    return np.where(points[exact] == x, values[exact], found)  # logs and back would lose the last digit


@dataclass(frozen=True)
class Family:
    """Curves of one kernel at several values of a parameter, such as a batch size: each with its own extent.

    at     : float64 (num_curves,), positive, rising
    curves : one (points, values) pair a curve
    """

    at: np.ndarray
    curves: Sequence[tuple[np.ndarray, np.ndarray]] = field(repr=False)

    def value(self, parameter: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Interpolate along the curves first, then between the two nearest curves.

        parameter, x : float64 (n,) read only
        returns      : float64 (n,)
        """
        of_curves = np.stack([between(x, points, values) for points, values in self.curves])
        rows = zip(np.asarray(parameter, np.float64)[:, None], of_curves.T, strict=True)
        return np.concatenate([between(one, self.at, values) for one, values in rows])

    def beyond(self, parameter: float, x: float) -> float:
        """Return how many times beyond the grid a point lies: 1 inside."""
        nearest = min(int(np.searchsorted(self.at, parameter)), len(self.at) - 1)
        return max(1.0, parameter / float(self.at[-1]), x / float(self.curves[nearest][0][-1]))


def family(parameters: np.ndarray, x: np.ndarray, values: np.ndarray) -> Family:
    """Group a measured grid, complete or not, by its first coordinate.

    parameters, x, values : float64 (rows,) of one kernel; of equal coordinates the median counts
    """
    at = np.unique(parameters)
    return Family(at.astype(np.float64), [curve(x[parameters == one], values[parameters == one]) for one in at])


def curve(x: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort the points of a curve; of equal ones the median counts.

    returns : points and values, float64 (num_points,)
    """
    points, where = np.unique(x, return_inverse=True)
    if len(points) == len(x):
        return points.astype(np.float64), values[np.argsort(x)].astype(np.float64)
    medians = np.array([np.median(values[where == index]) for index in range(len(points))])
    return points.astype(np.float64), medians.astype(np.float64)


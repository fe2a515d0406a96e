"""Fit a few factors of a profile so that replayed requests take as long as recorded ones, with their uncertainty."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares, minimize
from scipy.stats import qmc

from replay.errors import ConfigError
from replay.fidelity.scaling import least_host_s, scaled
from replay.hardware.profile import Profile, decode_s

SCALES = ("prefill", "decode", "kv")
TIMES = ("host_s", "admission_s")
PARAMETERS = (*SCALES, *TIMES)
START = {"prefill": 1.0, "decode": 1.0, "kv": 1.0, "host_s": 0.0, "admission_s": 0.0}
LARGEST_SCALE, LARGEST_TIME = 64.0, 100.0  # the latter in iterations
SOFT = 0.1  # residuals above count by their size, not its square
# Replayed times jump where an arrival passes the end of an iteration: slopes are taken across regions of these radii,
# shares of a factor or of an iteration, and the end is polished by comparing losses.
RADII, LAST_RADIUS, SIMPLEX, MOST_POLISH = (0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08), 0.08, 0.03, 80
# A parameter whose standard error is more, of its own size or of an iteration, is not determined by the log. No log is
# taken to be more exact than the noise, or an exact one would determine everything.
LARGEST_ERROR, LEAST_NOISE = 0.25, 0.01
RESAMPLES, SEED = 400, 0
Values = dict[str, float]
Residuals = Callable[[Values], np.ndarray]  # natural logs of replayed by recorded, (requests, metrics), NaN unknown


@dataclass(frozen=True)
class Fitted:
    """The values of a fit.

    values       : parameter -> value; those of `START` where it was not fitted
    intervals    : fitted parameter -> 95 % interval
    undetermined : parameters that were asked for and left at their start -> standard error with them fitted
    loss         : mean soft loss at the start and at the end; replays: how many it took
    """

    values: Values
    intervals: dict[str, tuple[float, float]]
    undetermined: dict[str, float]
    loss_before: float
    loss_after: float
    replays: int


def applied(profile: Profile, values: Mapping[str, float], kv_free: bool = False) -> Profile:
    """Return the scaled profile that parameter values mean; admission_s is none of its costs.

    kv_free : kv is a parameter of its own; else reading the cache scales as decode does
    """
    kv = values["kv"] if kv_free else values["decode"]
    return scaled(profile, values["prefill"], values["decode"], kv, values["host_s"])


def fit(residuals: Residuals, names: Sequence[str], profile: Profile) -> Fitted:
    """Find the parameters that minimise the robust loss.

    The loss is the sum over requests and metrics of 2 c^2 (sqrt(1 + (r / c)^2) - 1), r the log of replayed by recorded
    and c = 0.1. It is searched from the best common factor of all scales among powers of 2, by least squares on planes
    through the residuals of shrinking regions (logs of scales, times in iterations), then by Nelder-Mead. A parameter
    that the log does not determine is put back to its start, the worst first, and the others are fitted again.
    Intervals come from a bootstrap over blocks of neighbouring requests, each resample solved by one linear step from
    the fit. Not determined is what has a standard error, by that or by the curvature of the loss, of more than 0.25
    of its own size or of an iteration.

    Replayed times jump, so that there are many shallow minima: on exact logs of our own engine, scales come back within
    a few percent.

    residuals : called with every parameter's value
    names     : parameters to fit, of PARAMETERS
    raises    : ConfigError for none, or an unknown one
    """
    if unknown := [name for name in names if name not in PARAMETERS] or (["nothing"] if not names else []):
        raise ConfigError(f"calibrate.fit must list some of {', '.join(PARAMETERS)}, but has '{unknown[0]}'.")
    search = _Search(residuals, profile)
    left = list(dict.fromkeys(names))
    undetermined: dict[str, float] = {}
    while left:
        at = search.best(left)
        rest, slopes = search.region(at, left, LAST_RADIUS, len(RADII))
        moves = search.bootstrap(at, left, rest, slopes)
        errors = np.maximum(_standard_errors(slopes, rest), moves.std(axis=0))
        worst = int(np.argmax(errors))
        if errors[worst] <= LARGEST_ERROR:
            return search.fitted(at, moves, left, undetermined)
        undetermined[left.pop(worst)] = float(errors[worst])
    return search.fitted(np.zeros(0), np.zeros((0, 0)), [], undetermined)


class _Search:
    """Evaluates points of the space in which parameters are searched."""

    def __init__(self, residuals: Residuals, profile: Profile) -> None:
        self.residuals, self.profile, self.replays = residuals, profile, 0
        self.iteration_s = decode_s(profile, 1)
        self._kept: dict[tuple[float, ...], np.ndarray] = {}

    def at(self, values: Values) -> np.ndarray:
        """Return the residuals at some values, each point replayed once."""
        key = tuple(values[name] for name in PARAMETERS)
        if key not in self._kept:
            self.replays += 1
            self._kept[key] = self.residuals(values)
        return self._kept[key]

    def loss(self, values: Values) -> float:
        """Return the mean soft loss at some values."""
        found = self.at(values)
        return float(np.mean(_soft(found[np.isfinite(found)])))

    def values(self, point: np.ndarray, names: Sequence[str]) -> Values:
        """Return what a point of the search space means."""
        found = dict(START)
        for name, x in zip(names, point, strict=True):
            found[name] = float(np.exp(x)) if name in SCALES else float(x) * self.iteration_s
        found["host_s"] = max(found["host_s"], least_host_s(self.profile, found["prefill"], found["decode"]))
        return found

    def best(self, names: Sequence[str]) -> np.ndarray:
        """Return the point of least loss."""
        scales = np.array([name in SCALES for name in names])
        low = np.where(scales, -np.log(LARGEST_SCALE), [0.0 if name == "admission_s" else -1.0 for name in names])
        high = np.where(scales, np.log(LARGEST_SCALE), LARGEST_TIME)
        starts = [np.where(scales, power * np.log(2.0), 0.0) for power in range(-4, 5)] if scales.any() else []
        start = min(starts, key=lambda point: self.loss(self.values(point, names)), default=np.zeros(len(names)))
        point = np.clip(start + np.array([name == "admission_s" for name in names], float), low, high)
        seen = [point]
        for number, radius in enumerate(RADII):
            middle, slopes = self.region(point, names, radius, number)
            inside = np.clip(low - point, -2 * radius, -1e-9), np.clip(high - point, 1e-9, 2 * radius)
            point = np.clip(point + _lowest(middle, slopes, inside), low, high)
            seen.append(point)
        point = min(seen, key=lambda point: self.loss(self.values(point, names)))
        corners = np.clip(np.vstack([point, point + SIMPLEX * np.eye(len(names))]), low, high)
        options = {"initial_simplex": corners, "maxfev": MOST_POLISH, "xatol": 1e-5, "fatol": 1e-12}
        return np.asarray(minimize(lambda point: self.loss(self.values(point, names)), point, method="Nelder-Mead",
                                   bounds=list(zip(low, high, strict=True)), options=options).x)  # fmt: skip

    def region(self, point: np.ndarray, names: Sequence[str], radius: float, number: int) -> tuple[
            np.ndarray, np.ndarray]:  # fmt: skip
        """Return residuals and their slopes at a point as a plane through those of a box around it says.

        number : which points of the box are taken
        """
        count = 1 << (2 * len(names) + 1).bit_length()
        drawn = qmc.Sobol(len(names), seed=SEED + number).random(count)
        moves = np.vstack([np.zeros(len(names)), (2.0 * drawn - 1.0) * radius])
        rows = np.array([self._rows(point + move, names) for move in moves])
        plane = np.linalg.lstsq(np.column_stack([np.ones(len(moves)), moves]), rows, rcond=None)[0]
        return plane[0], plane[1:].T

    def fitted(self, point: np.ndarray, moves: np.ndarray, names: list[str], undetermined: dict[str, float]) -> Fitted:
        """Put together the result of a search."""
        values = self.values(point, names)
        intervals = {}
        for place, name in enumerate(names):
            ends = [self.values(point + np.eye(len(names))[place] * move, names)[name]
                    for move in np.quantile(moves[:, place], (0.025, 0.975))]  # fmt: skip
            intervals[name] = (min(ends[0], values[name]), max(ends[1], values[name]))
        return Fitted(values, intervals, undetermined, self.loss(START), self.loss(values), self.replays)

    def bootstrap(self, point: np.ndarray, names: Sequence[str], rest: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        """Return how far the fit would move for resampled requests, (resamples, parameters).

        The step of the whole sample, which is not 0 where the loss has kinks, is taken off.
        """
        weights = _weights(rest)
        known = np.isfinite(self.at(self.values(point, names)))
        owner = np.nonzero(known)[0]  # the request of each row
        count = known.shape[0]
        square = np.zeros((count, len(names), len(names)))
        np.add.at(square, owner, weights[:, None, None] * slopes[:, :, None] * slopes[:, None, :])
        pull = np.zeros((count, len(names)))
        np.add.at(pull, owner, (weights * rest)[:, None] * slopes)
        size = max(1, round(count ** (1 / 3)))
        draws = np.random.default_rng(SEED).integers(0, count, (RESAMPLES, -(-count // size)))
        taken = ((draws[:, :, None] + np.arange(size)) % count).reshape(RESAMPLES, -1)[:, :count]

        def step(rows: np.ndarray) -> np.ndarray:
            return -np.linalg.lstsq(square[rows].sum(axis=0), pull[rows].sum(axis=0), rcond=None)[0]

        return np.array([step(rows) for rows in taken]) - step(np.arange(count))

    def _rows(self, point: np.ndarray, names: Sequence[str]) -> np.ndarray:
        found = self.at(self.values(point, names))
        return found[np.isfinite(found)]


def _lowest(middle: np.ndarray, slopes: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the move within bounds that has the least soft loss on a plane."""
    return np.asarray(least_squares(lambda move: middle + slopes @ move, np.zeros(slopes.shape[1]),
                                    lambda move: slopes, bounds=bounds, loss="soft_l1", f_scale=SOFT).x)  # fmt: skip


def _soft(residuals: np.ndarray) -> np.ndarray:
    return 2.0 * SOFT**2 * (np.sqrt(1.0 + (residuals / SOFT) ** 2) - 1.0)


def _weights(residuals: np.ndarray) -> np.ndarray:
    return 1.0 / np.sqrt(1.0 + (residuals / SOFT) ** 2)


def _standard_errors(slopes: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Return the standard error of each parameter from the curvature of the loss; infinite where it has none."""
    weights = _weights(rest)
    curvature = slopes.T @ (weights[:, None] * slopes)
    noise = max(float(np.sqrt(np.mean(weights * rest**2))), LEAST_NOISE)
    values, vectors = np.linalg.eigh(curvature)
    flat = values <= max(1e-12 * values[-1], 1e-12)
    spread = (vectors**2 / np.where(flat, np.inf, values)).sum(axis=1)
    touched = (vectors**2)[:, flat].sum(axis=1) > 1e-6
    return np.where(touched, np.inf, noise * np.sqrt(spread))

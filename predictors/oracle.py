"""The true output length, blurred: stands for any predictor of a given quality, so that its worth can be found out.

No trace has the text that real length predictors read; what they reach is known, as a rank correlation or an error.
"""

from typing import Any

import numpy as np

from predictors.errors import PredictorError
from predictors.metrics import tau as kendall

STREAM = 0x70726564  # tells these draws from others of the same seed
MOST_SIGMA = 1024.0  # beyond any order that lengths within int32 could keep
SAMPLE = 50_000  # rows on which a target is looked for, evenly spaced: tau and the mean error then err by about 0.5 %
TOLERANCE = {"tau": 0.01, "mae_tokens": 0.01}  # absolute, and relative


def oracle(
    true: np.ndarray, seed: int, sigma: Any = None, tau: Any = None, mae_tokens: Any = None, bias: Any = 1.0,
    shrink: Any = False,
) -> np.ndarray:
    """Return round(bias * true * exp(sigma z)), at least 1, with z standard normal: int32 (requests,).

    true       : output tokens, int (requests,)
    seed       : of z; the same seed gives the same z for every sigma
    sigma      : the noise; 0 is the truth. Or one target, met by bisection on sigma:
    tau        : Kendall tau-b against the truth, within .01; 0 stands for noise alone
    mae_tokens : mean absolute error, within 1 %
    bias       : what every prediction is multiplied by; it changes no rank
    shrink     : pull the noisy look towards the mean of the logarithms as far as it is worth, v / (v + sigma^2) for
                 logarithms of variance v: the best guess that it allows. Ranks, and so tau, stay but for ties
    raises     : PredictorError for two targets or none, values out of range, or a target that no noise reaches
    """
    given = {"sigma": sigma, "tau": tau, "mae_tokens": mae_tokens}
    chosen = {name: value for name, value in given.items() if value is not None}
    if len(chosen) != 1:
        raise PredictorError(f"a predictor of kind oracle needs one of predictor.sigma, tau and mae_tokens, but has "
                             f"{', '.join(chosen) or 'none'}. Set the others to null.")
    (name, value), scale = next(iter(chosen.items())), _number("bias", bias, 1e-6, 1e6)
    noise = np.random.default_rng((seed, STREAM)).standard_normal(len(true))
    if not isinstance(shrink, bool):
        raise PredictorError(f"predictor.shrink must be true or false, but is {shrink!r}. Write predictor.shrink=true.")
    highest = {"sigma": MOST_SIGMA, "tau": 1.0, "mae_tokens": 1e9}[name]
    target = _number(name, value, 0.0, highest)
    if name != "sigma":
        step = max(1, len(true) // SAMPLE)
        try:
            target = _sigma_for(name, target, true[::step], noise[::step], scale, shrink)
        except PredictorError:  # noise that happens to rise with the truth never gets to tau 0: its mirror image does
            target, noise = _sigma_for(name, target, true[::step], -noise[::step], scale, shrink), -noise
    return _blurred(true, noise, target, scale, shrink)


def _number(name: str, value: Any, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise PredictorError(f"predictor.{name} must be a number from {least:g} to {most:g}, but is {value!r}.")
    return float(value)


def _blurred(true: np.ndarray, noise: np.ndarray, sigma: float, bias: float, shrink: bool) -> np.ndarray:
    logs = np.log(np.maximum(true, 1))
    center, variance = logs.mean(), logs.var()
    logs = logs + sigma * noise
    if shrink and sigma > 0:
        logs = center + (logs - center) * variance / (variance + sigma**2)
    logs = logs + np.log(bias)
    return np.rint(np.exp(np.clip(logs, 0.0, np.log(2.0**31 - 1)))).clip(1, 2**31 - 1).astype(np.int32)


def _sigma_for(name: str, target: float, true: np.ndarray, noise: np.ndarray, bias: float, shrink: bool) -> float:
    """Return the noise at which a target is met on a sample; more noise lowers tau and raises the error."""
    sign = -1.0 if name == "tau" else 1.0

    def reached(sigma: float) -> float:
        predicted = _blurred(true, noise, sigma, bias, shrink)
        if name == "tau":
            found = kendall(predicted.astype(np.float64), true.astype(np.float64))
            return 0.0 if np.isnan(found) else found
        return float(np.abs(predicted.astype(np.float64) - true).mean())

    low, high = 0.0, 1.0
    while sign * (target - reached(high)) > 0 and high < MOST_SIGMA:
        high *= 2.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if sign * (target - reached(middle)) > 0 else (low, middle)
    best = min((low, high), key=lambda sigma: abs(reached(sigma) - target))
    error = abs(reached(best) - target) / (1.0 if name == "tau" else max(target, 1.0))
    if error > TOLERANCE[name]:
        ends = sorted((reached(0.0), reached(MOST_SIGMA)))
        raise PredictorError(f"predictor.{name}={target:g} cannot be reached on this trace by noise of the truth: it "
                             f"gives {ends[0]:.3g} to {ends[1]:.3g}. Choose a target between.")
    return best

"""Laws of lengths and waits: each draws `count` numbers from a seeded stream, by mean and spread."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from traces.errors import TraceError
from traces.params import accept, choose, given, number, stream, text

LARGEST = 2**31 - 1


def constant(random: np.random.Generator, count: int, mean: float) -> np.ndarray:
    """Repeat one value."""
    return np.full(count, number("mean", mean, low=0.0))


def uniform(random: np.random.Generator, count: int, low: float, high: float) -> np.ndarray:
    """Draw uniformly between `low` and `high`."""
    least = number("low", low, low=0.0)
    return random.uniform(least, number("high", high, low=least), count)


def exponential(random: np.random.Generator, count: int, mean: float) -> np.ndarray:
    """Draw exponentials (coefficient of variation 1)."""
    return random.standard_exponential(count) * number("mean", mean, low=0.0)


def geometric(random: np.random.Generator, count: int, mean: float) -> np.ndarray:
    """Draw whole numbers 1, 2, ... with the memoryless law of the given mean, which is at least 1."""
    return random.geometric(1.0 / number("mean", mean, low=1.0), count).astype(float)


def lognormal(random: np.random.Generator, count: int, mean: float, cv: float) -> np.ndarray:
    """Draw lognormals of the given mean and coefficient of variation."""
    spread = math.log1p(number("cv", cv, low=0.0) ** 2)
    return number("mean", mean, above=0.0) * np.exp(random.standard_normal(count) * math.sqrt(spread) - spread / 2)


def pareto(random: np.random.Generator, count: int, mean: float, alpha: float, stratified: bool = False) -> np.ndarray:
    """Draw Pareto values of the given mean: P(X > x) = (low / x)^alpha with low = mean (alpha - 1) / alpha.

    alpha : tail index, above 1; the variance is infinite up to 2, so sample means converge slowly
    """
    index = number("alpha", alpha, above=1.0)
    low = number("mean", mean, above=0.0) * (index - 1) / index
    return low * _uniforms(random, count, stratified) ** (-1 / index)


def bounded_pareto(
    random: np.random.Generator, count: int, mean: float, alpha: float, high: float, stratified: bool = False
) -> np.ndarray:
    """Draw Pareto values cut at `high`, with the lower end chosen so that the mean is as given.

    alpha  : tail index, above 0
    source : Harchol-Balter, Performance Modeling and Design of Computer Systems, 2013, section 20.4
    """
    index, top = number("alpha", alpha, above=0.0), number("high", high, above=0.0)
    low = bounded_pareto_low(number("mean", mean, above=0.0, high=top), index, top)
    rest = _uniforms(random, count, stratified)
    return low * (rest + (1 - rest) * (low / top) ** index) ** (-1 / index)


def bounded_pareto_low(mean: float, alpha: float, high: float) -> float:
    """Solve for the lower end of a bounded Pareto law, whose mean rises in it, by bisection."""
    least, most = high * 1e-15, high
    for _ in range(200):
        low = math.sqrt(least * most)
        ratio = low / high
        if ratio == 1.0:
            break
        if abs(alpha - 1) < 1e-9:
            reached = -low * math.log(ratio) / (1 - ratio)
        else:
            reached = low * alpha / (alpha - 1) * (1 - ratio ** (alpha - 1)) / (1 - ratio**alpha)
        least, most = (low, most) if reached < mean else (least, low)
    return math.sqrt(least * most)


def empirical(
    random: np.random.Generator,
    count: int,
    values: Any = None,
    weights: Any = None,
    path: str | None = None,
    column: str = "prompt_tokens",
) -> np.ndarray:
    """Draw from observed values with replacement: a list, or a column of a trace file.

    values, weights : lists of equal length; weights are relative, equal when null
    path, column    : a trace file and one of its number columns, instead of `values`
    """
    if (values is None) == (path is None):
        raise TraceError("law 'empirical' draws from 'values' or from 'path': give exactly one of them.")
    if path is not None:
        from traces.readers import load

        values = load(text("path", path)).column(text("column", column))
    observed = _numbers("values", values)
    if weights is None:
        return observed[random.integers(0, len(observed), count)]
    shares = _numbers("weights", weights)
    if len(shares) != len(observed) or shares.sum() <= 0:
        raise TraceError(
            f"'weights' must hold one number for each of the {len(observed)} values and not all zero, "
            f"but it holds {len(shares)} with sum {shares.sum():g}."
        )
    edges = np.cumsum(shares / shares.sum())
    return observed[np.minimum(np.searchsorted(edges, random.random(count), side="right"), len(observed) - 1)]


def zipf_shares(count: int, exponent: float) -> np.ndarray:
    """Return the shares of `count` items by rank: proportional to 1 / rank^exponent; 0 gives equal shares."""
    weights = np.arange(1, count + 1, dtype=float) ** -exponent
    return weights / weights.sum()


def _numbers(name: str, values: Any) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all() or (array < 0).any():
        raise TraceError(f"'{name}' of law 'empirical' must be a list of finite numbers, at least 0, and not empty.")
    return array


def _uniforms(random: np.random.Generator, count: int, stratified: bool) -> np.ndarray:
    """Draw from (0, 1]; stratified puts exactly one draw into each count-th of it, in random order."""
    draws = 1.0 - random.random(count)
    return (random.permutation(count) + draws) / count if stratified else draws


LAWS: dict[str, Callable[..., np.ndarray]] = {
    law.__name__: law
    for law in (constant, uniform, exponential, geometric, lognormal, pareto, bounded_pareto, empirical)
}


def draw(node: Any, seed: int, name: str, count: int) -> np.ndarray:
    """Draw numbers by a config node such as {law: lognormal, mean: 1200, cv: 1.0, max: 8192}.

    node    : a mapping with `law` and its parameters, and optional `min` and `max` that clip; or a plain number
    name    : of the parameter; also the name of the random stream
    returns : (count,) float64, >= 0
    raises  : TraceError on an unknown law or parameter
    """
    if not isinstance(node, Mapping):
        return np.full(count, number(name, node, low=0.0))
    parameters = given(node)
    chosen = parameters.pop("law", None)
    least = number(f"{name}.min", parameters.pop("min", 0), low=0.0)
    most = number(f"{name}.max", parameters.pop("max", LARGEST), low=least)
    law = choose(f"the law of '{name}'", chosen, LAWS)
    accepted = accept(f"law '{chosen}' of '{name}'", parameters, law, skip=2)
    return np.clip(law(stream(seed, name), count, **accepted), least, most)


def draw_tokens(node: Any, seed: int, name: str, count: int) -> np.ndarray:
    """Draw whole token counts by a node of `draw`: rounded to the nearest, at least 1.

    returns : (count,) int32 [tokens]
    """
    return np.clip(np.rint(draw(node, seed, name, count)), 1, LARGEST).astype(np.int32)

"""Arrival processes: each draws `count` sorted times in seconds from a seeded stream."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from traces.errors import TraceError
from traces.params import accept, choose, given, number, stream, whole

MOST_CYCLES = 100  # of an on-off process, for one arrival
PHASE_STEPS = 4096  # the diurnal rate is constant within this fraction of a period


def poisson(seed: int, count: int, rate_per_s: float) -> np.ndarray:
    """Draw a Poisson process of constant rate (M)."""
    return _unit_poisson(seed, count) / number("rate_per_s", rate_per_s, above=0.0)


def deterministic(seed: int, count: int, rate_per_s: float) -> np.ndarray:
    """Lay arrivals at equal gaps, the first at one gap (D)."""
    return np.arange(1, count + 1) / number("rate_per_s", rate_per_s, above=0.0)


def batches(seed: int, count: int, interval_s: float, batch: int) -> np.ndarray:
    """Lay arrivals in batches of equal size, one batch every `interval_s`, the first at 0 (D with batches)."""
    rounds = np.arange(count) // whole("batch", batch)
    return rounds * number("interval_s", interval_s, above=0.0)


def gamma(seed: int, count: int, rate_per_s: float, cv: float) -> np.ndarray:
    """Draw a renewal process with gamma gaps of the given coefficient of variation; cv = 1 is Poisson."""
    rate = number("rate_per_s", rate_per_s, above=0.0)
    gaps = gamma_gaps(stream(seed, "arrivals"), count, number("cv", cv, 0.01, 100.0))
    return np.cumsum(gaps) / rate


def weibull(seed: int, count: int, rate_per_s: float, cv: float) -> np.ndarray:
    """Draw a renewal process with Weibull gaps of the given coefficient of variation; cv = 1 is Poisson."""
    rate = number("rate_per_s", rate_per_s, above=0.0)
    gaps = weibull_gaps(stream(seed, "arrivals"), count, number("cv", cv, 0.01, 100.0))
    return np.cumsum(gaps) / rate


def onoff(
    seed: int, count: int, on_rate_per_s: float, on_s: float, off_s: float, off_rate_per_s: float = 0.0
) -> np.ndarray:
    """Draw a two-state Markov-modulated Poisson process, starting on.

    on_s, off_s : mean sojourns, exponential; the mean rate is their weighted mean rate
    source      : Fischer & Meier-Hellstern, The MMPP cookbook, Performance Evaluation 1993
    """
    rates = (number("on_rate_per_s", on_rate_per_s, above=0.0), number("off_rate_per_s", off_rate_per_s, low=0.0))
    means = (number("on_s", on_s, above=0.0), number("off_s", off_s, above=0.0))
    mass = _unit_poisson(seed, count)
    sojourns = stream(seed, "arrivals/phases")
    times, masses = [np.zeros(1)], [np.zeros(1)]
    per_cycle = rates[0] * means[0] + rates[1] * means[1]
    if per_cycle * MOST_CYCLES < 1:
        raise TraceError(
            f"on and off times must see an arrival in {MOST_CYCLES} cycles, but a cycle of on_s + off_s = "
            f"{sum(means):g} s holds {per_cycle:g} on average. Make them longer."
        )
    while count and masses[-1][-1] < mass[-1]:
        cycles = 16 + int((mass[-1] - masses[-1][-1]) / per_cycle)
        spent = sojourns.standard_exponential((cycles, 2)) * means
        times.append(times[-1][-1] + np.cumsum(spent.ravel()))
        masses.append(masses[-1][-1] + np.cumsum((spent * rates).ravel()))
    return np.interp(mass, np.concatenate(masses), np.concatenate(times))


def diurnal(
    seed: int,
    count: int,
    rate_per_s: float,
    amplitude: float = 0.5,
    period_s: float = 86_400.0,
    peak_s: float = 43_200.0,
) -> np.ndarray:
    """Draw a Poisson process of rate  rate_per_s * (1 + amplitude * cos(2 pi (t - peak_s) / period_s)).

    Unit-rate arrivals go through the inverse of the cumulative rate, which is exact at 4096 points of a period and
    linear between them.

    amplitude : 0 .. 1
    source    : time change of a Poisson process (Cinlar 1975, section 4.7)
    """
    rate, depth = number("rate_per_s", rate_per_s, above=0.0), number("amplitude", amplitude, 0.0, 1.0)
    period, peak = number("period_s", period_s, above=0.0), number("peak_s", peak_s)
    mass = _unit_poisson(seed, count) / (rate * period)
    turns = np.floor(mass)
    phase = np.arange(PHASE_STEPS + 1) / PHASE_STEPS
    swing = np.sin(2 * np.pi * (phase - peak / period)) + math.sin(2 * math.pi * peak / period)
    return (turns + np.interp(mass - turns, phase + depth * swing / (2 * np.pi), phase)) * period


def gamma_gaps(random: np.random.Generator, count: int, cv: float) -> np.ndarray:
    """Draw gamma gaps of mean 1."""
    shape = cv**-2
    return random.standard_gamma(shape, count) / shape


def weibull_gaps(random: np.random.Generator, count: int, cv: float) -> np.ndarray:
    """Draw Weibull gaps of mean 1."""
    shape = weibull_shape(cv)
    return random.weibull(shape, count) / math.gamma(1 + 1 / shape)


def weibull_shape(cv: float) -> float:
    """Solve  cv^2 + 1 = G(1 + 2/k) / G(1 + 1/k)^2  for the shape k by bisection (cv falls in k)."""
    low, high = 0.05, 1000.0
    target = math.log1p(cv * cv)
    for _ in range(100):
        shape = math.sqrt(low * high)
        excess = math.lgamma(1 + 2 / shape) - 2 * math.lgamma(1 + 1 / shape)
        low, high = (shape, high) if excess > target else (low, shape)
    return math.sqrt(low * high)


def _unit_poisson(seed: int, count: int) -> np.ndarray:
    return np.cumsum(stream(seed, "arrivals").standard_exponential(count))


LAWS: dict[str, Callable[..., np.ndarray]] = {
    law.__name__: law for law in (poisson, deterministic, batches, gamma, weibull, onoff, diurnal)
}


def draw_arrivals(node: Any, seed: int, count: int, what: str = "arrivals") -> np.ndarray:
    """Draw arrivals by a config node such as {law: gamma, rate_per_s: 2, cv: 3}.

    returns : (count,) float64 [s], sorted, >= 0; the first k times do not depend on count
    raises  : TraceError on an unknown law or parameter
    """
    if not isinstance(node, Mapping):
        raise TraceError(f"'{what}' must be a node like {{law: poisson, rate_per_s: 1.0}}, but got {node!r}.")
    parameters = given(node)
    name = parameters.pop("law", None)
    law = choose(f"the law of '{what}'", name, LAWS)
    return law(seed, count, **accept(f"law '{name}' of '{what}'", parameters, law, skip=2))

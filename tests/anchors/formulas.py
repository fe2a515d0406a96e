"""Closed forms of queueing theory: what the engine must give when its parts are configured to be those queues.

Notation: arrival rate `rate`, service time S with its moments, load = rate E[S]. Times in seconds, rates per second.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq


def pollaczek_khinchine(rate: float, second_moment: float, load: float) -> float:
    """Return the mean wait of M/G/1 under FCFS.

    source : Pollaczek 1930, Khinchine 1932
    """
    return rate * second_moment / (2 * (1 - load))


def mm1(rate: float, mean: float) -> float:
    """Return the mean sojourn of M/M/1.

    source : Erlang; Kleinrock, Queueing Systems I, section 3.2
    """
    return mean / (1 - rate * mean)


def md1(rate: float, service: float) -> float:
    """Return the mean sojourn of M/D/1: a prefill pool whose prompts all have one length.

    source : DistServe (Zhong et al., OSDI 2024), section 3
    """
    return service + rate * service**2 / (2 * (1 - rate * service))


def dm1(rate: float, mean: float) -> float:
    """Return the mean wait of D/M/1: S sigma / (1 - sigma), sigma the root of sigma = exp(-(1 - sigma) / load).

    source : Kleinrock, Queueing Systems I, section 6.4
    """
    load = rate * mean
    sigma = brentq(lambda x: x - math.exp(-(1 - x) / load), 0.0, 1 - 1e-9)
    return mean * sigma / (1 - sigma)


def tokens_per_iteration(acceptance: float, drafted: int) -> float:
    """Return the mean tokens of an iteration that verifies `drafted` tokens, each accepted alike up to the first not.

    source : Leviathan et al., Fast inference from transformers via speculative decoding, ICML 2023, equation 1
    """
    return float(drafted + 1) if acceptance == 1 else (1 - acceptance ** (drafted + 1)) / (1 - acceptance)


def erlang_b(offered: float, servers: int) -> float:
    """Return the blocking probability of M/G/c/c, by the recursion in c.

    source : Erlang 1917
    """
    blocked = 1.0
    for server in range(1, servers + 1):
        blocked = offered * blocked / (server + offered * blocked)
    return blocked


def mmc(rate: float, mean: float, servers: int) -> float:
    """Return the mean wait of M/M/c.

    source : Erlang 1917 (formula C)
    """
    offered = rate * mean
    blocked = erlang_b(offered, servers)
    delayed = servers * blocked / (servers - offered * (1 - blocked))
    return delayed * mean / (servers - offered)


def mm1k(load: float, places: int) -> tuple[float, float]:
    """Return (blocking probability, mean number in system) of M/M/1/K with K places, the server's among them.

    source : Kleinrock, Queueing Systems I, section 3.6
    """
    shares = load ** np.arange(places + 1)
    shares /= shares.sum()
    return float(shares[-1]), float(shares @ np.arange(places + 1))


def cobham(rates: Sequence[float], means: Sequence[float], second_moments: Sequence[float]) -> list[float]:
    """Return the mean wait of each class under non-preemptive priorities, the most urgent first.

    source : Cobham 1954
    """
    residual = sum(rate * square for rate, square in zip(rates, second_moments, strict=True)) / 2
    waits, above = [], 0.0
    for rate, mean in zip(rates, means, strict=True):
        upto = above + rate * mean
        waits.append(residual / ((1 - above) * (1 - upto)))
        above = upto
    return waits


def preemptive_resume(rates: Sequence[float], means: Sequence[float], second_moments: Sequence[float]) -> list[float]:
    """Return the mean sojourn of each class under preemptive-resume priorities, the most urgent first.

    source : Kleinrock, Queueing Systems II, section 3.4
    """
    sojourns, above, residual = [], 0.0, 0.0
    for rate, mean, square in zip(rates, means, second_moments, strict=True):
        upto = above + rate * mean
        residual += rate * square / 2
        sojourns.append(mean / (1 - above) + residual / ((1 - above) * (1 - upto)))
        above = upto
    return sojourns


def shortest_job_first(rate: float) -> Callable[[float], float]:
    """Return the mean wait of a job of given size under non-preemptive SJF, sizes exponential with mean 1.

    source : Phipps 1956; rho_x = rate (1 - (1 + x) exp(-x)), E[S^2] = 2
    """
    return lambda size: rate / (1 - rate * (1 - (1 + size) * math.exp(-size))) ** 2


def shortest_job_first_mean(rate: float, low: float = 0.0, high: float = math.inf) -> float:
    """Return the mean SJF wait of the jobs with a size in [low, high], sizes exponential with mean 1."""
    wait = shortest_job_first(rate)
    share = math.exp(-low) - math.exp(-high)
    return quad(lambda size: wait(size) * math.exp(-size), low, high)[0] / share


def shortest_remaining(rate: float, sizes: np.ndarray) -> float:
    """Return the mean sojourn under SRPT for the distribution of a sample of sizes.

    T(x) = int_0^x du / (1 - rho_u) + rate (E[S^2; S <= x] + x^2 P(S > x)) / (2 (1 - rho_x)^2)
    with rho_x = rate E[S; S <= x]
    source : Schrage and Miller, The queue M/G/1 with the shortest remaining processing time discipline, 1966
    """
    x = np.sort(sizes.astype(np.float64))
    below = np.arange(1, len(x) + 1) / len(x)
    load = rate * np.cumsum(x) / len(x)
    second = np.cumsum(x**2) / len(x) + x**2 * (1 - below)
    before = np.r_[0.0, load[:-1]]  # between two sizes the load of smaller ones stays as it is
    runs = np.cumsum(np.diff(np.r_[0.0, x]) / (1 - before))
    return float(np.mean(runs + rate * second / (2 * (1 - load) ** 2)))


def batching(rate: float, tokens: float, fixed: float, per_request: float) -> float:
    """Return the mean sojourn under continuous batching whose iterations of B requests take fixed + per_request B.

    Each of n requests gets a token an iteration: processor sharing at rate n / (fixed + per_request n), a symmetric
    queue, so that only the mean number of tokens counts.

    source : own derivation from Kelly, Reversibility and Stochastic Networks, 1979, section 3.3
    """
    return tokens * (fixed + per_request) / (1 - rate * tokens * per_request)


def batching_residual(rate: float, tokens: float, fixed: float, per_request: float) -> float:
    """Return the mean wait for the end of the iteration in progress, E[I^2] / 2 E[I] over iterations I.

    With geometric lengths (q = 1 / tokens) the batch is a chain N' = Binomial(N, 1 - q) + Poisson(rate I),
    I = fixed + per_request N. Its mean is m = rate fixed / (q - rate per_request), its variance
    v = m q (2 - q) / (1 - c^2) with c = 1 - q + rate per_request. An empty batch, where a request need not wait, has
    probability (1 - rate tokens per_request)^(1 + fixed / per_request): below 1e-8 where this is used.

    source : own
    """
    q, gain = 1 / tokens, rate * per_request
    mean = rate * fixed / (q - gain)
    variance = mean * q * (2 - q) / (1 - (1 - q + gain) ** 2)
    iteration = fixed + per_request * mean
    return (iteration**2 + per_request**2 * variance) / (2 * iteration)


def capped_batching(rate: float, tokens: float, fixed: float, per_request: float, cap: int) -> float:
    """Return the mean sojourn under continuous batching of at most `cap` requests, FCFS beyond, lengths exponential.

    source : birth-death chain with death rate k / (tokens (fixed + per_request k)), k = min(n, cap)
    """
    weights = [1.0]
    while weights[-1] > 1e-16 * max(weights) or len(weights) < cap:
        busy = min(len(weights), cap)
        weights.append(weights[-1] * rate * tokens * (fixed + per_request * busy) / busy)
    shares = np.array(weights) / sum(weights)
    return float(shares @ np.arange(len(shares))) / rate


def supermarket(load: float, choices: int) -> float:
    """Return the mean sojourn, in service times, where each request joins the shortest of d queues among very many.

    source : Mitzenmacher 1996; the share of queues with i or more is load^((d^i - 1) / (d - 1))
    """
    shares = [load ** ((choices**i - 1) / (choices - 1)) for i in range(1, 12)]
    return sum(shares) / load


def che(popularity: np.ndarray, capacity: int) -> float:
    """Return the hit rate of an LRU cache under independent references, by Che's approximation.

    popularity : (items,) probabilities

    source : Che, Tung and Wang, IEEE JSAC 2002
    """
    life = brentq(lambda t: np.sum(-np.expm1(-popularity * t)) - capacity, 0.0, 1e9)
    return float(popularity @ -np.expm1(-popularity * life))


def bounded_pareto(count: int, shape: float, high: float) -> np.ndarray:
    """Return `count` quantiles of a Pareto law cut at `high` and with mean 1, ascending.

    Stratified, at the middle of equal shares, so that the sample's moments are the law's; plain draws of a heavy tail
    miss its second moment.
    """

    def mean(low: float) -> float:
        body = shape / (shape - 1) * (low ** (1 - shape) - high ** (1 - shape))
        return float(low**shape / (1 - (low / high) ** shape) * body)

    low = brentq(lambda x: mean(x) - 1, 1e-6, 1.0)
    shares = (np.arange(count) + 0.5) / count
    return low * (1 - shares * (1 - (low / high) ** shape)) ** (-1 / shape)

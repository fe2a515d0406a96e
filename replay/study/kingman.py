"""Waiting at one server by theory: what the spread of gaps and of work costs, and where that is known exactly.

Notation: load rho, mean service S [s], squared coefficients of variation (variance / mean^2) of gaps and of service.
"""

import math

from scipy.optimize import brentq


def kingman_s(load: float, gaps_scv: float, service_scv: float, mean_s: float) -> float:
    """Return Kingman's approximation of the mean wait [s]: rho / (1 - rho) (ca^2 + cs^2) / 2 S.

    Exact for Poisson arrivals, where it is the formula of Pollaczek and Khinchine, and as the load nears 1.

    load   : below 1
    source : Kingman, The single server queue in heavy traffic, 1961
    """
    return load / (1 - load) * (gaps_scv + service_scv) / 2 * mean_s


def bound_s(load: float, gaps_scv: float, service_scv: float, mean_s: float) -> float:
    """Return Kingman's bound, which no mean wait of independent gaps and services exceeds [s].

    (ca^2 / rho + rho cs^2) / (2 (1 - rho)) S

    source : Kingman, Some inequalities for the queue GI/G/1, Biometrika 1962
    """
    return (gaps_scv / load + load * service_scv) / (2 * (1 - load)) * mean_s


def gamma_exponential_s(load: float, gaps_scv: float, mean_s: float) -> float:
    """Return the exact mean wait of exponential service behind gamma gaps, equal ones at a spread of 0 [s].

    S sigma / (1 - sigma), sigma the root below 1 of  sigma = E[exp(-(1 - sigma) gap / S)]

    source : Kleinrock, Queueing Systems I, section 6.4 (G/M/1)
    """

    def excess(sigma: float) -> float:
        if gaps_scv == 0.0:
            return math.exp(-(1 - sigma) / load) - sigma
        return (1 + gaps_scv * (1 - sigma) / load) ** (-1 / gaps_scv) - sigma

    sigma = brentq(excess, 0.0, 1 - 1e-9)
    return float(mean_s * sigma / (1 - sigma))

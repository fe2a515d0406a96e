"""Kingman's formula and bound at one server: where they are exact, where they are close, and that the bound holds."""

import numpy as np
import pytest

from replay.study.kingman import bound_s, gamma_exponential_s, kingman_s
from tests.anchors import formulas
from tests.anchors.stations import Run, agrees, batch_means, compiled, jobs, offered, serve, servers

COUNT = 400_000


def gaps(spread: float, load: float) -> np.ndarray:
    """Return arrivals with gamma gaps of a squared coefficient of variation, equal ones at 0, (COUNT,) seconds."""
    if spread == 0.0:
        return np.arange(COUNT) / load
    return np.cumsum(np.random.default_rng((41, 1)).gamma(1 / spread, spread, COUNT)) / load


def work(law: str) -> np.ndarray:
    """Return service times of mean 1, (COUNT,) seconds."""
    random = np.random.default_rng((41, 2))
    if law == "exponential":
        return random.exponential(1.0, COUNT)
    return random.permutation(formulas.bounded_pareto(COUNT, 1.5, 30.0)) if law == "heavy" else np.ones(COUNT)


def measured(spread: float, law: str, load: float) -> tuple[Run, tuple[float, float, float, float]]:
    """Return a run, and load, spreads of gaps and service, and mean service of its sample."""
    run = serve(jobs(gaps(spread, load), work(law)), servers())
    rate, mean, second = offered(run)
    spans = np.diff(run.requests["arrival_ps"])
    return run, (rate * mean, float(spans.var() / spans.mean() ** 2), second / mean**2 - 1, mean)


def test_formulas_meet_those_that_they_generalise() -> None:
    for load in (0.3, 0.8):
        assert kingman_s(load, 1.0, 1.0, 1.0) == pytest.approx(formulas.mm1(load, 1.0) - 1.0)
        assert kingman_s(load, 1.0, 0.0, 1.0) == pytest.approx(formulas.md1(load, 1.0) - 1.0)
        assert kingman_s(load, 1.0, 4.0, 1.0) == pytest.approx(formulas.pollaczek_khinchine(load, 5.0, load))
        assert gamma_exponential_s(load, 0.0, 1.0) == pytest.approx(formulas.dm1(load, 1.0))
        assert gamma_exponential_s(load, 1e-7, 1.0) == pytest.approx(formulas.dm1(load, 1.0), rel=1e-5)
        assert gamma_exponential_s(load, 1.0, 2.0) == pytest.approx(2 * (formulas.mm1(load, 1.0) - 1.0))
        assert kingman_s(load, 0.0, 0.0, 1.0) == bound_s(load, 0.0, 0.0, 1.0) == 0.0
        assert kingman_s(load, 2.0, 3.0, 1.0) < bound_s(load, 2.0, 3.0, 1.0)


@compiled
def test_equal_gaps_and_equal_work_wait_for_nothing() -> None:
    assert not measured(0.0, "equal", 0.95)[0].wait_s.any()


@compiled
@pytest.mark.parametrize("law", ["equal", "exponential", "heavy"])
def test_kingman_is_exact_for_poisson_gaps(law: str) -> None:
    """M/D/1, M/M/1 and a heavy tail: the wait is Kingman's at the sample's own work."""
    run, (load, _, service, mean) = measured(1.0, law, 0.8)
    agrees(run.wait_s, kingman_s(load, 1.0, service, mean))


@compiled
@pytest.mark.parametrize("spread", [0.0, 0.25, 4.0])
def test_exponential_work_behind_gamma_gaps(spread: float) -> None:
    """D/M/1, and smooth and bursty gaps: exact by the root, below Kingman's bound."""
    run, (load, _, _, mean) = measured(spread, "exponential", 0.8)
    agrees(run.wait_s, gamma_exponential_s(load, spread, mean), most_error=0.04)


@compiled
@pytest.mark.parametrize("law", ["equal", "exponential", "heavy"])
@pytest.mark.parametrize("spread", [0.0, 0.25, 1.0, 4.0])
@pytest.mark.parametrize("load", [0.5, 0.9])
def test_the_bound_holds(load: float, spread: float, law: str) -> None:
    run, moments = measured(spread, law, load)
    mean, error = batch_means(run.wait_s)
    assert mean <= bound_s(*moments) + 4 * error


@compiled
@pytest.mark.parametrize(("spread", "law"), [(0.0, "heavy"), (0.25, "equal"), (4.0, "equal")])
def test_kingman_is_near_under_heavy_load(spread: float, law: str) -> None:
    """Where it is not exact it comes closer as the load nears 1, here within a tenth at .95."""
    run, moments = measured(spread, law, 0.95)
    mean, error = batch_means(run.wait_s)
    expected = kingman_s(*moments)
    assert abs(mean - expected) <= 0.1 * expected + 4 * error and error < 0.1 * expected

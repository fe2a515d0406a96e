"""One instance, one request at a time: M/M/1, M/D/1, M/G/1, D/M/1, D/D/1 and M/M/1/K."""

import numpy as np
import pytest

from tests.anchors import formulas
from tests.anchors.stations import (
    PS,
    UNIT_S,
    agrees,
    batch_means,
    compiled,
    exponential,
    jobs,
    offered,
    poisson,
    serve,
    servers,
)

pytestmark = compiled
COUNT = 600_000


def laws(count: int) -> dict[str, np.ndarray]:
    """Return service times of mean 1 by law, (count,) seconds."""
    random = np.random.default_rng(7)
    sigma = np.sqrt(np.log(3.0))
    return {
        "exponential": random.exponential(1.0, count),
        "deterministic": np.ones(count),
        "lognormal": random.lognormal(-(sigma**2) / 2, sigma, count),  # CV^2 = 2
        "two_point": np.where(random.random(count) < 0.1, 5.5, 0.5),
        "bounded_pareto": random.permutation(formulas.bounded_pareto(count, 1.5, 30.0)),
    }


@pytest.mark.parametrize("law", list(laws(1)))
@pytest.mark.parametrize("load", [0.5, 0.8])
def test_wait_is_pollaczek_khinchine_on_the_samples_own_moments(law: str, load: float) -> None:
    run = serve(jobs(poisson(11, COUNT, load), laws(COUNT)[law]), servers())
    rate, mean, second = offered(run)
    agrees(run.wait_s, formulas.pollaczek_khinchine(rate, second, rate * mean))


@pytest.mark.parametrize("load", [0.5, 0.7, 0.8])
def test_sojourn_is_mm1(load: float) -> None:
    run = serve(jobs(poisson(13, COUNT, load), exponential(13, COUNT)), servers())
    rate, mean, _ = offered(run)
    agrees(run.sojourn_s, formulas.mm1(rate, mean))
    assert formulas.mm1(rate, mean) == pytest.approx(formulas.mm1(load, 1.0), rel=0.03)


@pytest.mark.parametrize("load", [0.5, 0.8, 0.9])
def test_sojourn_is_md1(load: float) -> None:
    run = serve(jobs(poisson(17, COUNT, load), np.ones(COUNT)), servers())
    agrees(run.sojourn_s, formulas.md1(offered(run)[0], 1.0))


def test_heavy_tail_is_pollaczek_khinchine() -> None:
    """A Pareto tail cut at 100 means: its sample has the law's moments, so the law's own figure is the test."""
    sizes = formulas.bounded_pareto(COUNT, 1.5, 100.0)
    run = serve(jobs(poisson(19, COUNT, 0.5), np.random.default_rng(19).permutation(sizes)), servers())
    agrees(run.wait_s, formulas.pollaczek_khinchine(0.5, float(np.mean(sizes**2)), 0.5))


def test_equal_gaps_wait_less() -> None:
    run = serve(jobs(np.arange(COUNT) / 0.8, exponential(23, COUNT)), servers())
    rate, mean, _ = offered(run)
    agrees(run.wait_s, formulas.dm1(rate, mean))


def test_training_load_never_waits() -> None:
    """Equal gaps and equal service: no request waits as long as the load is at most 1."""
    run = serve(jobs(np.arange(10_000) * 1.0, np.ones(10_000)), servers())
    assert run.finished.all()
    assert not run.wait_s.any()
    assert (run.sojourn_s == 1.0).all()


@pytest.mark.parametrize("law", list(laws(1)))
def test_every_wait_is_lindleys(law: str) -> None:
    """W_n = max(0, W_{n-1} + S_{n-1} - gap_n), to the picosecond: the sum less its lowest value so far."""
    run = serve(jobs(poisson(29, COUNT, 0.9), laws(COUNT)[law]), servers())
    arrival_ps = run.requests["arrival_ps"]
    service_ps = run.requests["prompt_tokens"].astype(np.int64) * round(UNIT_S * PS)
    sums = np.concatenate([[0], np.cumsum(service_ps[:-1] - np.diff(arrival_ps))])
    assert (run.jobs["scheduled_ps"] - arrival_ps == sums - np.minimum.accumulate(sums)).all()


@pytest.mark.parametrize("waiting", [1, 4])
@pytest.mark.parametrize("load", [0.8, 1.5])
def test_a_bounded_queue_is_mm1k(load: float, waiting: int) -> None:
    """`queue_limit` leaves `waiting` places beside the server's own; overload is rejected, not queued."""
    trace = jobs(poisson(31, COUNT, load), exponential(31, COUNT))
    run = serve(trace, servers(), {"admit": {"name": "queue_limit", "limit": waiting}})
    blocked, number = formulas.mm1k(load, waiting + 1)
    agrees((~run.finished).astype(float), blocked)
    agrees(run.sojourn_s[run.finished], number / (load * (1 - blocked)))
    assert batch_means(run.finished.astype(float))[0] < 1.0

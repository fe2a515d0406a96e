"""The closed forms themselves, against figures computed elsewhere and against each other."""

import numpy as np
import pytest

from tests.anchors import formulas

LOAD = 0.8
SHARES = (0.125, 0.375, 0.5)


def test_one_server_figures() -> None:
    assert formulas.mm1(LOAD, 1.0) == pytest.approx(5.0)
    assert formulas.pollaczek_khinchine(LOAD, 2.0, LOAD) == pytest.approx(4.0)
    assert formulas.md1(LOAD, 1.0) == pytest.approx(3.0)
    assert formulas.mmc(LOAD, 1.0, 1) == pytest.approx(4.0)


def test_erlang_figures() -> None:
    assert formulas.mmc(3.2, 1.0, 4) == pytest.approx(0.7455, abs=5e-5)
    assert formulas.erlang_b(1.0, 1) == pytest.approx(0.5)
    assert formulas.erlang_b(2.0, 2) == pytest.approx(0.4)


def test_priority_figures() -> None:
    rates = [LOAD * share for share in SHARES]
    ones, twos = [1.0] * 3, [2.0] * 3
    assert formulas.cobham(rates, ones, twos) == pytest.approx([0.8889, 1.4815, 6.6667], abs=5e-5)
    assert formulas.preemptive_resume([LOAD], [1.0], [2.0]) == pytest.approx([5.0])
    weighted = sum(rate * wait for rate, wait in zip(rates, formulas.cobham(rates, ones, twos), strict=True))
    assert weighted == pytest.approx(LOAD * 4.0)


def test_shortest_job_first_figure() -> None:
    assert 1 + formulas.shortest_job_first_mean(LOAD) == pytest.approx(2.8822, abs=5e-5)


def test_batching_figures() -> None:
    found = [formulas.batching(rate, 200, 0.02, 0.0004) for rate in (4, 8, 10)]
    assert found == pytest.approx([6.0, 11.333, 20.4], abs=5e-4)
    assert formulas.capped_batching(5, 200, 0.02, 0.0004, 48) == pytest.approx(6.84, abs=0.01)
    assert formulas.capped_batching(4, 200, 0.02, 0.0004, 2000) == pytest.approx(found[0], rel=1e-6)


def test_bounded_pareto_figures() -> None:
    sizes = formulas.bounded_pareto(2_000_000, 1.5, 1000.0)
    assert sizes[0] == pytest.approx(0.33959, rel=1e-4)
    assert np.mean(sizes) == pytest.approx(1.0, rel=1e-4)
    assert np.mean(sizes**2) == pytest.approx(18.428, rel=2e-3)
    found = [1 + formulas.pollaczek_khinchine(load, 18.428, load) for load in (0.5, 0.7, 0.8)]
    assert found == pytest.approx([10.214, 22.499, 37.856], abs=2e-3)


def test_limits() -> None:
    blocked, number = formulas.mm1k(LOAD, 200)
    assert blocked < 1e-15 and number == pytest.approx(4.0)
    assert formulas.mm1k(0.5, 1) == pytest.approx((1 / 3, 1 / 3))
    assert formulas.supermarket(0.5, 2) == pytest.approx(1 + 0.25 + 0.5**6 + 0.5**14 + 0.5**30)
    assert formulas.dm1(0.5, 1.0) == pytest.approx(0.2032 / 0.7968, rel=1e-3)
    assert formulas.che(np.full(100, 0.01), 25) == pytest.approx(0.25)

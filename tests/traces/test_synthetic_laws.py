"""Arrival processes and lengths: their means, spreads and tails."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from traces.synthetic import make
from traces.synthetic.arrivals import draw_arrivals, weibull_shape
from traces.synthetic.lengths import bounded_pareto_low, draw, draw_tokens

COUNT = 200_000


def spread(gaps: np.ndarray) -> float:
    return float(gaps.std() / gaps.mean())


@pytest.mark.parametrize("law", ["gamma", "weibull"])
@pytest.mark.parametrize("cv", [0.3, 1.0, 2.0])
def test_renewal_arrivals_have_their_rate_and_spread(law: str, cv: float) -> None:
    gaps = np.diff(draw_arrivals({"law": law, "rate_per_s": 5.0, "cv": cv}, 1, COUNT), prepend=0.0)
    assert abs(gaps.mean() * 5.0 - 1) < 5 * cv / math.sqrt(COUNT)
    # Relative error of a sample variance is sqrt((kurtosis - 1) / n); a Weibull's is below 6 cv^2 + 60 here.
    error = 5 * math.sqrt((6 * cv * cv + 60) / COUNT) / 2
    assert abs(spread(gaps) / cv - 1) < error


def test_poisson_gaps_are_memoryless() -> None:
    gaps = np.diff(draw_arrivals({"law": "poisson", "rate_per_s": 5.0}, 1, COUNT), prepend=0.0) * 5.0
    for x in (0.1, 1.0, 3.0):
        chance = math.exp(-x)
        assert abs(np.mean(gaps > x) - chance) < 5 * math.sqrt(chance * (1 - chance) / COUNT)


@pytest.mark.parametrize("cv", [0.05, 0.5, 1.0, 3.0, 10.0])
def test_weibull_shape_solves_its_equation(cv: float) -> None:
    shape = weibull_shape(cv)
    log_ratio = math.lgamma(1 + 2 / shape) - 2 * math.lgamma(1 + 1 / shape)
    assert math.sqrt(math.expm1(log_ratio)) == pytest.approx(cv, rel=1e-6)
    assert weibull_shape(1.0) == pytest.approx(1.0)


@pytest.mark.parametrize("off_rate", [0.0, 1.0])
def test_onoff_arrivals_have_the_mmpp_rate_and_dispersion(off_rate: float) -> None:
    node = {"law": "onoff", "on_rate_per_s": 20.0, "off_rate_per_s": off_rate, "on_s": 5.0, "off_s": 15.0}
    times = draw_arrivals(node, 2, COUNT)
    rate, relaxation = 0.25 * 20.0 + 0.75 * off_rate, 1 / (1 / 5.0 + 1 / 15.0)
    dispersion = 1 + 2 * (20.0 - off_rate) ** 2 * 0.25 * 0.75 * relaxation / rate
    assert abs(COUNT / times[-1] / rate - 1) < 5 * math.sqrt(dispersion / COUNT)
    window_s = 40 * relaxation
    counts = np.histogram(times, np.arange(0.0, times[-1], window_s))[0]
    # A window of w relaxation times falls short of the limit by 1 / w of the excess.
    expected = 1 + (dispersion - 1) * (1 - 1 / 40)
    assert abs(counts.var() / counts.mean() / expected - 1) < 5 * math.sqrt(3 / len(counts))


def test_diurnal_arrivals_follow_the_cosine() -> None:
    node = {"law": "diurnal", "rate_per_s": 10.0, "amplitude": 0.8, "period_s": 100.0, "peak_s": 30.0}
    times = draw_arrivals(node, 3, COUNT)
    periods = int(times[-1] // 100.0)
    phase = times[times < periods * 100.0] % 100.0
    edges = np.linspace(0.0, 100.0, 21)
    mass = 10.0 * (edges + 0.8 * 100.0 / (2 * np.pi) * np.sin(2 * np.pi * (edges - 30.0) / 100.0))
    expected = np.diff(mass) * periods
    counts = np.histogram(phase, edges)[0]
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_training_is_deterministic() -> None:
    trace = make("training", 10, 0, interval_s=30.0, batch=4, prompt_tokens=4096)
    assert trace.column("arrival_s").tolist() == [0.0] * 4 + [30.0] * 4 + [60.0] * 2
    assert set(trace.column("prompt_tokens")) == {4096} and set(trace.column("output_tokens")) == {1}
    assert set(trace.column("kind")) == {"training"}
    gaps = np.diff(draw_arrivals({"law": "deterministic", "rate_per_s": 4.0}, 0, 9))
    assert gaps == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("node", "cv"),
    [
        ({"law": "constant", "mean": 300}, 0.0),
        ({"law": "exponential", "mean": 300}, 1.0),
        ({"law": "geometric", "mean": 300}, math.sqrt(1 - 1 / 300)),
        ({"law": "lognormal", "mean": 300, "cv": 1.5}, 1.5),
        ({"law": "uniform", "low": 100, "high": 500}, 1 / math.sqrt(12) * 400 / 300),
        ({"law": "pareto", "mean": 300, "alpha": 5.0}, 1 / math.sqrt(15)),
        ({"law": "bounded_pareto", "mean": 300, "alpha": 3.0, "high": 3000}, 0.55),
    ],
)
def test_lengths_have_their_mean(node: dict[str, Any], cv: float) -> None:
    tokens = draw_tokens(node, 4, "prompt_tokens", COUNT)
    assert tokens.dtype == np.int32 and tokens.min() >= 1
    # Half a token covers what rounding and the floor of one token can move the mean.
    assert abs(tokens.mean() / 300 - 1) < 5 * cv / math.sqrt(COUNT) + 0.5 / 300
    assert abs(spread(tokens) - cv) < 0.05


@pytest.mark.parametrize("alpha", [1.2, 2.5])
def test_pareto_has_its_tail_index(alpha: float) -> None:
    values = np.sort(draw({"law": "pareto", "mean": 1000, "alpha": alpha, "max": 1e9}, 5, "x", COUNT))
    top = 5000
    hill = 1 / np.mean(np.log(values[-top:] / values[-top - 1]))
    assert abs(hill / alpha - 1) < 5 / math.sqrt(top)


def test_bounded_pareto_meets_the_queueing_anchor() -> None:
    assert bounded_pareto_low(1.0, 1.5, 1000.0) == pytest.approx(0.33959, abs=5e-6)
    node = {"law": "bounded_pareto", "mean": 1.0, "alpha": 1.5, "high": 1000.0, "stratified": True}
    values = draw(node, 6, "x", 400_000)
    assert values.mean() == pytest.approx(1.0, rel=1e-3)
    assert np.mean(values**2) == pytest.approx(18.428, rel=5e-3)
    assert values.min() >= 0.3395 and values.max() <= 1000.0
    low = bounded_pareto_low(1.0, 1.0, 100.0)
    assert low * math.log(100.0 / low) / (1 - low / 100.0) == pytest.approx(1.0)


def test_empirical_lengths_draw_values_by_weight(tmp_path: Path) -> None:
    tokens = draw_tokens({"law": "empirical", "values": [5, 7, 11], "weights": [1, 0, 3]}, 7, "x", COUNT)
    assert set(tokens) == {5, 11}
    assert abs(np.mean(tokens == 11) - 0.75) < 5 * math.sqrt(0.75 * 0.25 / COUNT)
    equal = draw_tokens({"law": "empirical", "values": [5, 7, 11]}, 7, "x", COUNT)
    assert abs(np.mean(equal == 7) - 1 / 3) < 5 * math.sqrt(2 / 9 / COUNT)
    source = tmp_path / "lengths.csv"
    source.write_text("arrival_s,prompt_tokens,output_tokens\n0,17,1\n1,23,2\n")
    assert set(draw_tokens({"law": "empirical", "path": str(source)}, 7, "x", 50)) == {17, 23}

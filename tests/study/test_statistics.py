"""Paired statistics against SciPy, worked cases and simulated truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from replay.study.statistics import hedges, holm, interval, least_requests, paired, size


def test_a_paired_comparison_is_the_paired_t_test() -> None:
    random = np.random.default_rng(1)
    first = random.normal(5.0, 1.0, 9)
    second = first + random.normal(0.4, 0.5, 9)
    found, known = paired(first, second, 0.9), stats.ttest_rel(second, first)
    low, high = known.confidence_interval(0.9)
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high))
    assert found.p == pytest.approx(known.pvalue) and not found.identical
    assert found.p_wilcoxon == pytest.approx(stats.wilcoxon(second - first).pvalue)
    alone = interval(first, 0.9)
    assert alone.mean == pytest.approx(first.mean())
    assert (alone.high - alone.mean) == pytest.approx(stats.t.ppf(0.95, 8) * stats.sem(first))


def test_equal_differences_are_identical_not_nan() -> None:
    values = np.array([0.1, 0.7, 0.3])
    nothing = paired(values, values, 0.95)
    assert (nothing.identical, nothing.p, nothing.p_wilcoxon, nothing.effect) == (True, 1.0, 1.0, None)
    always = paired(values, values + 0.2, 0.95)  # rounding makes the differences differ in their last bits
    assert always.identical and always.p == 0.0 and always.effect is None
    assert always.difference.low == always.difference.high == pytest.approx(0.2)
    assert paired(np.zeros(4), np.zeros(4), 0.95).identical


def test_resamples_take_their_spread_as_the_error() -> None:
    values = np.arange(10.0)
    plain, drawn = interval(values, 0.95), interval(values, 0.95, resampled=True)
    assert (drawn.high - drawn.mean) / (plain.high - plain.mean) == pytest.approx(np.sqrt(11.0))
    assert paired(np.zeros(10), values, 0.95, resampled=True).p_wilcoxon is None


def test_holm_on_a_worked_case() -> None:
    """Holm 1979, by hand: .01 x 4, .02 x 3, .03 x 2 falls below .06, .5 x 1."""
    assert holm([0.03, 0.5, 0.01, 0.02]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0.0, 1.0), max_size=12))
def test_holm_lies_between_no_correction_and_bonferronis(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, found in zip(p_values, adjusted, strict=True):
        assert p <= found <= min(1.0, len(p_values) * p) or found == pytest.approx(p)
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert all(adjusted[a] <= adjusted[b] for a, b in zip(order, order[1:], strict=False))


def test_hedges_factor_takes_the_bias_away() -> None:
    """For 5 normal differences of mean .8 and deviation 1 plain d is 25 % too large on average (mean d = .8 / J(4))."""
    draws = np.random.default_rng(2).normal(0.8, 1.0, (20_000, 5))
    plain = draws.mean(axis=1) / draws.std(axis=1, ddof=1)
    assert plain.mean() > 0.95
    assert np.mean([hedges(row) for row in draws]) == pytest.approx(0.8, abs=4 * plain.std() / np.sqrt(len(draws)))
    assert hedges(np.array([1.0, 2.0])) is None and hedges(np.ones(4)) is None
    assert [size(effect) for effect in (0.1, -0.3, 0.6, -2.0)] == ["negligible", "small", "medium", "large"]


def test_fewest_requests_of_a_quantile() -> None:
    assert [least_requests(q, 0.95) for q in (0.5, 0.9, 0.99)] == [5, 29, 299]
    for quantile, confidence in ((0.99, 0.95), (0.9, 0.99)):
        least = least_requests(quantile, confidence)
        assert 1 - quantile**least >= confidence > 1 - quantile ** (least - 1)


@pytest.mark.parametrize(("law", "covered"), [("normal", (0.950, 0.950)), ("lognormal", (0.825, 0.882))])
def test_coverage_is_what_the_module_says(law: str, covered: tuple[float, float]) -> None:
    random, true = np.random.default_rng(3), {"normal": 0.0, "lognormal": np.exp(0.5)}[law]
    for count, share in zip((6, 30), covered, strict=True):
        samples = getattr(random, law)(size=(1500, count))
        inside = [found.low <= true <= found.high for found in (interval(row, 0.95) for row in samples)]
        assert np.mean(inside) == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 1500))


def test_a_bootstrap_of_one_sample_finds_no_difference_between_equals() -> None:
    """Two configurations equal in law, one sample of 200 requests, 10 resamples: 5 % with the spread, half without."""
    random = np.random.default_rng(4)
    found = {True: 0, False: 0}
    for _ in range(600):
        sample = random.normal(0.0, 1.0, 200)
        means = sample[random.integers(0, 200, (10, 200))].mean(axis=1)
        for resampled in found:
            found[resampled] += paired(np.zeros(10), means, 0.95, resampled).p < 0.05
    assert found[True] / 600 == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 600))
    assert found[False] / 600 > 0.4

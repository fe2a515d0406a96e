"""Forecasts of arrivals are causal, meet sums done by hand, and win where the load is of their kind."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import traces
from predictors.arrivals import KINDS, ahead, counts, forecast, known
from predictors.arrivals_fit import evaluate, fit, settles
from predictors.errors import PredictorError
from tests.recorded import recorded

NAN = float("nan")
SHARES = st.floats(0.0, 1.0)
SERIES = st.lists(st.integers(0, 10**6), min_size=1, max_size=40)
WAYS: list[tuple[str, dict[str, Any]]] = [
    ("last", {}), ("mean", {}), ("mean", {"window": 3}), ("smoothed", {}), ("trend", {}), ("seasonal", {"period": 4}),
]  # fmt: skip


def made(series: Any, kind: str, horizon: int = 1, **parameters: Any) -> list[float]:
    """Forecast a series, as a list that can be compared."""
    return forecast(series, kind, horizon, **parameters).tolist()


def check_equal(found: list[float], expected: list[float]) -> None:
    """Compare lists whose first entries may be NaN."""
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-12, nan_ok=True)


def test_counts_by_hand() -> None:
    """Edges belong to the interval that they open."""
    assert counts([0.0, 0.5, 9.99, 10.0, 35.0], 10.0).tolist() == [3, 1, 0, 1]
    assert counts([], 10.0).tolist() == [] and counts([], 10.0).dtype == np.int64
    assert counts([25.0], 10).tolist() == [0, 0, 1]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1e4), max_size=50), st.floats(0.1, 1e3))
def test_counts_lose_nobody(arrivals_s: list[float], interval_s: float) -> None:
    found = counts(sorted(arrivals_s), interval_s)
    assert found.dtype == np.int64 and found.sum() == len(arrivals_s) and (found >= 0).all()
    assert len(found) == (int(max(arrivals_s) / interval_s) + 1 if arrivals_s else 0)


def test_last_by_hand() -> None:
    check_equal(made([3, 5, 2, 8], "last"), [NAN, 3, 5, 2])
    check_equal(made([3, 5, 2, 8], "last", 3), [NAN, NAN, NAN, 3])
    check_equal(made([3, 5], "last", 9), [NAN, NAN])
    assert made([], "last") == []


def test_mean_by_hand() -> None:
    check_equal(made([3, 5, 2, 8, 6], "mean", window=2), [NAN, 3, 4, 3.5, 5])
    check_equal(made([3, 5, 2, 8, 6], "mean", 2, window=3), [NAN, NAN, 3, 4, 10 / 3])


def test_smoothed_by_hand() -> None:
    """Levels with alpha = 1/4: 8, 8 - 4/4 = 7, 7 + 4/4 = 8."""
    check_equal(made([8, 4, 11, 0], "smoothed", alpha=0.25), [NAN, 8, 7, 8])
    check_equal(made([8, 4, 11, 0], "smoothed", 2, alpha=0.25), [NAN, NAN, 8, 7])


def test_trend_by_hand() -> None:
    """With alpha = beta = damping = 1/2: l, b = 10, 0; then 10 + 6/2 = 13 and 3/2; then 13.75 + 8.25/2 = 17.875 and

    (17.875 - 13)/2 + 0.5 * 0.75 = 2.8125. One ahead adds b/2, two ahead b/2 + b/4.
    """
    half = {"alpha": 0.5, "beta": 0.5, "damping": 0.5}
    check_equal(made([10, 16, 22, 0], "trend", **half), [NAN, 10, 13.75, 17.875 + 2.8125 / 2])
    check_equal(made([10, 16, 22, 0], "trend", 2, **half), [NAN, NAN, 10, 13 + 0.75 * 1.5])
    check_equal(made([10, 16, 22, 0], "trend", 2, alpha=1.0, beta=1.0, damping=1.0), [NAN, NAN, 10, 16 + 2 * 6])


def test_seasonal_by_hand() -> None:
    """Period 2 over 10, 20, 14, 24: means 15 and 19, trend 4/2 = 2 per interval, deviations -4, 4 from the line.

    The line ends at 19 + 2/2 = 20, so the next is 20 + 2 - 4 = 18. With alpha = beta = gamma = 1/2, 22 arriving:
    l = (22 + 4)/2 + 22/2 = 24, b = (24 - 20)/2 + 2/2 = 3, s = (22 - 24)/2 - 4/2 = -3; next 24 + 3 + 4 = 31.
    """
    half = {"period": 2, "alpha": 0.5, "beta": 0.5, "gamma": 0.5}
    check_equal(made([10, 20, 14, 24, 22, 0], "seasonal", **half), [NAN, 10, 15, 14.5, 18, 31])
    found = made([10, 20, 14, 24, 22, 0, 0], "seasonal", 2, **half)
    check_equal(found, [NAN, NAN, 10, 15, 14.5, 20 + 2 * 2 + 4, 24 + 2 * 3 - 3])


@settings(max_examples=60, deadline=None)
@given(SERIES, SHARES, st.integers(1, 5))
def test_trend_and_seasonal_contain_smoothed(series: list[int], alpha: float, horizon: int) -> None:
    plain = made(series, "smoothed", horizon, alpha=alpha)
    check_equal(made(series, "trend", horizon, alpha=alpha, beta=0.0), plain)
    check_equal(made(series[:7], "seasonal", horizon, period=4, alpha=alpha), plain[:7])


@settings(max_examples=60, deadline=None)
@given(SERIES, st.sampled_from(WAYS), st.integers(1, 6), st.data())
def test_forecasts_are_causal(series: list[int], way: tuple[str, dict[str, Any]], horizon: int, data: Any) -> None:
    """Whatever comes at or after `cut`, forecasts made before it stay the same to the last bit."""
    kind, parameters = way
    cut = data.draw(st.integers(0, len(series)))
    other = series[:cut] + data.draw(st.lists(st.integers(0, 10**6), max_size=10))
    one, two = ahead(series, kind, horizon, **parameters), ahead(other, kind, horizon, **parameters)
    assert (one[:cut] == two[:cut]).all()
    seen = min(len(series), len(other), cut + horizon)
    assert np.array_equal(forecast(series, kind, horizon, **parameters)[:seen],
                          forecast(other, kind, horizon, **parameters)[:seen], equal_nan=True)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(SERIES, st.integers(1, 50), st.tuples(SHARES, SHARES, SHARES, SHARES), st.integers(1, 12), st.integers(2, 9))
def test_forecasts_are_numbers(series: list[int], horizon: int, shares: tuple[float, ...], window: int,
                               period: int) -> None:  # fmt: skip
    smoothing = dict(zip(("alpha", "beta", "gamma", "damping"), shares, strict=True))
    values = {"window": window, "period": period, **smoothing}
    for kind in KINDS:
        parameters = {name: values[name] for name in known(kind)}
        found = forecast(series, kind, horizon, **parameters)
        assert found.shape == (len(series),) and found.dtype == np.float64
        assert np.isnan(found[:horizon]).all() and (found[horizon:] >= 0).all() and np.isfinite(found[horizon:]).all()


def test_forecasts_that_swing_without_limit_stay_numbers() -> None:
    series = np.random.default_rng(0).poisson(5, 30_000)
    found = ahead(series, "seasonal", period=7, alpha=0.5, beta=1.0, gamma=1.0)
    assert found.max() == 2.0**53 and found.min() == 0 and np.isfinite(found).all()
    assert not settles(period=7, alpha=0.5, beta=1.0, gamma=1.0) and settles(period=7, alpha=0.3, beta=0.01, gamma=0.1)


@pytest.mark.parametrize("seed", range(6))
def test_fit_chooses_no_seasons_that_swing_without_limit(seed: int) -> None:
    """Nine counts after two periods cannot show what a hundred periods would."""
    series = np.random.default_rng(seed).poisson(20, 700)
    found = fit(series[:23], "seasonal", period=7)
    assert forecast(series, "seasonal", **found)[1:].max() < 200


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 30), SHARES, SHARES, SHARES)
def test_seasons_settle_where_their_roots_say_so(m: int, alpha: float, beta: float, gamma: float) -> None:
    """Multiply theta(B) out and find its roots; as steps forward they must stay below 1.01 a period."""
    step, year = np.polynomial.Polynomial([0, 1]), np.polynomial.Polynomial([0] * m + [1])
    theta = (1 - step) * (1 - year) + alpha * step * (1 - year) + gamma * (1 - alpha) * year * (1 - step)
    theta += alpha * beta * np.polynomial.Polynomial([0] + [1] * m)
    growth = np.abs(np.roots(theta.coef)).max() ** m if len(theta.trim().coef) > 1 else 0.0
    if abs(growth - 1 / 0.99) > 1e-4:
        assert settles(m, alpha, beta, gamma) == (growth < 1 / 0.99)


@pytest.mark.parametrize("kind", ["alpha", "beta", "gamma"])
def test_seasons_without_one_smoothing_settle(kind: str) -> None:
    for period in (2, 7, 24, 288, 1440):
        assert settles(**{"period": period, "alpha": 0.3, "beta": 0.001, "gamma": 0.1, kind: 0})


def test_ahead_tells_of_the_interval_to_come() -> None:
    series = [4, 6, 8, 10]
    for kind, parameters in WAYS:
        assert ahead(series, kind, 1, **parameters)[-1] == forecast([*series, 0], kind, 1, **parameters)[-1]


def test_falling_load_is_never_forecast_below_zero() -> None:
    assert made([90, 60, 30, 0, 0], "trend", 3, alpha=1.0, beta=1.0, damping=1.0)[3:] == [90, 0]


@pytest.mark.parametrize(("kind", "fixed"), WAYS)
def test_fit_does_no_worse_than_the_defaults(kind: str, fixed: dict[str, Any]) -> None:
    series = np.random.default_rng(4).poisson(50 + 30 * np.sin(np.arange(80) * np.pi / 2))
    found = fit(series, kind, **fixed)
    assert set(found) == set(known(kind)) and fixed.items() <= found.items()

    def error(**parameters: Any) -> float:
        return float(np.square(forecast(series, kind, **parameters)[8:] - series[8:]).mean())

    assert error(**found) <= error(**fixed) * 1.01


def test_fit_keeps_what_is_given() -> None:
    series = np.random.default_rng(5).poisson(30, 60)
    assert fit(series, "trend", alpha=0.2, damping=0.9)["alpha"] == 0.2
    assert fit(series, "smoothed", alpha=0.2) == {"alpha": 0.2} and fit(series, "mean", window=4) == {"window": 4}


def test_fit_finds_known_parameters() -> None:
    """A walk is best told by its last value, white noise by its long mean, a straight line by its slope."""
    rng = np.random.default_rng(6)
    walk = 10_000 + np.cumsum(rng.integers(-50, 51, 500))
    noise = rng.poisson(40, 500)
    assert fit(walk, "mean") == {"window": 1} and fit(walk, "smoothed")["alpha"] > 0.9
    assert fit(noise, "mean")["window"] > 50 and fit(noise, "smoothed")["alpha"] < 0.1
    line = fit(np.arange(200) * 10, "trend")
    assert made(np.arange(200) * 10, "trend", 5, **line)[150:] == pytest.approx(range(1500, 2000, 10), rel=1e-3)


DAY = 100 + 80 * np.sin(2 * np.pi * np.arange(24 * 14) / 24)


def mase(rate: np.ndarray, seed: int, **how: Any) -> dict[str, float]:
    """Evaluate on Poisson counts of a known rate; return kind -> MASE."""
    found = evaluate(np.random.default_rng(seed).poisson(rate), **how)
    return dict(zip(found["kind"].to_list(), found["mase"].to_list(), strict=True))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("horizon", "most"), [(1, 0.6), (6, 0.15)])
def test_seasons_win_on_days(seed: int, horizon: int, most: float) -> None:
    found = mase(DAY, seed, period=24, horizon=horizon)
    seasonal = found.pop("seasonal")
    assert found["last"] == 1.0 and seasonal < most and seasonal < 0.75 * min(found.values())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("horizon", [1, 5])
def test_trend_wins_on_ramps(seed: int, horizon: int) -> None:
    found = mase(20 + 5 * np.arange(400.0), seed, horizon=horizon)
    trend = found.pop("trend")
    assert trend < 0.85 and trend < min(found.values())


@pytest.mark.parametrize("seed", range(4))
def test_means_win_on_constant_load(seed: int) -> None:
    """`last` errs by the difference of two counts, a long mean by one: 1 to sqrt(1/2) for Poisson counts of many.

    `trend` without a slope is `smoothed`: it may tie, within 1 %.
    """
    found = mase(np.full(1000, 50.0), seed, period=24)
    best = min(found["mean"], found["smoothed"])
    assert best == pytest.approx(0.5**0.5, rel=0.06)
    assert best < found["seasonal"] and best < found["last"] and best < 1.01 * found["trend"]


def test_evaluation_by_hand() -> None:
    """Of 4, 6, 9, 5 the first half is learned from; the others are missed by 3 and 4."""
    found = evaluate([4, 6, 9, 5], kinds=["last"])
    assert found.columns == ["kind", "mae", "rmse", "mase", "parameters"]
    assert found.row(0) == ("last", 3.5, pytest.approx(12.5**0.5), 1.0, "{}")
    assert evaluate([4] * 8)["mase"].to_list() == [None] * 4 and evaluate([4] * 8)["mae"].to_list() == [0.0] * 4


def test_evaluation_learns_from_the_first_part_only() -> None:
    series = np.random.default_rng(7).poisson(DAY)
    other = np.concatenate([series[:168], series[168:] * 3 + 7])
    one, two = evaluate(series, period=24), evaluate(other, period=np.int64(24))
    assert one["parameters"].to_list() == two["parameters"].to_list() and len(one) == len(KINDS)
    parameters = json.loads(one["parameters"][-1])
    left = forecast(series, "seasonal", **parameters)[168:] - series[168:]
    assert one["mae"][-1] == pytest.approx(np.abs(left).mean()) and one["kind"][-1] == "seasonal"


@pytest.mark.parametrize(("file", "interval_s", "horizon", "most"), [
    ("azure2023/AzureLLMInferenceTrace_conv.csv", 10.0, 1, 0.83),
    ("azure2023/AzureLLMInferenceTrace_code.csv", 60.0, 6, 0.81),
    ("mooncake/conversation_trace.jsonl.gz", 10.0, 1, 0.67),
    ("mooncake/conversation_trace.jsonl.gz", 60.0, 6, 0.70),
])  # fmt: skip
def test_smoothing_helps_on_recorded_load(file: str, interval_s: float, horizon: int, most: float) -> None:
    """Against repeating the last count, over the second half of an hour; not on every load and interval."""
    series = counts(traces.load(recorded(f"traces/{file}")).column("arrival_s"), interval_s)[:-1]
    found = evaluate(series, kinds=["last", "mean", "smoothed"], horizon=horizon)["mase"].to_list()
    assert len(series) > 50 and max(found[1:]) < most, found


@pytest.mark.parametrize(("act", "words"), [
    (lambda: counts([1.0], 0), "interval_s must be a number of seconds > 0, but is 0"),
    (lambda: counts([1.0], NAN), "interval_s must be a number of seconds > 0, but is nan"),
    (lambda: counts([1.0, -2.0], 1.0), "but arrival 1 is -2 s"),
    (lambda: counts([NAN], 1.0), "but arrival 0 is nan s"),
    (lambda: counts([2.0, 1.0], 1.0), "must be sorted, but arrival 1 at 1 s follows one at 2 s"),
    (lambda: counts([1e12], 1.0), "at most 1e+08 intervals"),
    (lambda: counts([[1.0]], 1.0), "must be one row of numbers, but is list"),
    (lambda: forecast([1, 2], "arima"), "must be one of last, mean, smoothed, trend, seasonal, but is 'arima'"),
    (lambda: forecast([1, -2], "last"), "from 0 to 2^53, but count 1 is -2"),
    (lambda: forecast([NAN, 2], "last"), "from 0 to 2^53, but count 0 is nan"),
    (lambda: forecast("many", "last"), "must be one row of numbers, but is str: many"),
    (lambda: forecast([1, 2], "last", window=2), "window is no parameter of the forecast last, which has none"),
    (lambda: forecast([1, 2], "mean", alpha=0.5), "alpha is no parameter of the forecast mean, which has window"),
    (lambda: forecast([1, 2], "mean", window=0), "window of a forecast must be a whole number from 1"),
    (lambda: forecast([1, 2], "mean", window=2.5), "window of a forecast must be a whole number from 1"),
    (lambda: forecast([1, 2], "trend", damping=1.5), "damping of a forecast must be a number from 0 to 1, but is 1.5"),
    (lambda: forecast([1, 2], "smoothed", alpha=NAN), "alpha of a forecast must be a number from 0 to 1, but is nan"),
    (lambda: forecast([1, 2], "smoothed", alpha="half"), "alpha of a forecast must be a number from 0 to 1"),
    (lambda: forecast([1, 2], "last", 0), "horizon of a forecast must be a whole number from 1"),
    (lambda: forecast([1, 2], "last", True), "horizon of a forecast must be a whole number from 1"),
    (lambda: forecast([1, 2], "seasonal"), "needs period"),
    (lambda: forecast([1, 2], "seasonal", period=1), "period of a forecast must be a whole number from 2"),
    (lambda: fit([1, 2], "smoothed", horizon=2), "horizon is no parameter of the forecast smoothed"),
    (lambda: fit([1], "smoothed"), "needs at least 2 counts, but has 1"),
    (lambda: fit([1] * 8, "seasonal", period=4), "needs at least 9 counts, but has 8"),
    (lambda: fit([1] * 8, "seasonal"), "needs period"),
    (lambda: fit([1, 9] * 30, "seasonal", period=24, beta=0.8, gamma=0.9), "seasonal can keep"),
    (lambda: evaluate([1] * 8, train_share=1.0), "train_share must be a number above 0 and below 1, but is 1.0"),
    (lambda: evaluate([1, 2]), "at least 2 counts to learn from, but train_share 0.5 of 2 counts leaves 1"),
    (lambda: evaluate([1] * 8, horizon=6), "at least 6 counts to learn from"),
    (lambda: evaluate([1] * 8, kinds=["seasonal"]), "needs period"),
    (lambda: evaluate([1] * 8, horizon=0), "horizon of a forecast must be a whole number from 1"),
])  # fmt: skip
def test_bad_input_is_refused(act: Callable[[], object], words: str) -> None:
    with pytest.raises(PredictorError) as caught:
        act()
    assert words in str(caught.value) and str(caught.value).endswith(".")

"""Interpolation: exact at the points, between them within their values, beyond them by a stated rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.fidelity.interpolate import between, curve, family

times = st.floats(1e-6, 1e2)


@st.composite
def grids(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Points that rise, and positive values."""
    points = sorted(draw(st.sets(st.integers(1, 10**6), min_size=2, max_size=12)))
    values = draw(st.lists(times, min_size=len(points), max_size=len(points)))
    return np.array(points, float), np.array(values)


@given(grids())
def test_the_points_themselves_come_back(grid: tuple[np.ndarray, np.ndarray]) -> None:
    points, values = grid
    assert (between(points, points, values) == values).all()


@given(grids(), st.floats(1, 1e6))
def test_a_value_lies_between_its_neighbours(grid: tuple[np.ndarray, np.ndarray], x: float) -> None:
    points, values = grid
    inside = min(max(x, points[0]), points[-1])
    at = min(int(np.searchsorted(points, inside, side="right")) - 1, len(points) - 2)
    found = between(np.array([x]), points, values)[0]
    if x <= points[-1]:
        low, high = sorted(values[at : at + 2])
        assert low * (1 - 1e-9) <= found <= high * (1 + 1e-9)
    else:
        assert values[-1] * (1 - 1e-9) <= found <= values[-1] * (x / points[-1]) ** 2 * (1 + 1e-9)


@given(grids(), st.lists(st.floats(1, 1e7), min_size=2, max_size=20))
def test_what_rises_at_the_points_rises_between_and_beyond(
    grid: tuple[np.ndarray, np.ndarray], xs: list[float]
) -> None:
    points, values = grid
    found = between(np.array(sorted(xs)), points, np.sort(values))
    assert (np.diff(found) >= -1e-9 * found[:-1]).all()


@given(st.floats(0.0, 2.0), st.floats(1, 1e9))
def test_a_power_law_is_met_everywhere(exponent: float, x: float) -> None:
    points = np.array([1.0, 10.0, 4000.0])
    found = between(np.array([x]), points, 3.0 * points**exponent)
    assert found[0] == pytest.approx(3.0 * x**exponent, rel=1e-9)


def test_below_the_first_point_its_value_holds() -> None:
    assert between(np.array([1.0, 8.0]), np.array([8.0, 16.0]), np.array([5.0, 9.0])).tolist() == [5.0, 5.0]


def test_a_family_with_ragged_curves_comes_back_at_its_points_and_says_how_far_beyond_it_was_asked() -> None:
    batch = np.array([1, 1, 1, 4, 4], float)
    tokens = np.array([16, 256, 4096, 16, 256], float)
    values = np.array([1.0, 2.0, 8.0, 2.0, 6.0])
    measured = family(batch, tokens, values)
    assert measured.value(batch, tokens).tolist() == values.tolist()
    assert measured.beyond(4, 4096) == 16.0 and measured.beyond(1, 4096) == 1.0 and measured.beyond(8, 16) == 2.0
    assert 8.0 < measured.value(np.array([2.0]), np.array([4096.0]))[0] < 6.0 * (4096 / 256) ** 2


def test_of_equal_points_the_median_counts() -> None:
    points, values = curve(np.array([8, 2, 8, 8]), np.array([1.0, 5.0, 3.0, 9.0]))
    assert points.tolist() == [2.0, 8.0] and values.tolist() == [5.0, 3.0]


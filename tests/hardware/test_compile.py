"""The table compiler reports its error truthfully and keeps a rising curve rising."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import ConfigError
from replay.hardware.compile import MOST_SEGMENTS, TOLERANCE, compile_table, grid, values_ps
from replay.hardware.profile import table_ps


@settings(max_examples=40, deadline=None)
@given(
    fixed_s=st.floats(1e-4, 1e-1),
    token_s=st.floats(0, 1e-3),
    floor_s=st.floats(0, 1.0),
    bend=st.floats(1e-6, 1.0),
    power=st.floats(0.1, 1.5),
)
def test_random_curves(fixed_s, token_s, floor_s, bend, power):
    def cost_s(t):
        return fixed_s + np.maximum(floor_s, token_s * t) + floor_s * (1 - np.exp(-bend * t)) + 1e-6 * t**power

    rows, error = compile_table(cost_s)
    assert len(rows) <= MOST_SEGMENTS
    # Between the points that were checked, a kink inside a 1 % step may add a little.
    points = np.unique(np.concatenate([np.arange(1, 3000), grid()[:-1] + np.diff(grid()) // 2]))
    exact_ps = cost_s(points.astype(float)) * 1e12
    seen = np.max(np.abs(values_ps(rows, points) - exact_ps) / exact_ps)
    assert error <= TOLERANCE + 1e-5 and seen <= error + 0.002
    assert (np.diff(values_ps(rows, np.arange(0, 3000))) >= 0).all()
    assert rows["start"][0] == 0 and (np.diff(rows["start"]) > 0).all() and (rows["slope_ps"] >= 0).all()


def test_affine_curve_needs_one_segment():
    rows, error = compile_table(lambda t: 0.01 + 2e-5 * t)
    assert rows.tolist() == [(0, 10**10, 2 * 10**7)] and error < 1e-9


def test_error_grows_when_segments_are_few():
    rows, error = compile_table(lambda t: 1e-6 * t**1.5, most=4)
    assert len(rows) <= 5 and error > TOLERANCE


def test_values_equal_the_single_look_up():
    rows, _ = compile_table(lambda t: 1e-3 + 1e-4 * np.sqrt(t))
    points = np.array([0, 1, 2, 77, 5000, 2**20, 2**22])
    assert values_ps(rows, points).tolist() == [table_ps(rows, int(tokens)) for tokens in points]


@pytest.mark.parametrize(
    ("cost_s", "sentence"),
    [
        (lambda t: 1 / t, "falls after 1 tokens"),
        (lambda t: 0 * t, "must cost from 1 ps"),
        (lambda t: 1e9 * t, "1 ps to"),
    ],
)
def test_impossible_curves_are_refused(cost_s, sentence):
    with pytest.raises(ConfigError, match=sentence):
        compile_table(cost_s)

"""Seconds become picoseconds by one rounding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.errors import ConfigError
from replay.hardware.units import LONGEST_S, fs, ps, ps_array


def test_rounds_half_to_even():
    assert [ps(0.5e-12), ps(1.5e-12), ps(2.5e-12)] == [0, 2, 2]
    assert (ps(0.1), ps(1), fs(7.58e-10)) == (100_000_000_000, 10**12, 758_000)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e-9, LONGEST_S * 1.01, "soon", None])
def test_refuses_what_is_no_time(bad):
    with pytest.raises(ConfigError, match="hardware.iteration_s must be"):
        ps(bad, "hardware.iteration_s")


@given(st.lists(st.floats(0, LONGEST_S), min_size=1, max_size=20))
def test_array_equals_scalar(values):
    assert ps_array(np.array(values)).tolist() == [ps(value) for value in values]


def test_array_names_the_row():
    with pytest.raises(ConfigError, match="arrival_s of row 1 .*-2.0"):
        ps_array(np.array([1.0, -2.0]), "arrival_s")

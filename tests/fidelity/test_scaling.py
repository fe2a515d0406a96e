"""Laws of scaled profiles: what scaled costs are, that tables stay legal, and what is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import ConfigError
from replay.fidelity.scaling import least_host_s, scaled
from replay.hardware.profile import Profile, iteration_ps, table, table_ps
from tests.small import small_profile

FACTORS = st.floats(0.02, 50.0)
MIXED = (300, 5, 4000, 90_000)  # p, D, K, Q
DECODE = (0, 5, 4000, 0)


@st.composite
def tables(draw: st.DrawFn, least: int = 1000) -> list[tuple[int, int, int]]:
    """Draw segments of a table that does not fall, from `least` ps on."""
    start, value, found = 0, draw(st.integers(least, 10**6)), []
    for _ in range(draw(st.integers(1, 5))):
        slope, length = draw(st.integers(0, 10**5)), draw(st.integers(1, 200))
        found.append((start, value, slope))
        start, value = start + length, value + slope * length + draw(st.integers(0, 10**5))
    return found


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    return small_profile(prefill_token_ps=draw(st.integers(0, 10**7)), prefill_token_sq_fs=draw(st.integers(0, 10**6)),
                         decode_request_ps=draw(st.integers(0, 10**7)), token_segments=draw(tables()),
                         kv_segments=draw(tables(0)), decode_segments=draw(st.none() | tables()))  # fmt: skip


@given(profiles())
def test_factors_of_one_change_nothing(profile: Profile) -> None:
    same = scaled(profile)
    assert same.decode_table is None or (same.decode_table == profile.decode_table).all()
    for name in ("token_table", "kv_table"):
        assert (getattr(same, name) == getattr(profile, name)).all()


@settings(max_examples=60)
@given(profiles(), FACTORS, FACTORS, FACTORS, st.integers(0, 10**9))
def test_an_iteration_costs_what_the_formula_says(profile: Profile, a: float, b: float, c: float, host: int) -> None:
    """Integers are rounded one by one, so that the sum is off by at most a ps for each token and segment."""
    p, D, K, Q = MIXED
    found, host_ps = scaled(profile, a, b, c, host * 1e-12), host
    kv_ps, requests_ps = table_ps(profile.kv_table, K), profile.decode_request_ps * D
    prefill_ps = iteration_ps(profile, p, D, K, Q) - kv_ps - requests_ps
    slack = 2 * (p + D + K) + Q / 1000 + 10
    wanted_ps = a * prefill_ps + b * requests_ps + c * kv_ps + host_ps
    assert abs(iteration_ps(found, *MIXED) - wanted_ps) <= slack
    decode_ps = iteration_ps(profile, 0, D, K, 0) - kv_ps
    assert abs(iteration_ps(found, *DECODE) - (b * decode_ps + c * kv_ps + host_ps)) <= slack


@settings(max_examples=60)
@given(profiles(), FACTORS, FACTORS, st.floats(0.0, 1.0))
def test_host_time_can_be_taken_off_until_an_iteration_is_nearly_free(profile, a, b, share) -> None:
    """The tables stay legal, as `Profile` checks when it is made; more than all there is, is refused."""
    least_s = least_host_s(profile, a, b)
    found = scaled(profile, a, b, 1.0, share * least_s)
    assert iteration_ps(found, 1, 0, 0, 0) >= 1 and iteration_ps(found, 0, 1, 1, 0) >= 1
    assert iteration_ps(found, 1, 0, 0, 0) <= iteration_ps(scaled(profile, a, b), 1, 0, 0, 0)
    with pytest.raises(ConfigError, match="host_s must be finite and at least"):
        scaled(profile, a, b, 1.0, least_s - 1e-9)


def test_a_segment_that_would_be_negative_begins_at_one_token() -> None:
    profile = small_profile(token_segments=[(0, 5, 100), (10, 2000, 7)])
    rows = scaled(profile, host_s=-50e-12).token_table
    assert rows.tolist() == table([(0, 0, 0), (1, 55, 100), (10, 1950, 7)]).tolist()


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_a_factor_that_is_none_is_refused(factor: float) -> None:
    with pytest.raises(ConfigError, match="the scale of kv must be finite and above 0"):
        scaled(small_profile(iteration_ps=10), kv=factor)

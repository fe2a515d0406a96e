"""Linear profiles are exact, and malformed profiles are refused."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import ConfigError
from replay.hardware import build, decode_s, iteration_ps, nominal, prefill_s, refuse_overflow, table, table_ps
from replay.hardware.conf import load

NODE = load("hardware", "linear")


def linear(**changes):
    return build({"hardware": {**NODE, **changes}})


@settings(max_examples=60)
@given(st.integers(0, 10**5), st.integers(0, 512), st.integers(0, 10**8), st.integers(0, 10**11))
def test_linear_is_exact(p, D, K, Q):
    profile = linear(
        iteration_s=3e-3, prefill_token_s=7e-5, prefill_token_sq_s=2e-9, decode_request_s=5e-4, kv_token_s=1e-8
    )
    expected = 3 * 10**9 + 7 * 10**7 * p + 2 * 10**6 * Q // 1000 + 5 * 10**8 * D + 10**4 * K
    assert iteration_ps(profile, p, D, K, Q) == (expected if p + D else 0)


def test_nominal_returns_the_coefficients():
    profile = linear(prefill_token_sq_s=1e-9, kv_token_s=2e-8)
    figures = nominal(profile)
    assert [figures[key] for key in ("iteration_s", "prefill_token_s", "decode_request_s")] == [0.02, 1e-4, 4e-4]
    assert (figures["prefill_token_sq_s"], figures["kv_token_s"]) == (1e-9, 2e-8)
    assert figures["prefill_tokens_per_s"] == pytest.approx(2048 / prefill_s(profile, 2048))


def test_table_is_read_segment_by_segment():
    rows = table([(0, 5, 2), (10, 25, 1), (20, 100, 0)])
    assert [table_ps(rows, tokens) for tokens in (0, 9, 10, 19, 20, 10**9)] == [5, 23, 25, 34, 100, 100]
    with pytest.raises(ValueError):
        rows["base_ps"][0] = 1


@pytest.mark.parametrize(
    ("segments", "sentence"),
    [([(1, 5, 0)], "first start is 0"), ([(0, 5, 0), (0, 6, 0)], "strictly rising"), ([(0, 5, -1)], "no negative"),
     ([(0, 5, 1), (10, 14, 0)], "drops from 15 to 14 ps at 10 tokens")],
)  # fmt: skip
def test_malformed_tables_are_refused(segments, sentence):
    with pytest.raises(ConfigError, match=sentence):
        dataclasses.replace(linear(), token_table=table(segments))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"iteration_s": 1e-13}, "would round to 0 ps"),
        ({"prefill_token_sq_s": 1e-16}, "would round to 0 fs"),
        ({"iteration_s": 0, "prefill_token_s": 0}, "one prefill token on profile 'linear' costs 0 ps"),
        ({"iteration_s": 0, "decode_request_s": 0}, "one decoding request on profile 'linear' costs 0 ps"),
        ({"iteration_s": float("nan")}, "hardware.iteration_s must be finite"),
        ({"kv_token_s": -1.0}, "hardware.kv_token_s must be finite, at least 0"),
        ({"kv_token_s": "1"}, "hardware.kv_token_s must be a number"),
        ({"iterations_s": 1}, "Did you mean hardware.iteration_s"),
        ({"kv_capacity_tokens": 0}, "whole number from 1"),
        ({"nic_bytes_per_s": 0}, "above 0"),
        ({"kind": "guess"}, "one of linear, roofline, file"),
        ({"gpu_memory_utilization": 0.9}, "presets of engines set, needs hardware of kind roofline"),
    ],
)
def test_bad_coefficients_are_refused(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        linear(**changes)


def test_missing_key_is_named():
    with pytest.raises(ConfigError, match="hardware needs kv_token_s, which is missing"):
        build({"hardware": {key: value for key, value in NODE.items() if key != "kv_token_s"}})


def test_overflow_is_refused_only_when_reachable():
    profile = linear(prefill_token_sq_s=1e-3)
    refuse_overflow(profile, token_budget=2**31 - 1, max_batch=4, longest_tokens=1000)
    with pytest.raises(ConfigError, match="1000000 tokens could take"):
        refuse_overflow(profile, token_budget=2**31 - 1, max_batch=256, longest_tokens=10**6)


def test_mooncake_calibration_matches_its_figure():
    """Source: Mooncake (FAST 2025) Fig. 14; prefill at most 2 % off, decode at most 1.2 %."""
    profile = build({"hardware": load("hardware", "mooncake_a800")})
    seconds = {8: 1.002, 16: 2.056, 32: 4.479, 64: 10.587, 128: 27.51}
    for thousand, measured_s in seconds.items():
        assert prefill_s(profile, thousand * 1024) == pytest.approx(measured_s, rel=0.02)
    for thousand, measured_ms in {8: 26.5, 16: 26.8, 32: 27.5, 64: 28.6, 128: 30.8}.items():
        assert decode_s(profile, thousand * 1024) * 1e3 == pytest.approx(measured_ms, rel=0.012)

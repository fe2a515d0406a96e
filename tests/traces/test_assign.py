"""Tiers, tenants and kinds by rule: shares, whole sessions, label maps, limits, errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces.assign import assign
from traces.errors import TraceError
from traces.schema import Trace, build
from traces.window import slice_rows

SHARES = {"gold": 0.2, "silver": 0.3, "bronze": 0.5}


def plain(requests: int, **more: object) -> Trace:
    columns = {
        "arrival_s": np.arange(requests, dtype=float),
        "prompt_tokens": np.arange(1, requests + 1),
        "output_tokens": np.ones(requests, int),
    }
    return build("plain", columns | more)


def test_shares_hold_within_five_standard_errors() -> None:
    count = 100_000
    tiers = assign(plain(count), "tier", SHARES, seed=3).column("tier")
    for name, share in SHARES.items():
        error = 5 * np.sqrt(share * (1 - share) / count)
        assert abs(np.mean(tiers == name) - share) < error


def test_columns_and_seeds_draw_independently() -> None:
    trace = plain(20_000)
    halves = {"a": 0.5, "b": 0.5}
    tier = assign(trace, "tier", halves, seed=1).column("tier") == "a"
    for other in (
        assign(trace, "tenant", halves, seed=1).column("tenant"),
        assign(trace, "tier", halves, 2).column("tier"),
    ):
        assert abs(np.mean(tier == (other == "a")) - 0.5) < 5 * 0.5 / np.sqrt(len(trace))


def test_a_session_keeps_its_tier_also_in_a_window() -> None:
    sessions = [f"s{row % 50}" for row in range(1000)]
    whole = assign(plain(1000, session=sessions), "tier", SHARES, seed=9)
    tiers = whole.column("tier")
    assert all(len(set(tiers[start::50])) == 1 for start in range(50))
    assert len(set(tiers)) == 3
    later = assign(slice_rows(plain(1000, session=sessions), 400, 900), "tier", SHARES, seed=9)
    np.testing.assert_array_equal(later.column("tier"), tiers[400:900])


def test_turns_without_session_labels_follow_their_first_turn() -> None:
    parent = np.where(np.arange(600) < 60, -1, np.arange(600) - 60)
    tiers = assign(plain(600, parent=parent, think_s=np.zeros(600)), "tier", SHARES).column("tier")
    np.testing.assert_array_equal(tiers, np.tile(tiers[:60], 10))
    assert len(set(tiers)) == 3


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), weights=st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(any))
def test_every_row_gets_a_label_that_has_a_share(seed: int, weights: list[int]) -> None:
    shares = {f"t{k}": weight / sum(weights) for k, weight in enumerate(weights)}
    trace = plain(64)
    tiers = assign(trace, "tier", shares, seed)
    assert {name for name in tiers.column("tier")} <= {name for name, share in shares.items() if share > 0}
    assert tiers.digest() == assign(trace, "tier", shares, seed).digest()


def test_a_label_map_and_its_default() -> None:
    trace = plain(3, kind=["chat", "code", "other"])
    rule = {"column": "kind", "map": {"chat": "gold", "code": "silver"}, "default": "bronze"}
    assert assign(trace, "tier", rule).column("tier").tolist() == ["gold", "silver", "bronze"]
    with pytest.raises(TraceError, match=r"request 2 has kind other\. Give a 'default'\."):
        assign(trace, "tier", rule | {"default": None})


def test_limits_are_upper_bounds_not_included() -> None:
    rule = {"column": "prompt_tokens", "below": {"silver": 5, "gold": 3}, "default": "bronze"}
    tiers = assign(plain(6), "tier", rule).column("tier").tolist()
    assert tiers == ["gold", "gold", "silver", "silver", "bronze", "bronze"]


def test_an_existing_column_is_replaced_and_the_rule_noted() -> None:
    trace = assign(plain(4, tier=["x"] * 4), "tier", {"gold": 1.0})
    assert trace.column("tier").tolist() == ["gold"] * 4
    assert trace.notes["tier_rule"] == {"gold": 1.0}


@pytest.mark.parametrize(
    ("column", "rule", "sentence"),
    [
        ("tier", {"gold": 0.2, "bronze": 0.3}, "must add up to 1, but those of 'tier' add up to 0.5"),
        ("tier", {"gold": -0.5, "bronze": 1.5}, "in 0 .. 1, but got -0.5"),
        ("tier", {"gold": "much"}, "must be a number, but got 'much'"),
        ("tier", {"gold": float("nan")}, "must be finite"),
        ("tier", {}, "must add up to 1"),
        ("tier", "gold", "must be shares like"),
        ("model", {"gold": 1.0}, "tier, tenant, kind, but got 'model'"),
        ("tier", {"column": "kind", "map": {}}, "needs a label column"),
        ("tier", {"column": "tenant", "below": {"gold": 3}}, "needs a number column"),
        ("tier", {"column": "prompt_tokens"}, "it has neither"),
        ("tier", {"column": "prompt_tokens", "below": 3}, "must be a mapping"),
        ("tier", {"column": "prompt_tokens", "below": {"gold": 3}, "above": 1}, "it has 'above'"),
    ],
)
def test_a_bad_rule_is_one_sentence(column: str, rule: object, sentence: str) -> None:
    with pytest.raises(TraceError, match=sentence):
        assign(plain(4), column, rule)  # type: ignore[arg-type]

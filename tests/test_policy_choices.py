"""What each policy of the catalogue chooses, on cases small enough to work out by hand."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from replay.policy import NEVER, load_all, registry

load_all()
VIEW: dict[str, Any] = {
    "running": 0, "waiting": 0, "queued_tokens": 0, "hit_tokens": 0, "block_tokens": 16, "total_blocks": 100,
    "free_blocks": 100, "cached_blocks": 0, "iteration_s": 0.01, "prefill_token_s": 1e-4, "prefill_token_sq_s": 0.0,
    "prefill_tokens_per_s": 1e4, "waiting_tokens": 0, "decode_request_s": 1e-4, "kv_token_s": 1e-7, "transfer_s": 0.0,
    "link_flows": 0, "link_utilisation": 0.0,
}  # fmt: skip
REQUEST: dict[str, Any] = {"prompt_tokens": 1000, "random_key": 7, "session": -1, "tier": 0, "predicted_tokens": -1}


def asked(slot: str, name: str, views: list[dict[str, Any]] | None = None, request: dict[str, Any] | None = None,
          **tunables: Any) -> Any:  # fmt: skip
    """Ask a policy, as plain Python, about a request and instances that differ from the usual ones as given."""
    function, row = registry()[slot][name].function, SimpleNamespace(**REQUEST | (request or {}))
    if views is None:
        return function(row, 0, **tunables)
    return function(row, [SimpleNamespace(**VIEW | view) for view in views], 0, **tunables)


def test_least_tokens() -> None:
    assert asked("route", "least_tokens", [{"queued_tokens": 5}, {"queued_tokens": 3}, {"queued_tokens": 3}]) == 1


def test_lmetric_multiplies_tokens_and_requests() -> None:
    """(500 + 1000 - 900) * (3 + 1) = 2400 against 1000 * (1 + 1) = 2000 and (4000 + 1000) * 1."""
    views = [{"queued_tokens": 500, "hit_tokens": 900, "running": 2, "waiting": 1}, {"running": 1},
             {"queued_tokens": 4000}]  # fmt: skip
    assert asked("route", "lmetric", views) == 1
    views[0]["running"] = 0
    assert asked("route", "lmetric", views) == 0  # 600 * 2 = 1200


def test_filter_by_load_matches_only_while_loads_are_near() -> None:
    views = [{"running": 9, "hit_tokens": 800}, {"running": 1}, {"running": 5, "hit_tokens": 800}]
    assert asked("route", "filter_by_load", views, most_apart=8) == 2  # of equal hits the one with fewer requests
    assert asked("route", "filter_by_load", views, most_apart=7) == 1


@pytest.mark.parametrize(("weight", "chosen"), [(0.0, 1), (0.4, 1), (0.6, 0), (1.0, 0)])
def test_linear_score(weight: float, chosen: int) -> None:
    """Misses 0 and 1, loads 1 and 0: the weights decide at a half."""
    views = [{"hit_tokens": 1000, "running": 4}, {}]
    assert asked("route", "linear_score", views, hit_weight=weight) == chosen


def test_weighted_scorers_add_up() -> None:
    """2 * .5 + 0 + .2 = 1.2 against 0 + 1 + .9 = 1.9; three times the weight of the prefix turns it round."""
    views = [{"hit_tokens": 500, "waiting": 8, "free_blocks": 10, "cached_blocks": 10}, {"free_blocks": 90}]
    assert asked("route", "weighted_scorers", views) == 1
    assert asked("route", "weighted_scorers", views, prefix_weight=6.0) == 0


def test_kv_cost_takes_the_least_or_draws_by_softmax() -> None:
    """Costs 62.5 and 62.5 + 40 blocks: the first wins at 0 degrees; at 1 degree it has a share of 1 / (1 + 1/e)."""
    views = [{}, {"free_blocks": 60}]
    assert asked("route", "kv_cost", views) == 0
    assert asked("route", "kv_cost", views, {"prompt_tokens": 1000, "random_key": 3}, overlap_weight=0.0) == 0
    draws = Counter(asked("route", "kv_cost", views, {"random_key": key}, temperature=1.0) for key in range(4000))
    assert draws[0] / 4000 == pytest.approx(1 / (1 + 2.718281828**-1), abs=4 * (0.2 / 4000) ** 0.5)


def test_expected_ttft_counts_queue_and_rest() -> None:
    """.01 + .2 + .02 s against .01 + 0 + .1 s; with twice the queue emptied the first is sooner."""
    views = [{"queued_tokens": 2000, "hit_tokens": 800}, {}]
    assert asked("route", "expected_ttft", views) == 1
    views[0]["queued_tokens"] = 500
    assert asked("route", "expected_ttft", views) == 0


def test_sessions_stick_until_their_home_is_crowded() -> None:
    views: list[dict[str, Any]] = [{"queued_tokens": 100} for _ in range(4)]
    homes = [asked("route", "session_sticky", views, {"session": session}) for session in range(200)]
    assert homes == [asked("route", "session_sticky", views, {"session": session}) for session in range(200)]
    assert all(30 <= count <= 70 for count in Counter(homes).values()) and len(set(homes)) == 4
    views[homes[0]]["queued_tokens"] = 400  # the mean is 175
    assert asked("route", "session_sticky", views, {"session": 0}) != homes[0]
    assert asked("route", "session_sticky", views, {"session": 0}, most_times=3.0) == homes[0]
    views[2]["queued_tokens"] = 1
    assert asked("route", "session_sticky", views) == 2  # of no session


def test_cache_aware_balances_matches_or_spreads() -> None:
    views = [{"running": 100, "hit_tokens": 900}, {"running": 30, "free_blocks": 50}, {"running": 40}]
    assert asked("route", "cache_aware", views) == 1  # 70 apart and over 1.5 times
    assert asked("route", "cache_aware", views, most_apart=80) == 0  # near: a match of .9
    views[0]["hit_tokens"] = 200
    views[0]["free_blocks"] = 20
    assert asked("route", "cache_aware", views, most_apart=80) == 2  # no match: the emptiest cache


def test_decode_choices() -> None:
    assert asked("decode", "fewest_requests", [{"running": 2}, {"waiting": 1}, {"running": 1}]) == 1
    slow_card = [{"transfer_s": 3.0}, {"running": 20}]
    assert asked("decode", "network_aware", slow_card) == 1  # 64 * 2 ms more for the batch, 3 s less for the card
    assert asked("decode", "network_aware", [{"transfer_s": 0.01}, {"running": 20}]) == 0
    assert asked("decode", "network_aware", [{"free_blocks": 0}, {"transfer_s": 9.0}]) == 1  # no memory comes last


def test_shortest_predicted_weighs_what_is_known() -> None:
    assert asked("order", "shortest_predicted") == (1000, NEVER)
    assert asked("order", "shortest_predicted", request={"predicted_tokens": 50}, output_weight=10.0) == (1500, NEVER)


def test_early_rejection_takes_what_one_instance_can_serve_in_time() -> None:
    late = [{"queued_tokens": 50_000}, {"queued_tokens": 60_000}]  # 5.11 s and 6.11 s
    assert asked("admit", "early_rejection", late, ttft_s=5.2)
    assert not asked("admit", "early_rejection", late, ttft_s=5.1)
    late[1]["hit_tokens"] = 1000
    late[1]["queued_tokens"] = 50_000
    assert asked("admit", "early_rejection", late, ttft_s=5.05)  # nothing of its own to prefill


def test_shedding_spares_urgent_tiers() -> None:
    full = [{"waiting": 5, "free_blocks": 60}, {"waiting": 0, "free_blocks": 20}]  # max(1, .5) and max(0, 1): 1
    assert not asked("admit", "shed_by_tier", full, {"tier": 1})
    assert asked("admit", "shed_by_tier", full, {"tier": 0})
    assert asked("admit", "shed_by_tier", full, {"tier": 1}, least_tier=2)
    full[0]["waiting"] = 4
    assert asked("admit", "shed_by_tier", full, {"tier": 1})

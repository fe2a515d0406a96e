"""What each policy of the catalogue chooses, on cases small enough to work out by hand."""

import math
from collections import Counter
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from replay.policy import NEVER, REFUSE, load_all, registry
from tests.twin.reading import uncompiled

load_all()
VIEW: dict[str, Any] = {
    "running": 0, "waiting": 0, "queued_tokens": 0, "hit_tokens": 0, "block_tokens": 16, "total_blocks": 100,
    "free_blocks": 100, "cached_blocks": 0, "iteration_s": 0.01, "prefill_token_s": 1e-4, "prefill_token_sq_s": 0.0,
    "prefill_tokens_per_s": 1e4, "waiting_tokens": 0, "decode_request_s": 1e-4, "kv_token_s": 1e-7, "transfer_s": 0.0,
    "link_flows": 0, "link_utilisation": 0.0, "decoding": 0, "max_batch": 100, "token_budget": 2048, "kv_tokens": 0,
    "least_itl_s": math.inf, "slack_s": math.inf, "home": 1,
}  # fmt: skip
REQUEST: dict[str, Any] = {
    "prompt_tokens": 1000, "random_key": 7, "session": -1, "tier": 0, "predicted_tokens": -1, "generated_tokens": 0,
    "arrival_ps": 0, "tenant": 0, "ttft_s": 2.0, "itl_s": 0.1, "tpot_s": 0.05, "runs": 0, "stage_s": 0.0,
    "waited_s": 0.0, "served_s": 0.0, "prefill_tokens": 1000, "prefill_s": 0.11, "prefix_keys": [7] * 8,
    "predicted_p90_tokens": 200, "predicted_p99_tokens": 400, "predicted_left_tokens": 100.0,
}  # fmt: skip
S = 10**12


def asked(slot: str, name: str, views: list[dict[str, Any]] | None = None, request: dict[str, Any] | None = None,
          now_ps: int = 0, **given: Any) -> Any:  # fmt: skip
    """Ask a policy, as plain Python, about a request and instances that differ from the usual ones as given.

    given : tunables, memory, and decodes as `views`
    """
    function, row = uncompiled(registry()[slot][name].function), SimpleNamespace(**REQUEST | (request or {}))
    if "decodes" in given:
        given["decodes"] = seen(given["decodes"])
    arguments = [row] if views is None else [row, seen(views)]
    if slot in ("batch", "migrate"):
        arguments = seen(views or [{}]) if slot == "batch" else [seen(views or [])]
    defaults = registry()[slot][name].defaults
    return function(*arguments, now_ps, **defaults | given)


def seen(views: list[dict[str, Any]]) -> list[SimpleNamespace]:
    """Return instances that differ from the usual one as given."""
    return [SimpleNamespace(**VIEW | view) for view in views]


def test_least_tokens() -> None:
    assert asked("route", "least_tokens", [{"queued_tokens": 5}, {"queued_tokens": 3}, {"queued_tokens": 3}]) == 1


def test_least_in_flight_counts_itself() -> None:
    """Signals that are old say that nothing runs; the router's own count says where it sent."""
    assert asked("route", "least_in_flight", [{"in_flight": 3}, {"in_flight": 2, "running": 9}, {"in_flight": 2}]) == 1


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


def test_early_rejection_looks_at_both_sides() -> None:
    """TTFT 5.11 s and 6.11 s against 6 s; decode steps of 11 ms + 1 ms a thousand tokens against 50 ms."""
    late, idle = [{"queued_tokens": 50_000}, {"queued_tokens": 60_000}], [{}]
    assert asked("admit", "early_rejection", late, {"ttft_s": 5.2}, decodes=idle)
    assert not asked("admit", "early_rejection", late, {"ttft_s": 5.1}, decodes=idle)
    late[1] |= {"hit_tokens": 1000, "queued_tokens": 50_000}
    assert asked("admit", "early_rejection", late, {"ttft_s": 5.05}, decodes=idle)  # nothing of its own to prefill
    full = [{"running": 99, "max_batch": 100, "total_blocks": 10**6}, {"running": 100, "total_blocks": 10**6}]
    assert asked("admit", "early_rejection", [{}], decodes=full)
    assert not asked("admit", "early_rejection", [{}], decodes=full[1:])  # no place in its batch
    slow = [{"kv_tokens": 400_000, "total_blocks": 10**6}]  # .01 + .0001 + .0401 s
    assert not asked("admit", "early_rejection", [{}], decodes=slow)
    assert asked("admit", "early_rejection", [{}], {"tpot_s": 0.06}, decodes=slow)
    assert asked("decode", "refuse_overload", slow, {"tpot_s": 0.06}) == 0
    assert asked("decode", "refuse_overload", slow) == REFUSE


def test_predicted_rejection_counts_who_will_be_there() -> None:
    """With a prefill of 5.11 s and decodes of 10 s about half of those that decode go, and what is prefilled comes."""
    full, view = [{"running": 100, "total_blocks": 10**6}], {"queued_tokens": 50_000}
    patient = {"ttft_s": 10.0}
    assert asked("admit", "early_rejection_predicted", [view], patient, decodes=full)  # 1 + 48.9 of 100 places
    coming = view | {"waiting": 40, "running": 12, "decoding": 2}
    assert asked("admit", "early_rejection_predicted", [coming], patient, decodes=full)  # 1 + 50 + 48.9
    assert not asked("admit", "early_rejection_predicted", [coming | {"waiting": 41}], patient, decodes=full)
    assert not asked("admit", "early_rejection_predicted", [view], {"ttft_s": 5.0}, decodes=full)


def test_slo_feasible_takes_what_can_be_in_time() -> None:
    assert asked("admit", "slo_feasible", [{"queued_tokens": 18_000}], decodes=[{}])  # .01 + 1.8 + .1 s of 2 s
    assert not asked("admit", "slo_feasible", [{"queued_tokens": 19_000}], decodes=[{}])
    assert asked("admit", "slo_feasible", [{"queued_tokens": 19_000}], decodes=[{}], slack=1.1)


def test_a_bucket_for_each_tenant() -> None:
    """2,500 tokens, 1,000 a second: two prompts of 1,000 at once, a third after half a second; others are not asked."""
    memory, rate = [0.0] * 100, {"tokens_per_s": 1000.0, "burst_tokens": 2500}

    def take(now_s: float, tenant: int = 0, tokens: int = 1000) -> bool:
        request = {"tenant": tenant, "prompt_tokens": tokens}
        return asked("admit", "token_bucket", [{}], request, int(now_s * S), memory=memory, **rate)

    assert [take(0.0), take(0.0), take(0.0), take(0.4), take(0.5)] == [True, True, False, False, True]
    assert take(0.5, tenant=1) and take(0.5, tenant=-1)
    assert [take(0.6, tokens=9000), take(2.9, tokens=9000), take(3.1, tokens=9000)] == [False, False, True]
    assert not take(3.1)  # it took the whole bucket


def test_deadlines_and_slack() -> None:
    """Due at 3 + 2 s; with 10 tokens .5 s later. At 4 s that leaves 1 s, of which .11 s are for the prefill."""
    request = {"arrival_ps": 3 * S}
    assert asked("order", "edf", None, request) == (5.0, NEVER)
    assert asked("order", "edf", None, request | {"generated_tokens": 10}, preemptive=True) == (5.5, 0.0)
    assert asked("order", "edf", None, {"ttft_s": math.inf})[0] == 1e12
    assert asked("order", "least_slack", None, request, 4 * S)[0] == pytest.approx(0.89)
    assert asked("order", "least_slack", None, request, 5 * S)[0] == pytest.approx(1e13 - 0.11)  # too late to save
    assert asked("order", "least_slack", None, request, 5 * S, grace_s=0.2)[0] == pytest.approx(-0.11)


def test_trail_protects_what_is_nearly_done() -> None:
    request = {"predicted_tokens": 100, "predicted_left_tokens": 20.0, "generated_tokens": 79, "runs": 1}
    assert asked("order", "trail", None, request) == (20.0, 0.0)
    assert asked("order", "trail", None, request | {"generated_tokens": 80}) == (-1.0, 0.0)
    assert asked("order", "trail", None, request | {"generated_tokens": 80, "runs": 0}) == (20.0, 0.0)
    assert asked("order", "trail") == (1e12, 0.0)


def test_predicted_tails_and_slack() -> None:
    """1,000 prompt tokens; outputs of 100, 200 at the 90 % quantile; 100 still to come at .03 s, .11 s of prefill."""
    known = {"predicted_tokens": 100, "prompt_tokens": 1000}
    assert asked("order", "shortest_tail", None, known) == (1000 + 16 * 150, NEVER)
    assert asked("order", "shortest_tail", None, known, risk=0.0, output_weight=2.0) == (1200.0, NEVER)
    late = asked("order", "least_slack_predicted", None, known | {"e2e_s": 2.0, "arrival_ps": 0})
    soon = asked("order", "least_slack_predicted", None, known | {"e2e_s": 9.0, "arrival_ps": 0})
    assert late[0] > 1e12 > soon[0] and soon[0] == pytest.approx(9.0 - 3.0 - 0.11)
    assert asked("order", "least_slack_predicted", None, known | {"e2e_s": math.inf})[0] == 1e12


def test_rank_and_levels_promote_for_a_quantum() -> None:
    waits = {"predicted_tokens": 500, "stage_s": 29.0}
    assert asked("order", "rank", None, waits) == (500.0, 0.0)
    assert asked("order", "rank", None, waits | {"stage_s": 30.0}) == (-1.0, 0.0)
    promoted = {"runs": 1, "predicted_tokens": 500, "waited_s": 30.0}
    assert asked("order", "rank", None, promoted | {"stage_s": 4.9}) == (-1.0, 0.0)
    assert asked("order", "rank", None, promoted | {"stage_s": 5.0}, preemptive=False) == (500.0, NEVER)
    # quanta .01, .02, .04, .08, .16 s: a prefill of .11 s joins level 4
    spent_s = (0.01, 0.011, 0.021, 0.11, 0.17)
    assert [asked("order", "skip_join_mlfq", None, {"prefill_s": s})[0] for s in spent_s] == [0, 1, 2, 4, 5]
    assert asked("order", "skip_join_mlfq", None, {"served_s": 0.2, "stage_s": 3.0}) == (0, 0.5)


def test_qoe_prefers_who_gains_most_for_its_memory() -> None:
    """Due in 10 s after 12 s: 1 + 20 / .05 = 401 tokens; served 1 + 9.89 / .05 = 198.8 of them, waiting none."""
    key, margin = asked("order", "qoe", None, None, 12 * S)
    assert (key, margin) == (pytest.approx(-198.8 / 401), 0.1)
    ahead = asked("order", "qoe", None, {"generated_tokens": 500}, 12 * S)[0]
    assert ahead == 0.0  # it has more than is due, served or not
    assert asked("order", "qoe", None, {"prompt_tokens": 2000}, 12 * S)[0] == pytest.approx(key / 2)


def test_oracles_weigh_the_truth() -> None:
    assert asked("order", "oracle_sjf", None, {"true_tokens": 10}) == (1160.0, NEVER)
    left = {"true_tokens": 10, "generated_tokens": 4, "prefill_tokens": 30}
    assert asked("order", "oracle_srpt", None, left) == (30 + 6 * 16.0, 0.0)


def test_consistent_hashing_keeps_prefixes_and_the_cap() -> None:
    """The chosen is under the cap whatever the loads; idle, a prefix stays where it is when instances come."""
    random = Random(3)
    for _ in range(200):
        loads = [{"running": random.randrange(20), "waiting": random.randrange(3)} for _ in range(random.randint(1, 9))]
        cap, key = random.choice([1.0, 1.25, 2.0]), random.getrandbits(64)
        chosen = asked("route", "bounded_hash", loads, {"prefix_keys": [key] * 8}, cap=cap, points=20)
        total = sum(load["running"] + load["waiting"] for load in loads)
        assert loads[chosen]["running"] + loads[chosen]["waiting"] + 1 <= math.ceil(cap * (total + 1) / len(loads))
    keys = [random.getrandbits(64) for _ in range(300)]
    homes = {count: [asked("route", "bounded_hash", [{}] * count, {"prefix_keys": [key] * 8}) for key in keys]
             for count in (4, 5)}  # fmt: skip
    moved = [after for before, after in zip(homes[4], homes[5], strict=True) if before != after]
    assert set(moved) == {4} and 30 <= len(moved) <= 90  # a fifth of the keys, all to the new instance
    assert all(40 <= count <= 120 for count in Counter(homes[4]).values())


def test_rendezvous_fans_out_to_the_less_loaded() -> None:
    views: list[dict[str, Any]] = [{"queued_tokens": 10} for _ in range(5)]
    first, second = (asked("route", "rendezvous", views, fan_out=count) for count in (1, 5))
    assert first == second  # of equal loads the highest weight
    views[first]["queued_tokens"] = 11
    assert asked("route", "rendezvous", views, fan_out=1) == first
    other = asked("route", "rendezvous", views, fan_out=2)
    assert other != first and asked("route", "rendezvous", views, fan_out=5) == other


def test_prefix_affinity_exploits_or_explores() -> None:
    """Costs .01 + .5 + .04 = .55 s and .01 + .1 = .11 s: the holder of .6 of the prompt is five times as dear."""
    views = [{"queued_tokens": 5000, "hit_tokens": 600}, {}]
    assert asked("route", "prefix_affinity", views) == 1
    assert asked("route", "prefix_affinity", views, most_times=5.1) == 0
    views[0]["hit_tokens"] = 500  # no more than the rest: explored
    assert asked("route", "prefix_affinity", views, most_times=64.0) == 1


def test_lmetric_leaves_a_hot_prefix_after_enough_wins() -> None:
    """One of two instances holds the prefix of every request: after 2 wins the other is to take one."""
    memory, views = [0.0] * 1024, [{"hit_tokens": 990}, {}]
    chosen = [asked("route", "lmetric_guarded", views, memory=memory) for _ in range(6)]
    assert chosen == [0, 0, 1, 0, 0, 1]
    views[1]["hit_tokens"] = 990  # held by all, there is nobody to spare
    assert asked("route", "lmetric_guarded", views, memory=memory) == 0


def test_the_fullest_that_is_in_time() -> None:
    """Expected .11, 1.61 and 2.11 s of 2 s; then nobody in time: the soonest."""
    views = [{}, {"queued_tokens": 15_000}, {"queued_tokens": 20_000}]
    assert asked("route", "fullest_feasible", views) == 1
    views[1]["kv_tokens"] = 500_000  # a step of 60 ms there
    assert asked("route", "fullest_feasible", views) == 0
    assert asked("route", "fullest_feasible", views[1:]) == 0
    decodes = [{"running": 10}, {"running": 60}, {"running": 100}]
    assert asked("decode", "fullest_feasible", [view | {"total_blocks": 10**5} for view in decodes]) == 1
    assert asked("decode", "least_step", decodes) == 0


def test_splitwise_borrows_from_the_token_pool() -> None:
    views = [{"home": 0, "queued_tokens": 9000}, {"home": 0, "queued_tokens": 9500}, {"home": 2, "queued_tokens": 100}]
    assert asked("route", "splitwise", views) == 2
    assert asked("route", "splitwise", views, most_tokens=10_000) == 0
    assert asked("route", "splitwise", views[:2]) == 0  # none to borrow
    full = {"home": 2, "free_blocks": 10}
    assert asked("decode", "splitwise", [{"home": 0}, {"home": 2, "free_blocks": 90}, {"home": 2}]) == 2
    assert asked("decode", "splitwise", [{"home": 0}, full, full]) == 0


def test_budgets_follow_promises() -> None:
    """.9 * .1 s less a step of .0110 s leaves .0790 s: 790 tokens, 768 in tiles of 64; slack of .05 s leaves 340."""
    running = {"decoding": 10, "least_itl_s": 0.1}
    assert asked("batch", "slo_budget", [running]) == (768, True, False)
    assert asked("batch", "slo_budget", [running | {"least_itl_s": 0.0125}]) == (64, True, False)
    assert asked("batch", "slo_budget", [{}]) == (2048, True, False)
    assert asked("batch", "slack_chunk", [{"decoding": 10, "slack_s": 0.05}]) == (340, True, False)
    assert asked("batch", "slack_chunk", [{"decoding": 10, "slack_s": -1.0}]) == (64, True, False)
    assert asked("batch", "splitwise", [{"token_budget": 8192}]) == (2048, True, True)


def test_shedding_spares_urgent_tiers() -> None:
    full = [{"waiting": 5, "free_blocks": 60}, {"waiting": 0, "free_blocks": 20}]  # max(1, .5) and max(0, 1): 1
    assert not asked("admit", "shed_by_tier", full, {"tier": 1})
    assert asked("admit", "shed_by_tier", full, {"tier": 0})
    assert asked("admit", "shed_by_tier", full, {"tier": 1}, least_tier=2)
    full[0]["waiting"] = 4
    assert asked("admit", "shed_by_tier", full, {"tier": 1})


def test_llumnix_evens_out_freeness() -> None:
    """90 / 2 = 45, (20 - 4) / 4 = 4 and 90 / 1 blocks a running request: from the second to the third."""
    views = [{"running": 2, "decoding": 2, "free_blocks": 90}, {"running": 4, "decoding": 4, "free_blocks": 20,
             "waiting_tokens": 64}, {"running": 1, "decoding": 1, "free_blocks": 90}]  # fmt: skip
    assert asked("migrate", "llumnix", views) == (1, 2)
    assert asked("migrate", "llumnix", views, least_gap=86.1) == (-1, -1)
    assert asked("migrate", "llumnix", views, enough=4.0) == (-1, -1)
    views[1]["decoding"] = 0  # nothing there to move
    assert asked("migrate", "llumnix", views) == (0, 2)


POOL: dict[str, Any] = {
    "role": 1, "index": 0, "up": 2, "starting": 0, "draining": 0, "down": 0, "least": 1, "most": 16, "waiting": 0,
    "running": 0, "held": 0, "queued_tokens": 0, "kv_share": 0.0, "interval_s": 60.0, "busy_share": 0.0, "arrivals": 0,
    "arrived_tokens": 0, "first_tokens": 0, "ttft_s": 0.0, "finished": 0, "mean_output_tokens": 0.0, "itl_s": 0.0,
    "iteration_s": 0.02, "prefill_token_s": 1e-4, "decode_request_s": 1e-3, "kv_token_s": 1e-7, "places": 64,
    "prefill_tokens_per_s": 1000.0, "kv_tokens": 10**6, "ttft_target_s": 2.0, "itl_target_s": 0.1, "start_s": 120.0,
    "budget": 0, "since_s": 60.0, "read_tokens": 0, "tail_age_s": 0.0,
}  # fmt: skip


def wanted(name: str, pool: dict[str, Any], memory: list[float] | None = None, others: Any = None, **given: Any) -> Any:
    """Ask a scale policy, as plain Python, about a pool that differs from the usual as given, alone or of others."""
    policy = registry()["scale"][name]
    row = SimpleNamespace(**POOL | pool)
    pools = [row] if others is None else [SimpleNamespace(**POOL | other) for other in others]
    more = [[0.0] * 1024 if memory is None else memory] if "memory" in policy.extras else []
    return uncompiled(policy.function)(row, pools, 0, *more, **policy.defaults | given)


def test_tracking_takes_total_by_target_outside_a_tolerance() -> None:
    """32 a instance: 68 in flight on two is 6 % over, 71 11 %; held ones count where prompts go."""
    assert wanted("target_tracking", {"running": 60, "waiting": 8}) == 2
    assert wanted("target_tracking", {"running": 60, "waiting": 11}) == 3
    assert wanted("target_tracking", {"running": 60, "held": 11}) == 3
    assert wanted("target_tracking", {"role": 2, "running": 60, "held": 500}, decode_target=30.0) == 2
    assert wanted("target_tracking", {"running": 60, "waiting": 11, "starting": 1}) == 3  # 71 / 96: would be reversed
    assert wanted("target_tracking", {"running": 170, "starting": 1}) == 6  # 170 / 96
    assert wanted("target_tracking", {"busy_share": 0.9}, metric=1, target=0.5) == 4  # 2 * .9 / .5
    assert wanted("target_tracking", {"kv_share": 0.9}, metric=2, target=0.6) == 3
    assert wanted("target_tracking", {"queued_tokens": 9000}, metric=3, target=2000.0) == 5


@pytest.mark.parametrize("name", ["target_tracking", "sla_planner", "predictive", "role_switch"])
def test_pools_of_stores_have_what_is_used_and_what_is_busy(name: str) -> None:
    """Four DRAM nodes that are to keep 600 s. Full, with a tail of 400 s: 6; of 200 s: 8, twice as many at most.

    Full, with a tail of 900 s: 2.67, so 3, but half of another must be able to go too: 3.17 needs 4. Half full of what
    was used within 600 s: 2 / .9 = 2.2, and 2.7 needs 3. Of 1,200 s: half of it, 1.1 and 1.6: 2. Cards busy .96 of the
    time: 4.8 at .8 busy. Storage counts bandwidth alone; a pool that was switched off comes back with the load.
    """
    def asked_for(pool: dict[str, Any], **given: Any) -> Any:
        return wanted(name, pool, **({"band": 0.5} if name == "predictive" else {}), **given)

    dram = {"role": 3, "up": 4, "kv_share": 1.0, "arrivals": 1}
    assert [asked_for( dram | {"tail_age_s": age_s}) for age_s in (400.0, 200.0, 900.0)] == [6, 8, 4]
    half = dram | {"kv_share": 0.5}
    assert [asked_for( half | {"tail_age_s": age_s}) for age_s in (300.0, 1200.0)] == [3, 2]
    assert asked_for( half | {"tail_age_s": 300.0}, keep_s=0.0) == 1
    assert asked_for( half | {"busy_share": 0.96}) == 5
    assert asked_for( {"role": 4, "up": 4, "kv_share": 1.0, "busy_share": 0.1}) == 1
    assert asked_for( {"role": 3, "up": 0, "arrivals": 1}) == 1 and asked_for( {"role": 3, "up": 0}) == 0


def test_tracking_shrinks_to_the_most_of_its_window() -> None:
    """Wanted 3, 2, 1, 1: with a window of 100 s the answers of 60 and of 120 s ago hold it up, of its 4 instances."""
    memory, totals = [0.0] * 1024, (96, 64, 20, 20, 20)
    answers = [wanted("target_tracking", {"up": 4, "running": total, "since_s": 60.0 * k, "index": 1}, memory,
                      window_s=100.0) for k, total in enumerate(totals)]  # fmt: skip
    assert answers == [3, 3, 2, 1, 1] and memory[:256] == [0.0] * 256


def test_the_planner_sizes_prefill_and_decode() -> None:
    """Ten a second of 800 and 400 tokens: 8 instances of prefill at 1,000 a second, at .8 busy 10.

    Decode: context 1,000, so 1.1 ms a request; 20 ms + 64 * 1.1 ms is 90.4 ms, in time: 4,000 tokens a second take
    4,000 * .0904 / 64 = 5.65 instances, at .8 busy 7.06. A mixed pool takes both, 17.06. At most 50 ms fit 27.
    """
    load = {"arrivals": 600, "arrived_tokens": 480_000, "finished": 600, "mean_output_tokens": 400.0, "most": 99}
    assert wanted("sla_planner", load | {"role": 0}) == 10
    assert wanted("sla_planner", load | {"role": 2}) == 8
    assert wanted("sla_planner", load) == 18
    assert wanted("sla_planner", load | {"role": 2, "itl_target_s": 0.05}, most_busy=1.0) == 8  # 4000 * .0497 / 27: 7.4
    half = {"first_tokens": 9, "ttft_s": 0.05}  # .1 s expected of a prompt alone: half was found cached
    assert wanted("sla_planner", load | {"role": 0} | half, most_correction=4.0) == 5
    assert wanted("sla_planner", load | {"role": 0} | half, most_correction=1.25) == 8
    late = {"itl_s": 0.0422, "running": 2}  # one each: 21.1 ms expected, twice that observed, so 50 ms to plan for
    assert wanted("sla_planner", load | {"role": 2} | late, most_correction=2.0, most_busy=1.0) == 8


def test_forecasts_of_the_planner() -> None:
    """Rates 2, 4, 6 a second: the last, the mean, and the line three intervals on (a start takes two): 12."""
    for forecast, expected in ((0, 6), (1, 4), (2, 12)):
        memory: list[float] = [0.0] * 1024
        for rate in (2, 4, 6):
            load = {"role": 0, "arrivals": 60 * rate, "arrived_tokens": 60_000 * rate}
            found = wanted("sla_planner", load, memory, forecast=forecast, most_busy=1.0)
        assert found == expected


def test_a_schedule_begins_a_start_early_and_goes_over_midnight() -> None:
    hours = [wanted("schedule", {"since_s": 3600.0 * hour}, from_h=22.0, until_h=6.0, begin_h=12.0, night=0.25)
             for hour in (0, 9.9, 9.97, 10, 17.9, 18, 24 + 10)]  # fmt: skip
    assert hours == [4, 4, 16, 16, 16, 4, 16]


def test_predictive_has_what_yesterday_needed_when_a_start_is_over() -> None:
    """A day of 96 minutes: 2 a second, but 6 in its 11th minute; the day after two more are there in the 9th."""
    memory, asked_for = [0.0] * 1024, []
    for minute in range(1, 190):
        rate = 6 if minute % 96 == 10 else 2
        load = {"role": 0, "arrivals": 60 * rate, "arrived_tokens": 60_000 * rate, "since_s": 60.0 * minute, "up": 2}
        asked_for.append(wanted("predictive", load, memory, season_s=5760.0, smooth_s=0.0, most_busy=1.0, band=0.0))
    assert [minute for minute, count in enumerate(asked_for, 1) if count > 2] == [10, 96 + 7, 96 + 8, 96 + 9, 96 + 10]
    assert max(asked_for) == 6
    assert wanted("predictive", {"role": 0, "arrivals": 57, "arrived_tokens": 57_000}, most_busy=1.0) == 2  # .95 + band
    assert wanted("predictive", {"role": 0, "arrivals": 36, "arrived_tokens": 36_000}, most_busy=1.0) == 1  # .6 + .3


def test_roles_switch_only_if_the_load_stays() -> None:
    """Prefill needs 6, decode 1.38, so 6.5 of 8: from 4 and 4 one goes over after each second question, until 6."""
    load = {"arrivals": 600, "arrived_tokens": 360_000, "finished": 600, "mean_output_tokens": 100.0, "up": 4}
    pools = [load | {"role": 0}, load | {"role": 2, "index": 1}]
    memory = [0.0] * 1024
    splits = [tuple(wanted("role_switch", pool, memory, pools, patience=2, smooth_s=0.0) for pool in pools)
              for _ in range(6)]  # fmt: skip
    assert splits == [(4, 4), (5, 3), (5, 3), (6, 2), (6, 2), (6, 2)]
    assert wanted("role_switch", load | {"role": 1}) == 4

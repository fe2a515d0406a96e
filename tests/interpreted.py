"""What runs line by line: the engine against its twin, in slices and steps, with pinned digests and wrong policies.

Not collected by itself: `tests/test_interpreted.py` runs this file with NUMBA_DISABLE_JIT=1 under branch coverage.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from replay.cluster import Cluster
from replay.engine import schema
from replay.engine.evicting import evict
from replay.errors import KvreplayError
from replay.life import Failures, Life, Pool
from replay.policy import NEVER, policy, registry
from replay.session import LIFE_SLOTS, TIERED_SLOTS, Session, replay
from tests import test_golden as golden
from tests.conversations import case_of as outputs_case
from tests.drafted import case_of as drafted_case
from tests.hierarchy_cases import CASES, Case, kv
from tests.lives import case_of as lively_case
from tests.lives import tiered_case_of as tiered_lively_case
from tests.odd_life import registered as registered_for_life
from tests.odd_policies import registered
from tests.scenarios import Scenario, scenario
from tests.sessions import engine_run, finished, session_of
from tests.small import small_cluster, small_instance, small_policies, small_profile, small_trace
from tests.staged import case_of as staged_case
from tests.test_failures import campaign
from tests.test_twin import differences
from tests.test_twin_fabric import case_of as fabric_case
from tests.test_twin_fabric import differences as fabric_differences
from tests.test_twin_fabric import traces_of as fabric_traces_of
from tests.test_twin_hierarchy import case_of as tiered_case
from tests.test_twin_hierarchy import differences as tiered_differences
from tests.test_twin_hierarchy import test_cases_by_hand as check_by_hand
from tests.test_twin_hierarchy import traces_of
from tests.test_twin_lives import differences as lively_differences
from tests.test_twin_ranks import case_of as ranked_case
from tests.test_twin_speculation import differences as drafted_differences
from tests.test_twin_speculation import traces_of as drafted_traces_of
from tests.test_twin_stages import differences as staged_differences
from traces.jit import INTERPRETED

SEEDS, SLICED_SEEDS, MOST_REQUESTS = 40, 5, 24
TIERED_SEEDS, TIERED_REQUESTS = 40, 17
FABRIC_SEEDS, FABRIC_REQUESTS = 20, 12
STAGED_SEEDS, STAGED_REQUESTS = 10, 16
OUTPUT_SEEDS, OUTPUT_REQUESTS = 10, 14
LIVELY_SEEDS, LIVELY_REQUESTS = 40, 10
DRAFTED_SEEDS, DRAFTED_REQUESTS = 10, 10
RANKED_SEEDS, RANKED_REQUESTS = 12, 16
GOLDEN = ("locality", "central_queue", "urgent_tiers", "split_layerwise_locality", "closed_loop", *golden.HIERARCHIES)


def test_this_is_interpreted() -> None:
    assert INTERPRETED


@pytest.fixture
def odd() -> Iterator[None]:
    """Offer the odd policies to the scenarios."""
    with registered():
        yield


def case_of(seed: int) -> Scenario:
    """Return a small scenario."""
    return scenario(Random(seed), MOST_REQUESTS)


def test_twin(odd: None) -> None:
    for seed in range(SEEDS):
        assert not differences(case_of(seed)), seed


def test_slices_and_steps(odd: None) -> None:
    for seed in range(SLICED_SEEDS):
        case = case_of(seed)
        whole = engine_run(case, events=True)
        assert whole.events is not None and whole.events.num_rows > 0
        assert engine_run(case, 1).digest == engine_run(case, leap=False).digest == whole.digest, seed


def test_hierarchies(odd: None) -> None:
    for seed in range(TIERED_SEEDS):
        assert not tiered_differences(tiered_case(seed, TIERED_REQUESTS)), seed


def test_hierarchies_in_slices_and_steps(odd: None) -> None:
    for seed in range(TIERED_SEEDS, TIERED_SEEDS + SLICED_SEEDS):
        case = tiered_case(seed, TIERED_REQUESTS)
        whole = traces_of(finished(session_of(case, events=True)))
        assert traces_of(finished(session_of(case), 1)) == traces_of(finished(session_of(case, leap=False))) == whole


def test_fabrics(odd: None) -> None:
    for seed in range(FABRIC_SEEDS):
        assert not fabric_differences(fabric_case(seed, FABRIC_REQUESTS)), seed


def test_fabrics_in_slices_and_steps(odd: None) -> None:
    for seed in range(FABRIC_SEEDS, FABRIC_SEEDS + SLICED_SEEDS):
        case = fabric_case(seed, FABRIC_REQUESTS)
        case.cluster.__dict__["fabric"] = replace(case.cluster.fabric, samples=4)
        whole = fabric_traces_of(finished(session_of(case, events=True)))
        assert fabric_traces_of(finished(session_of(case), 1)) == whole, seed


def test_stages(odd: None) -> None:
    for seed in range(STAGED_SEEDS):
        assert not staged_differences(staged_case(seed, STAGED_REQUESTS)), seed


def test_outputs(odd: None) -> None:
    for seed in range(OUTPUT_SEEDS):
        assert not differences(outputs_case(seed, OUTPUT_REQUESTS)), seed


def test_lives() -> None:
    with registered_for_life():
        for seed in range(LIVELY_SEEDS):
            assert not lively_differences(lively_case(seed, LIVELY_REQUESTS)), seed
        for seed in range(LIVELY_SEEDS // 2):
            assert not lively_differences(tiered_lively_case(seed, LIVELY_REQUESTS)), seed


def test_speculation(odd: None) -> None:
    for seed in range(DRAFTED_SEEDS):
        assert not drafted_differences(drafted_case(seed, DRAFTED_REQUESTS)), seed


def test_speculation_in_slices_and_steps(odd: None) -> None:
    for seed in range(DRAFTED_SEEDS, DRAFTED_SEEDS + SLICED_SEEDS // 2):
        case = drafted_case(seed, DRAFTED_REQUESTS)
        whole = drafted_traces_of(finished(session_of(case, events=True)))
        assert drafted_traces_of(finished(session_of(case, leap=False), 1)) == whole, seed


def test_ranks(odd: None) -> None:
    for seed in range(RANKED_SEEDS):
        assert not differences(ranked_case(seed, RANKED_REQUESTS)), seed


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hierarchies_by_hand(odd: None, case: Case) -> None:
    check_by_hand(case)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name: str) -> None:
    assert golden.described(golden.run(name)) == json.loads(golden.PINNED.read_text())[name]


def test_the_oracle_finds_more_than_lru() -> None:
    """Belady's policy needs the next use of every node as requests are admitted, queue and are refused."""
    shape, cluster, _ = golden.RUNS["overload_preempts"]
    hits = {}
    for name in ("oracle_belady", "lru"):
        policies = small_policies(evict=name, admit=("queue_limit", {"limit": 40}))
        hits[name] = int(replay(golden.trace(**shape), cluster, policies, slo=golden.SLO).requests["hit_tokens"].sum())
    assert hits["oracle_belady"] > hits["lru"] > 0


def test_evicting_what_is_not_there_stops_the_replay() -> None:
    """A bug of the engine that asks for more than is cached must not look for it for ever."""
    session = Session(golden.trace(**golden.RUNS["locality"][0]), golden.RUNS["locality"][1], small_policies())
    evict(session.state, 0, 3)
    assert (session.state.cluster.fault[0], session.state.cluster.fault_value[0]) == (schema.BROKEN_LAW, 3)


# slot, answer, fault
FAULTS = [
    ("route", lambda request, instances, now_ps: len(instances), schema.BAD_ROUTE),
    ("route", lambda request, instances, now_ps: -2, schema.BAD_ROUTE),
    ("route", lambda request, instances, now_ps: (0, len(instances)), schema.BAD_SOURCE),
    ("route", lambda request, instances, now_ps: (0, -2), schema.BAD_SOURCE),
    ("decode", lambda request, instances, now_ps: -2, schema.BAD_DECODE),
    ("decode", lambda request, instances, now_ps: len(instances), schema.BAD_DECODE),
    ("order", lambda request, now_ps: (float("nan"), NEVER), schema.BAD_ORDER),
    ("order", lambda request, now_ps: (0.0, float("nan")), schema.BAD_ORDER),
    ("batch", lambda instance, now_ps: (-1, True, False), schema.BAD_BATCH),
    ("evict", lambda node, now_ps: float("nan"), schema.BAD_EVICT),
    ("fetch", lambda request, instance, offer, now_ps: (2, float("nan")), schema.BAD_FETCH),
    ("fetch", lambda request, instance, offer, now_ps: (2, -1.0), schema.BAD_FETCH),
    # another type is refused before it reaches the kernel
    ("admit", lambda request, instances, now_ps: None, None),
    ("route", lambda request, instances, now_ps: 0.5, None),
    ("route", lambda request, instances, now_ps: (0, 1, 2), None),
    ("decode", lambda request, instances, now_ps: (0, 0), None),
    ("order", lambda request, now_ps: "first", None),
    ("batch", lambda instance, now_ps: 5, None),
    ("evict", lambda node, now_ps: (1.0, 2.0), None),
    ("fetch", lambda request, instance, offer, now_ps: 2, None),
    ("fetch", lambda request, instance, offer, now_ps: (0.5, 0.0), None),
    ("write", lambda node, evicting, now_ps: 0.5, None),
    ("migrate", lambda instances, now_ps: (0, len(instances)), schema.BAD_MIGRATE),
    ("migrate", lambda instances, now_ps: (-2, 0), schema.BAD_MIGRATE),
    ("migrate", lambda instances, now_ps: 1, None),
    ("recover", lambda request, losses, now_ps: 4, schema.BAD_RECOVER),
    ("recover", lambda request, losses, now_ps: 0.5, None),
    ("scale", lambda pool, pools, now_ps: 0.5, None),
]
# the same where instance 1 of a prefill, a mixed and a decode one is not offered
OFFERED_FAULTS = [
    ("route", lambda request, instances, now_ps: 1, schema.BAD_ROUTE),
    ("route", lambda request, instances, now_ps: (0, 1), schema.BAD_SOURCE),
    ("decode", lambda request, instances, now_ps: 1, schema.BAD_DECODE),
]


@pytest.mark.parametrize(("slot", "function", "fault"), FAULTS)
def test_faults(slot: str, function: Callable[..., Any], fault: int | None, monkeypatch: pytest.MonkeyPatch,
                cluster: Cluster | None = None) -> None:  # fmt: skip
    """A wrong answer stops the replay with its fault and a sentence that names policy and slot."""
    found: list[int] = []
    monkeypatch.setattr("replay.session.Session._fault", noting(found))
    function.__name__ = "wrong"
    policy(slot)(function)
    try:
        with pytest.raises(KvreplayError, match=slot):
            where = replace(SPLIT, migrate_ps=1000) if slot == "migrate" else TIERED if slot in TIERED_SLOTS else SPLIT
            where = cluster or (replace(SPLIT, life=LIVELY) if slot in LIFE_SLOTS else where)
            replay(TRACE, where, small_policies(**{slot: "wrong"}))
    finally:
        registry()[slot].pop("wrong")
    assert found == ([] if fault is None else [fault])


@pytest.mark.parametrize(("slot", "function", "fault"), OFFERED_FAULTS)
def test_faults_about_what_is_offered(slot: str, function: Callable[..., Any], fault: int,
                                      monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    test_faults(slot, function, fault, monkeypatch, replace(SPLIT, life=LIVELY))


def test_a_campaign_of_failures() -> None:
    with registered_for_life():
        campaign([1], 1)


def noting(found: list[int]) -> Callable[[Any], Exception]:
    """Return Session._fault with a note of the kernel's code."""
    sentence = Session._fault

    def fault(session: Any) -> Exception:
        found.append(int(session.state.cluster["fault"][0]))
        return sentence(session)

    return fault


@pytest.mark.parametrize("limits", [{"iteration_ps": 1 << 61}, {"decode_request_ps": 1 << 61}])
def test_time_beyond_the_range_is_a_sentence(limits: dict[str, int]) -> None:
    profile = small_profile(**{"iteration_ps": 1, **limits})
    with pytest.raises(KvreplayError, match="days|int64"):
        replay(TRACE, small_cluster([small_instance("mixed", profile)]), small_policies())


TRACE = small_trace([(row * 50, 8, 3) for row in range(12)], [[row % 3, 10 + row % 3] for row in range(12)])
PROFILE = small_profile(iteration_ps=100, prefill_token_ps=10)
SUSPECT = Failures(({"at_s": 1e-12, "for_s": 1.0, "kind": "suspect", "what": 1},
                    {"at_s": 200e-12, "for_s": 1e-9, "kind": "instance", "what": 0}), {}, {}, None, 0.0)  # fmt: skip
POOLS = tuple(Pool(role, 1, 1, 1) for role in ("prefill", "mixed", "decode"))
LIVELY = Life(POOLS, 1000, 0, 0, SUSPECT, 0, 0, 1)
SPLIT = small_cluster([small_instance(role, PROFILE, kv_blocks=6) for role in ("prefill", "mixed", "decode")])
TIERED = replace(SPLIT, kv=kv())

"""Shared DRAM nodes and storage servers that a scale policy switches on and off: cases worked out by hand."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from replay.cost import usd_per_hour
from replay.kv import DISK, Kv, Store
from replay.life import Failures, Life, Pool, node_paid_s
from replay.policy import DRAM_NODES, MIXED, STORAGE_SERVERS, Span, describe, registry
from replay.prices import Prices
from replay.session import Session
from tests.hierarchy_cases import PROFILE, SHARED, kv
from tests.small import small_cluster, small_instance, small_policies, small_trace

PS = 1e-12
DRAM_PAIR = kv((SHARED, replace(SHARED, node=1)))
STORE = kv((Store(DISK, -1, -1, 100, -1, 0, 10_000, 0),), disk_servers=4)
COUNT = Span(0, 9)
# prompts of two blocks of 4 tokens for node 0, of three for node 1, by the ring; even rows run on instance 0
ROWS = [(0, 9, 1), (300, 13, 1), (600, 1, 1), (5000, 9, 1)]
CHAINS = [[1, 2], [3, 4, 5], [], [1, 2]]


def told(pool: Any, pools: Any, now_ps: Any, first: COUNT = 1, second: COUNT = 1, third: COUNT = 1) -> Any:
    """Have so many nodes from 1,000, 2,000 and 3,000 ps on; instances stay.

    source : of these tests
    """
    if pool.role <= MIXED:
        return pool.most
    return first if pool.since_s < 1.5e-9 else second if pool.since_s < 2.5e-9 else third


def made(hierarchy: Kv, answers: tuple[int, ...], rows: Any = ROWS, chains: Any = CHAINS, least: int = 1,
         failures: Any = (), **times: int) -> Session:  # fmt: skip
    """Open a session of two mixed instances, with questions every 1,000 ps and starts of 500 ps."""
    instances = [small_instance("mixed", PROFILE, token_budget=64, kv_blocks=64) for _ in range(2)]
    pools = [Pool("mixed", 2, 2, 2)] + [Pool(role, least, most, most) for role, most in hierarchy.nodes.items() if most]
    nothing = Failures(tuple(failures), {}, {}, None, 0.0)
    life = Life(tuple(pools), 1000, 0, 0, nothing, 0, 0, 1, **{"node_start_ps": 500, "drain_ps": 400, **times})
    policy = registry()["scale"]["told"]
    values = dict(zip(policy.tunables, (*answers, answers[-1], answers[-1])[:3], strict=True))
    chosen = small_policies(scale=("told", values), route="round_robin", fetch="wait", write="through")
    return Session(small_trace(rows, chains), replace(small_cluster(instances), kv=hierarchy, life=life), chosen)


def replayed(*given: Any, **named: Any) -> Session:
    """Replay what `made` makes to its end."""
    session = made(*given, **named)
    while not session.advance(10_000):
        pass
    return session


@pytest.fixture(autouse=True)
def offered() -> Iterator[None]:
    """Offer the policy of these tests."""
    registry()["scale"]["told"] = describe("scale", told)
    yield
    registry()["scale"].pop("told")


def changes(session: Session) -> list[tuple[int, int, str]]:
    """Return the changes of nodes as (time [ps], node, state)."""
    rows = session.result().tables["node_changes"].iter_rows()
    return [(round(at_s / PS), node, state) for at_s, node, state in rows]


def test_a_node_that_goes_moves_what_it_holds_and_comes_back_empty() -> None:
    """At 1,000 ps node 0, which holds less, sends its two blocks at 50 ps each: off at 1,100. Back: 3,000 + 500 ps.

    A request at 2,500 ps finds them on node 1: 100 ps to read and 20 of latency. Paid are 1,100 ps and all from 3,000
    on. A request at 5,000 ps finds nothing: the key is at home on node 0 again, which is empty.
    """
    session = replayed(DRAM_PAIR, (1, 1, 2), [*ROWS[:3], (2500, 9, 1), (5000, 1, 1)], [*CHAINS[:4], []])
    assert changes(session) == [(1000, 0, "draining"), (1100, 0, "off"), (3000, 0, "starting"), (3500, 0, "up")]
    found = session.result()
    last = found.requests.row(3, named=True)
    assert (last["hit_tokens_dram"], round(last["load_s"] / PS)) == (8, 120)
    assert replayed(DRAM_PAIR, (1, 1, 2)).result().requests["hit_tokens"].to_list() == [0, 0, 0, 0]
    assert (found.summary["memory_tokens_moved"], found.summary["memory_tokens_shrunk"]) == (8, 8)
    now_ps = int(session.state.cluster["now_ps"][0])
    assert [round(paid / PS) for paid in node_paid_s(session)["memory"]] == [now_ps - 1900, now_ps]
    assert found.summary["memory_node_hours"] == pytest.approx((2 * now_ps - 1900) * PS / 3600)


def test_a_drain_ends_with_its_time() -> None:
    """Only 60 ps to move 100 ps of blocks: off at 1,060, and the last request finds nothing."""
    session = replayed(DRAM_PAIR, (1,), drain_ps=60)
    assert changes(session) == [(1000, 0, "draining"), (1060, 0, "off")]
    assert session.result().requests["hit_tokens"].to_list() == [0, 0, 0, 0]


def test_none_may_be_left_and_starts_are_given_up() -> None:
    """Both go at once, the emptier first; with nowhere to move to they are off at once. At 2,000 ps one starts, and at
    3,000, when it would be up 500 ps later yet, it is not wanted any more."""
    session = replayed(DRAM_PAIR, (0, 1, 0), least=0, node_start_ps=1500)
    assert changes(session) == [(1000, 0, "draining"), (1000, 1, "draining"), (1000, 0, "off"), (1000, 1, "off"),
                                (2000, 0, "starting"), (3000, 0, "off")]  # fmt: skip
    assert session.result().requests["hit_tokens"].to_list() == [0, 0, 0, 0]


def test_a_node_that_fails_is_back_when_repaired_and_one_that_is_off_cannot_start_before() -> None:
    """Node 0 fails at 500 ps for 900 and at 1,200 for 1,000: up at 2,200. Node 1, off since 1,000 ps, fails at 1,500
    for 2,000: wanted at 2,000 and 3,000 ps, it starts at 4,000, at the first question after 3,500."""
    plan = [{"at_s": at * PS, "for_s": length * PS, "what": what, "kind": "store"}
            for at, length, what in ((500, 900, 0), (1200, 1000, 0), (1500, 2000, 1))]  # fmt: skip
    session = replayed(DRAM_PAIR, (0, 2, 2), least=0, failures=plan)
    assert changes(session) == [(500, 0, "down"), (1000, 1, "draining"), (1000, 1, "off"), (2200, 0, "up"),
                                (4000, 1, "starting"), (4500, 1, "up")]  # fmt: skip


def test_servers_carry_the_store_in_equal_parts() -> None:
    """Two blocks take 30 + 2 * 60 + 7 ps of four servers; of one 4 * 30 + 2 * 240 + 7. What the store holds stays."""
    rows = [(0, 9, 1), (400, 9, 1), (1500, 9, 1), (4000, 9, 1)]
    session = replayed(STORE, (1,), rows, [[1, 2], [1, 2], [3, 4], [3, 4]])
    assert changes(session) == [(1000, 3, "off"), (1000, 2, "off"), (1000, 1, "off")]
    found = session.result().requests
    assert [round(load_s / PS) for load_s in found["load_s"]] == [0, 157, 0, 607]
    assert found["hit_tokens_disk"].to_list() == [0, 8, 0, 8]


def test_what_is_told_of_pools_of_nodes() -> None:
    """At 1,000 ps nodes hold 2 and 3 of 100 blocks, unused since they came: 230 and 580 ps; cards took 10 ps a block.

    The store: one flush of 30 + 2 * 10 ps and a read of 30 + 2 * 60 in 1,000 ps.
    """
    session = made(DRAM_PAIR, (2,))
    while not session.state.lives.asked["asked_ps"][1]:
        session.advance(1)
    row = session.state.lives.pools[1]
    assert (int(row["role"]), int(row["up"]), int(row["kv_tokens"]), int(row["read_tokens"])) == (DRAM_NODES, 2, 400, 0)
    assert float(row["kv_share"]) == 5 / 200 and float(row["busy_share"]) == (20 + 30) / 2000
    assert float(row["tail_age_s"]) == pytest.approx((2 * 770 + 3 * 420) / 5 * PS)
    session = made(STORE, (4,), [(0, 9, 1), (400, 9, 1), (4000, 1, 1)], [[1, 2], [1, 2], []])
    while not session.state.lives.asked["asked_ps"][1]:
        session.advance(1)
    row = session.state.lives.pools[1]
    assert (int(row["role"]), int(row["up"]), int(row["read_tokens"])) == (STORAGE_SERVERS, 4, 8)
    assert float(row["kv_share"]) == 2 / 100 and float(row["busy_share"]) == (50 + 150) / 1000


def test_only_nodes_that_are_on_are_paid_for() -> None:
    """Half a node's DRAM and cores, a quarter of the servers' cores; the store as large as it is."""
    prices = Prices(cpu_usd_per_core_hour=1.0, cores_per_dram_node=4.0, cores_per_storage_server=2.0,
                    dram_usd_per_gib_hour=3.0, store_usd_per_tib_hour=5.0)  # fmt: skip
    cluster = small_cluster([small_instance("mixed", PROFILE)])
    session = replayed(DRAM_PAIR, (1,))
    shares = {role: paid / paid.max() * 0.5 for role, paid in node_paid_s(session).items()}
    gib = 100 * DRAM_PAIR.block_bytes / 2**30
    rates = usd_per_hour(replace(cluster, kv=DRAM_PAIR), prices, nodes_on=shares)
    assert rates["dram"] == pytest.approx(3.0 * gib * shares["memory"].sum())
    assert rates["cpu"] == pytest.approx(4.0 * shares["memory"].sum())
    rates = usd_per_hour(replace(cluster, kv=STORE), prices)
    assert rates["cpu"] == 8.0 and rates["ssd"] == pytest.approx(5.0 * 100 * STORE.block_bytes / 2**40)

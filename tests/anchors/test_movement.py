"""Loads, cards, the index and disks against what theory says of hiding, queues, hashing and log-structured merges."""

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from replay.kv import DRAM, Store
from replay.session import Session
from tests.anchors import formulas
from tests.anchors.holders import BLOCK_BYTES, BLOCK_TOKENS, MANY, POOL, finished, gib, quick, singles
from tests.anchors.stations import PS, Run, agrees, compiled, poisson
from tests.anchors.test_evictions import spaced
from tests.hierarchy_cases import kv
from tests.small import small_cluster, small_instance, small_policies, small_profile, small_trace
from traces.schema import build

pytestmark = compiled
# a prefill token takes 10 ps, an iteration 100 ps more; a prefix of 200 blocks of 4 tokens
TOKEN_PS, ITERATION_PS, PREFIX_BLOCKS, REST = 10, 100, 200, 401
PREFIX_PS = 4 * PREFIX_BLOCKS * TOKEN_PS
COST_PS = ITERATION_PS + REST * TOKEN_PS
LONG_PS = 100_000
LONG_TOKENS = 5_000
FREE_PS = LONG_PS + ITERATION_PS + LONG_TOKENS * TOKEN_PS  # until when instance 1 is busy
QUEUE_PS = 20_000
RATIOS = (0.1, 0.2, 0.5, 0.9, 1.0, 1.1, 2.0, 5.0, 10.0)
SERVICE_S, SERVICE_PS, LOADS = 1e-3, 10**9, 60_000


def late(load_ps: int, queue_ps: int, fetch: str, layers: int = 1, **changes: Any) -> tuple[int, int, int]:
    """Replay a request that needs a load of `load_ps` and finds its instance busy for `queue_ps`.

    Row 0 brings its prefix to the pool from instance 0; row 1 keeps instance 1 busy; row 3 comes to instance 1.

    queue_ps : below 0 for an instance that has been idle for so long
    returns  : arrival to admission, duration of its iteration, and the exposed time as the engine counts it [ps]
    """
    profile = small_profile(iteration_ps=ITERATION_PS, prefill_token_ps=TOKEN_PS, decode_request_ps=1)
    two = [small_instance("mixed", profile, token_budget=8192, kv_blocks=8192, max_batch=8) for _ in range(2)]
    pool = Store(DRAM, 0, -1, 1000, -1, 1000 * load_ps // PREFIX_BLOCKS, 1, 0)
    on = replace(small_cluster(two), kv=kv((pool,), **changes), layers=layers)
    prefix = list(range(1, PREFIX_BLOCKS + 1))
    arrival_ps = FREE_PS - queue_ps
    rows = [(0, 4 * PREFIX_BLOCKS + 1, 1), (LONG_PS, LONG_TOKENS, 1), (LONG_PS + 1, 1, 1)]
    rows.append((arrival_ps, 4 * PREFIX_BLOCKS + REST, 1))
    trace = small_trace(rows, [prefix, [], [], prefix])
    session = Session(trace, on, small_policies(route="round_robin", fetch=fetch), slo="none")
    while not session.advance(1_000):
        pass
    job, load = session.state.jobs[3], session.state.hierarchy.loads[3]
    assert job["hit_tokens"] == load["dram_tokens"] == 4 * PREFIX_BLOCKS and load["load_ps"] == load_ps
    admitted_ps = int(job["scheduled_ps"]) - arrival_ps
    return admitted_ps, int(job["first_token_ps"] - job["scheduled_ps"]), int(load["exposed_ps"])


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_queue_hides_a_load(ratio: float) -> None:
    """Prefetched and waited for, a load of L behind a queue of Q delays its request by max(0, L - Q).

    Both run at once, and the request needs both: it is admitted after max(L, Q). What it waits for beyond the queue and
    the batch in progress is what the engine calls exposed, to the picosecond.
    """
    load_ps = round(ratio * QUEUE_PS)
    admitted_ps, iteration_ps, exposed_ps = late(load_ps, QUEUE_PS, "wait")
    assert admitted_ps - QUEUE_PS == max(0, load_ps - QUEUE_PS)
    assert iteration_ps == COST_PS
    assert exposed_ps == max(0, load_ps - QUEUE_PS)


@pytest.mark.parametrize("ratio", RATIOS)
def test_nothing_hides_a_load_on_an_idle_instance(ratio: float) -> None:
    """With no queue all of L is exposed: as a wait if prefetched, as part of the iteration if not."""
    load_ps = round(ratio * QUEUE_PS)
    assert late(load_ps, -QUEUE_PS, "wait") == (load_ps, COST_PS, load_ps)
    assert late(load_ps, -QUEUE_PS, "wait", prefetch=False) == (0, load_ps + COST_PS, load_ps)


@pytest.mark.parametrize("ratio", RATIOS)
def test_without_prefetch_a_queue_hides_nothing(ratio: float) -> None:
    load_ps = round(ratio * QUEUE_PS)
    assert late(load_ps, QUEUE_PS, "wait", prefetch=False) == (QUEUE_PS, load_ps + COST_PS, load_ps)


@pytest.mark.parametrize("layers", [1, 4, 32])
@pytest.mark.parametrize("ratio", RATIOS)
def test_layers_hide_a_load_behind_its_own_prefill(ratio: float, layers: int) -> None:
    """Layer by layer a prefill of cost C may begin at once, and ends a layer after a load of L: max(C, L + C / layers).

    source : CachedAttention (Gao et al., ATC 2024), section 3.2.1, with the layers' integer share
    """
    load_ps = round(ratio * COST_PS / PREFIX_BLOCKS) * PREFIX_BLOCKS
    expected = max(COST_PS, load_ps + COST_PS // layers)
    found = late(load_ps, -QUEUE_PS, "best_effort", layers, prefetch=False, overlap=True)
    assert found == (0, expected, expected - COST_PS)


@pytest.mark.parametrize("layers", [1, 4, 32])
@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.0, 1.1, 2.0, 3.0, 4.0])
def test_a_queue_and_layers_hide_a_load(ratio: float, layers: int) -> None:
    """A queue of Q leaves a stall of max(0, L - Q) for layers to hide; worth it up to L = the prefix's prefill."""
    queue_ps = PREFIX_PS // 4
    load_ps = round(ratio * queue_ps)
    stall_ps = max(0, load_ps - queue_ps)
    expected = max(COST_PS, stall_ps + COST_PS // layers) if stall_ps else COST_PS
    found = late(load_ps, queue_ps, "best_effort", layers, overlap=True)
    assert found == (queue_ps, expected, expected - COST_PS)


@cache
def pooled(load: float) -> Run:
    """Write LOADS prompts to a pool node from instance 0, then load each once, to instance 1, at Poisson times.

    load : of the node's card
    """
    ready_s = np.arange(LOADS) * 1.01 * SERVICE_S
    again_s = ready_s[-1] + 1.0 + poisson(401, LOADS, load / SERVICE_S)
    fills, owns = np.ones(LOADS, np.int64), np.full(LOADS, BLOCK_TOKENS + 1)
    prompts = np.concatenate([np.column_stack([owns, fills]).ravel(), np.column_stack([fills, owns]).ravel()])
    columns = {"arrival_s": np.repeat(np.concatenate([ready_s, again_s]), 2), "prompt_tokens": prompts}
    offsets = np.append(0, np.cumsum(prompts > 1))
    columns |= {"output_tokens": np.ones_like(prompts), "prefix_blocks": (offsets, np.tile(np.arange(LOADS), 2))}
    pool = {**POOL, "dram_bytes_per_s": BLOCK_BYTES / SERVICE_S}
    run = finished(build("pooled", columns, BLOCK_TOKENS), quick(pool, 2), {"route": "round_robin", "fetch": "wait"})
    assert int(run.state.hierarchy.stores["reads"][0]) == LOADS
    return run


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_a_pool_card_is_a_server(load: float) -> None:
    """Poisson loads of a block each over one card: M/D/1, they wait load S / (2 (1 - load)) (Pollaczek-Khinchine)."""
    run = pooled(load)
    wait_s = run.state.hierarchy.loads["load_ps"][2 * LOADS + 1 :: 2] / PS - SERVICE_S
    arrival_s = run.requests["arrival_ps"][2 * LOADS + 1 :: 2] / PS
    rate = (LOADS - 1) / float(arrival_s[-1] - arrival_s[0])
    agrees(wait_s, formulas.md1(rate, SERVICE_S) - SERVICE_S)
    assert int(run.state.hierarchy.stores["read_busy_ps"][0]) == LOADS * SERVICE_PS


KEYS, LOOKUPS = 1_000, 160_000


@cache
def indexed(shards: int, rate: float) -> Run:
    """Look up Poisson requests for one of KEYS prompts, by lot, in an index whose shards have equally many keys."""
    ids = np.random.default_rng(409).integers(KEYS, size=LOOKUPS)
    index = {"shards": shards, "lookup_s": 0.9 * SERVICE_S, "node_s": 0.1 * SERVICE_S, "gc_node_s": 0.0}
    index |= {"match": "prefix", "belief": "exact", "lag_s": 0.0}
    on = quick({"base": "none", "index": index, "bound": 1.0})
    return finished(singles(poisson(409, LOOKUPS, rate), ids), on)


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_a_shard_is_a_server(shards: int) -> None:
    """Keys by lot thin a Poisson process to Poisson processes: each of c shards is M/D/1 at a c-th of the rate."""
    run = indexed(shards, 0.6 * shards / SERVICE_S)
    hierarchy = run.state.hierarchy
    owners = hierarchy.owners[:shards]
    assert (owners["held"] == KEYS // shards).all()
    shard = hierarchy.keys["shard"][hierarchy.keys["key"][run.jobs["leaf"]]]
    wait_s = hierarchy.loads["lookup_ps"] / PS - SERVICE_S
    for s in range(shards):
        own = shard == s
        rate = int(own.sum()) / (float(run.requests["arrival_ps"][-1]) / PS)
        agrees(wait_s[own], formulas.md1(rate, SERVICE_S) - SERVICE_S)
        assert int(owners["wait_ps"][s]) == int((hierarchy.loads["lookup_ps"][own] - SERVICE_PS).sum())


def test_two_shards_halve_the_load() -> None:
    """The same lookups take the same work; of two shards each does half, within four standard errors of a fair coin."""
    rate = 0.7 / SERVICE_S
    one, two = (indexed(shards, rate).state.hierarchy.owners[:shards] for shards in (1, 2))
    assert int(one["busy_ps"].sum()) == int(two["busy_ps"].sum()) == LOOKUPS * SERVICE_PS
    assert abs(int(two["lookups"][0]) - LOOKUPS / 2) <= 4 * math.sqrt(LOOKUPS) / 2
    waits = [formulas.md1(load / SERVICE_S, SERVICE_S) - SERVICE_S for load in (0.7, 0.35)]
    measured = [int(owners["wait_ps"].sum()) / PS / LOOKUPS for owners in (one, two)]
    assert measured[1] / measured[0] == pytest.approx(waits[1] / waits[0], rel=0.1)


NODES, SHARDS = 8, 5


def placed(rounds: int, nodes: int = NODES, **changes: Any) -> Session:
    """Open a session that writes each of 2,000 prompts to its pool node, in so many rounds of one second each."""
    index = {"shards": SHARDS, "lookup_s": 1e-9, "node_s": 0.0, "gc_node_s": 0.0}
    index |= {"match": "prefix", "belief": "exact", "lag_s": 0.0}
    pool = {**POOL, "dram_nodes": nodes, "index": index, "virtual_nodes": 4, **changes}
    ids = np.tile(np.arange(2_000), rounds)
    trace = singles((0.5 + np.arange(len(ids))) / 2_000, ids)
    return Session(trace, quick(pool), {"fetch": "never"}, slo="none")


def homes_of(session: Session) -> np.ndarray:
    """Return the pool node of every key, -1 for none yet."""
    return np.array(session.state.hierarchy.keys["home"])


@pytest.mark.parametrize("bound", [1.0, 1.25, 2.0])
def test_no_owner_holds_more_than_its_bound(bound: float) -> None:
    """At every moment at most ceil(bound x keys / owners) (Mirrokni, Thorup and Zadimoghaddam, SODA 2018)."""
    session = placed(1, bound=bound)
    moments, most = 0, 0
    while not session.advance(20):
        for first, count in ((0, SHARDS), (SHARDS, NODES)):
            held = session.state.hierarchy.owners["held"][first : first + count]
            assert held.max() <= math.ceil(bound * int(held.sum()) / count)
        moments, most = moments + 1, int(held.max())
    assert moments > 100 and (np.bincount(homes_of(session)) == held).all()
    free = placed(1, bound=1000.0)
    while not free.advance(100_000):
        pass
    assert free.state.hierarchy.owners["held"][SHARDS:].max() > most, "the bound never mattered"


def test_an_owner_that_leaves_moves_only_its_own_keys() -> None:
    """Every other key stays; the keys of the node that left go elsewhere, each when it is used next."""
    gone, changes = 3, [{"at_s": 1.0, "what": "leave", "node": 3}]
    session = placed(2, changes=changes)
    before = np.full(2_000, -1)
    while not session.advance(20):
        if session.now_s < 1.0:
            before = homes_of(session)
    after = homes_of(session)
    moved = before != after
    assert (before >= 0).all() and (moved == (before == gone)).all() and 0 < moved.sum() < 2_000
    assert (after != gone).all()


def test_one_node_fewer_moves_only_its_keys() -> None:
    """Monotone (Karger et al., STOC 1997): a ring without its last node places all other keys as the ring with it."""
    homes = []
    for nodes in (NODES, NODES - 1):
        session = placed(1, nodes, bound=1000.0)
        while not session.advance(100_000):
            pass
        homes.append(homes_of(session))
    of_last = homes[0] == NODES - 1
    assert (homes[0][~of_last] == homes[1][~of_last]).all()
    assert 0 < of_last.sum() < 1_000 and homes[1].max() == NODES - 2


@pytest.mark.parametrize(("memtable", "fanout"), [(64, 4), (64, 2), (1_000, 4), (300, 10)])
def test_tiered_compaction_writes_a_block_once_a_level(memtable: int, fanout: int) -> None:
    """A block in a segment of level l was flushed once and merged l times: l + 1 writes, so never more than the levels.

    source : tiering as in Dayan, Athanassoulis and Idreos, Monkey, SIGMOD 2017; exact while nothing is evicted
    """
    disk = {"base": "disk_cache", "unit_tokens": None, "ttl_s": None, "memtable_mib": gib(memtable) * 1024}
    disk |= {"fanout": fanout, "levels": 16, "writes": 4096}
    hierarchy = finished(spaced(), quick(disk)).state.hierarchy
    run, disk_row = int(hierarchy.disks["runs"][0]), hierarchy.disks[0]
    levels, blocks = [], []
    while run >= 0:
        levels.append(int(hierarchy.runs["level"][run]))
        blocks.append(int(hierarchy.runs["blocks"][run]))
        run = int(hierarchy.runs["next"][run])
    flushed, merged = int(hierarchy.media["flush_blocks"].sum()), int(hierarchy.media["compact_write_blocks"].sum())
    assert int(disk_row["dead_blocks"]) == 0 and sum(blocks) == flushed == int(disk_row["written_blocks"])
    assert sum(blocks) + int(disk_row["memtable_blocks"]) == len(np.unique(spaced().prefix()[1]))
    assert flushed + merged == sum((level + 1) * count for level, count in zip(levels, blocks, strict=True))
    assert 2 < (flushed + merged) / flushed <= max(levels) + 1
    assert all(levels.count(level) < fanout for level in levels)


def test_what_stores_read_is_what_requests_loaded() -> None:
    """Where every load is waited for and lands, the blocks that stores read are hits that requests had from them."""
    pool = {"base": "dram_ssd", "dram_nodes": 2, "dram_gib": gib(2_000), "in_flight": MANY, "writes": 4096}
    run = finished(spaced(), quick(pool, 4), {"route": "round_robin", "fetch": "wait"})
    stores, loads = run.state.hierarchy.stores, run.state.hierarchy.loads
    for tier, name in ((1, "dram_tokens"), (2, "disk_tokens")):
        read = int(stores["read_blocks"][stores["tier"] == tier].sum()) * BLOCK_TOKENS
        assert read == int(loads[name].astype(np.int64).sum()) > 0
    hbm = run.jobs["hit_tokens"] - loads["dram_tokens"] - loads["disk_tokens"]
    assert (hbm >= 0).all() and hbm.sum() > 0
    assert (run.jobs["scheduled_ps"] - run.requests["arrival_ps"] >= loads["load_ps"]).all()

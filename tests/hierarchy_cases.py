"""Small cases of the KV hierarchy with their results worked out by hand, for the twin and for the engine.

Unless a case says otherwise: blocks of 4 tokens; an iteration costs 100 ps, 10 ps a prefill token, 1 ps a decoding
request; one shared DRAM reads a block in 50 ps and writes one in 10 ps, 20 ps of latency to read and 20 ps to write.

Two instances take requests by turns: even rows go to instance 0, odd ones to 1; fillers of one prompt token keep it so.
Row 0 (at 0, prompt 9, blocks 1 and 2) runs on instance 0 until 190 and is then in DRAM at 190 + 2 * 10 + 20 = 230.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from replay.cluster import Cluster
from replay.kv import DISK, DRAM, Change, Index, Kv, Lsm, Medium, Store
from replay.policy import Chosen
from tests import odd_fetch
from tests.odd_fetch import chosen
from tests.small import small_cluster, small_instance, small_policies, small_profile, small_trace
from traces.schema import Trace

PROFILE = small_profile(iteration_ps=100, prefill_token_ps=10, decode_request_ps=1)
SHARED = Store(DRAM, 0, -1, 100, -1, 50_000, 10_000, 20)
NO_INDEX = Index(0, 0, 0, 0, False, "exact", 0)
MEDIUM = Medium("flash", 30, 60_000, 10_000, 7)
LSM = Lsm((MEDIUM,), 1, False, 4, 3, 500)
FIRST = (0, 9, 1)  # row 0
FILLER = (1, 1, 1)
LONG = (1000, 30, 1)  # keeps its instance busy until 1000 + 100 + 300 = 1400
AB: list[int] = [1, 2]


@dataclass(frozen=True)
class Case:
    """A trace, a cluster, policies, and the fields of the result that were worked out."""

    name: str
    trace: Trace
    cluster: Cluster
    policies: dict[str, Chosen]
    expected: dict[str, list]
    stores: dict[str, list]


def kv(stores: Sequence[Store] = (SHARED,), **changed: Any) -> Kv:
    """Make a hierarchy: prefetch without overlap, everything else off or ample."""
    shared = sum(store.tier == DRAM and store.server < 0 for store in stores)
    plain = Kv(
        stores=tuple(stores), shared_nodes=shared, block_bytes=4000, lsm=LSM, index=NO_INDEX, prefetch=True,
        overlap=False, promote=True, lookahead=False, in_flight=8, writes=8, replicate_after=0, key_blocks=1,
        bound=2.0, virtual_nodes=1, ttl_ps=0, refresh=True, gc_ps=0, unit_tokens=0, isolate=False, changes=(),
        samples=0,
    )  # fmt: skip
    return replace(plain, **changed)


def case(
    name: str,
    rows: Sequence[tuple[tuple[int, int, int], list[int]]],
    hierarchy: Kv,
    expected: Mapping[str, list],
    stores: Mapping[str, list] | None = None,
    **more: Any,
) -> Case:
    """Make a case of (arrival, prompt, output) and blocks by row.

    more : instances (2), kv_blocks (64), max_batch (8), layers; fetch, write and evict policies
    """
    instances = [
        small_instance("mixed", PROFILE, token_budget=64, kv_blocks=more.get("kv_blocks", 64),
                       max_batch=more.get("max_batch", 8))
        for _ in range(more.get("instances", 2))
    ]
    cluster = replace(small_cluster(instances), kv=hierarchy, layers=more.get("layers", 1))
    policies = small_policies(route="round_robin") | {
        "fetch": more.get("fetch", chosen("fetch", odd_fetch.everything)),
        "write": more.get("write", chosen("write", odd_fetch.on_publish)),
    }
    policies |= {"evict": more["evict"]} if "evict" in more else {}
    trace = small_trace([row for row, _ in rows], [chain for _, chain in rows])
    return Case(name, trace, cluster, policies, dict(expected), dict(stores or {}))


def behind_a_long_one(name: str, arrival_ps: int, hierarchy: Kv, expected: Mapping[str, list], **more: Any) -> Case:
    """Row 3 wants row 0's blocks on instance 1, which is busy until 1400; `expected` holds its fields only."""
    rows = [(FIRST, AB), (LONG, []), ((1001, 1, 1), []), ((arrival_ps, 9, 1), AB)]
    return case(name, rows, hierarchy, {field: [..., ..., ..., value] for field, value in expected.items()}, **more)


def on_an_idle_one(name: str, hierarchy: Kv, expected: Mapping[str, list], **more: Any) -> Case:
    """Row 1 wants row 0's blocks at 1500 on instance 1, which was idle for ever; `expected` holds its fields only."""
    rows = [(FIRST, AB), ((1500, 9, 1), AB)]
    return case(name, rows, hierarchy, {field: [..., value] for field, value in expected.items()}, **more)


FAITHFUL = chosen("fetch", odd_fetch.faithful)
NOTHING = chosen("fetch", odd_fetch.everything, tier=0)
NEVER = chosen("write", odd_fetch.on_publish, start=1000)

LOADS = [
    behind_a_long_one(
        # Two blocks: 1010 + 100 on the card, + 20 = 1130, long before 1400. Of 9 tokens 8 are a hit: 100 + 10.
        "hidden behind the queue", 1010, kv(),
        {"load_ps": 120, "exposed_ps": 0, "hbm_tokens": 0, "dram_tokens": 8, "hit_tokens": 8, "first_token_ps": 1510},
        stores={"read_blocks": [2], "written_blocks": [2], "resident_blocks": [2]},
    ),
    behind_a_long_one(
        # On the card 1330 to 1430. At 1400: 2 * 70 // 100 = 1 block. 4 hit, 5 tokens to compute: 100 + 50.
        "cut by the admission", 1330, kv(),
        {"load_ps": 120, "exposed_ps": 0, "dram_tokens": 4, "hit_tokens": 4, "first_token_ps": 1550},
    ),
    behind_a_long_one(
        # End 1315 + 120 = 1435. At 1400: 2 * 85 // 100 = 1 block; the 4 tokens of the other cost 40 ps to compute, but
        # are there in 35: counted. The iteration of one token takes 110, or 35 + 110 // 1 = 145.
        "a stall, one layer", 1315, kv(overlap=True),
        {"load_ps": 120, "exposed_ps": 35, "dram_tokens": 8, "hit_tokens": 8, "first_token_ps": 1545},
    ),
    behind_a_long_one(
        # The same with two layers: 35 + 110 // 2 = 90 is less than 110.
        "a stall hidden by layers", 1315, kv(overlap=True),
        {"exposed_ps": 0, "dram_tokens": 8, "first_token_ps": 1510}, layers=2,
    ),
    behind_a_long_one(
        # End 1445: 45 ps for what 40 ps compute. So it is cut: 2 * 75 // 100 = 1 block.
        "slower than computing", 1325, kv(overlap=True),
        {"load_ps": 120, "exposed_ps": 0, "dram_tokens": 4, "hit_tokens": 4, "first_token_ps": 1550},
    ),
    behind_a_long_one(
        # Issued at 1400 only: 120 ps, all of them before the iteration of 110.
        "on demand", 1330, kv(prefetch=False),
        {"load_ps": 120, "exposed_ps": 120, "dram_tokens": 8, "hit_tokens": 8, "first_token_ps": 1400 + 120 + 110},
    ),
    behind_a_long_one(
        # On demand, layer by layer: max(110, 120 + 110 // 4) = 147.
        "on demand with overlap", 1330, kv(prefetch=False, overlap=True),
        {"exposed_ps": 37, "dram_tokens": 8, "first_token_ps": 1547}, layers=4,
    ),
    on_an_idle_one(
        # Loaded at 1620, when it is enqueued; the queue was empty all the time.
        "waits for all", kv(),
        {"load_ps": 120, "exposed_ps": 120, "dram_tokens": 8, "scheduled_ps": 1620, "first_token_ps": 1730},
        fetch=FAITHFUL,
    ),
    on_an_idle_one(
        # Enqueued at 1560, when 2 * 60 // 100 = 1 block is there.
        "waits until the timeout", kv(),
        {"load_ps": 120, "exposed_ps": 60, "dram_tokens": 4, "scheduled_ps": 1560, "first_token_ps": 1560 + 150},
        fetch=chosen("fetch", odd_fetch.everything, wait_s=60e-12),
    ),
    case(
        # Row 2 brings blocks 3 and 4 to DRAM at 300 + 190 + 40. Row 5 loads 1010 to 1110 + 20; row 7 may start when
        # that is done, at 1130: 1230 + 20. Both are there at 1400 and share an iteration: 100 + 10 + 10.
        "one load at a time",
        [(FIRST, AB), (FILLER, []), ((300, 9, 1), [3, 4]), (LONG, []), ((1001, 1, 1), []), ((1010, 9, 1), AB),
         ((1011, 1, 1), []), ((1020, 9, 1), [3, 4])],
        kv(in_flight=1),
        {"load_ps": [0, 0, 0, 0, 0, 120, 0, 120], "dram_tokens": [0, 0, 0, 0, 0, 8, 0, 8],
         "first_token_ps": [190, 111, 490, 1400, 1111, 1520, 1121 + 100, 1520]},
        stores={"read_blocks": [4]},
    ),
    case(
        # As before, but the second load still waits for its place when its request runs at 1400: 5 starts at 1360 and
        # has 2 * 40 // 100 = 0 blocks, 7 has none. 100 + 90 + 90; then each publishes its own.
        "a pending load comes too late",
        [(FIRST, AB), (FILLER, []), ((300, 9, 1), [3, 4]), (LONG, []), ((1001, 1, 1), []), ((1360, 9, 1), AB),
         ((1361, 1, 1), []), ((1370, 9, 1), [3, 4])],
        kv(in_flight=1),
        {"load_ps": [0, 0, 0, 0, 0, 120, 0, 0], "dram_tokens": [0] * 8, "hit_tokens": [0] * 8,
         "first_token_ps": [190, 111, 490, 1400, 1111, 1680, 1471, 1680]},
        stores={"read_blocks": [2]},
    ),
]  # fmt: skip

SOLO = [((0, 9, 1), AB), ((900, 9, 1), AB), ((1500, 9, 1), AB), ((2000, 9, 1), AB)]
LIFETIMES = [
    case(
        # Released at 190, 1010 and 1610; each use is within 1000 ps of the last one.
        "refreshed", SOLO, kv(ttl_ps=1000), {"hit_tokens": [0, 8, 8, 8]}, instances=1, fetch=NOTHING, write=NEVER,
    ),
    case(
        # First used at 190, so dead from 1190 on. Row 2 computes and publishes it anew at 1500 + 190.
        "not refreshed", SOLO, kv(ttl_ps=1000, refresh=False), {"hit_tokens": [0, 8, 0, 8]},
        instances=1, fetch=NOTHING, write=NEVER,
    ),
    case(
        # Three blocks are 12 tokens, of which 8 make a unit: 5 of 13 are left, 100 + 50.
        "whole units", [((0, 13, 1), [1, 2, 3]), ((1000, 13, 1), [1, 2, 3])], kv(unit_tokens=8),
        {"hit_tokens": [0, 8], "first_token_ps": [230, 1150]}, instances=1, fetch=NOTHING,
    ),
    case(
        # Blocks 1 and 2 are there, but no prompt ended with them until row 1's; row 2's did.
        "exact match",
        [((0, 13, 1), [1, 2, 3]), ((1000, 9, 1), AB), ((2000, 13, 1), [1, 2, 3]), ((3000, 9, 1), AB)],
        kv(index=replace(NO_INDEX, exact=True)), {"hit_tokens": [0, 0, 12, 8]}, instances=1, fetch=NOTHING,
    ),
]  # fmt: skip

CHANGES = [
    on_an_idle_one(
        # At 1550 half of the time on the card is over: 1 block lands, and its request goes on with it: 100 + 50.
        "a leave cuts a load", kv(changes=(Change(1550, "leave", 0, 1550),)),
        {"load_ps": 50, "exposed_ps": 50, "dram_tokens": 4, "scheduled_ps": 1550, "first_token_ps": 1700},
        stores={"resident_blocks": [0], "evicted_blocks": [0]}, fetch=FAITHFUL,
    ),
    on_an_idle_one(
        # The ring has node 1 at 6485274418266381604 and node 0 at 16294208416658607535; block 1 hashes to
        # 10451216379200822465, so node 0 has it. From 1000 on it goes to node 1, 2 * 50 ps; there it is loaded from.
        "a drain moves what is there",
        kv(stores=(SHARED, replace(SHARED, node=1)), changes=(Change(1000, "drain", 0, 1490),)),
        {"load_ps": 120, "dram_tokens": 8},
        stores={"resident_blocks": [0, 2], "inserted_blocks": [2, 2], "read_blocks": [0, 2], "written_blocks": [2, 0]},
        fetch=FAITHFUL,
    ),
    on_an_idle_one(
        # The same, but the deadline is 1 ps before the move is done.
        "a drain that takes too long",
        kv(stores=(SHARED, replace(SHARED, node=1)), changes=(Change(1000, "drain", 0, 1099),)),
        {"load_ps": 0, "hit_tokens": 0},
        stores={"resident_blocks": [0, 2], "inserted_blocks": [2, 2], "written_blocks": [2, 2]},
    ),
]  # fmt: skip

WRITES = [
    case(
        # Of four blocks row 0 leaves two cached; row 1 needs four at 1000, so both go, and are written then: 1000 + 20
        # + 20. Row 2 waits for them: 2000 + 120, then 100 + 10. It runs in the place of row 1's blocks.
        "written back", [((0, 9, 1), AB), ((1000, 13, 1), []), ((2000, 9, 1), AB)], kv(),
        {"dram_tokens": [0, 0, 8], "first_token_ps": [190, 1230, 2230]},
        stores={"written_blocks": [2], "inserted_blocks": [2]},
        instances=1, kv_blocks=4, fetch=FAITHFUL, write=chosen("write", odd_fetch.on_evict),
    ),
    case(
        # The policy writes from the third block on: row 0 writes nothing, row 1 the path of all its blocks.
        "written by choice", [((0, 9, 1), AB), ((1000, 13, 1), [1, 2, 3])], kv(), {"hit_tokens": [0, 8]},
        stores={"written_blocks": [3], "resident_blocks": [3]},
        instances=1, write=chosen("write", odd_fetch.on_publish, start=2),
    ),
    case(
        # One write at a time and 40 ps each: rows 0 and 1 publish at 290 together, so the second is dropped.
        "dropped", [((0, 1, 1), []), ((1, 9, 1), AB), ((1, 9, 1), [3, 4])], kv(writes=1),
        {"first_token_ps": [110, 110 + 280, 110 + 280]}, stores={"written_blocks": [2], "dropped_writes": [1]},
        instances=1,
    ),
    case(
        # DRAM of two blocks: row 2's (written at 490 + 40) push row 0's onto the disk, whose memtable of one block is
        # flushed at once. Row 3 reads them: one operation and two blocks, 30 + 120, + 7 = 157, longer than the card's
        # 120. Then they are back in DRAM, and row 2's are on the disk.
        "promoted", [(FIRST, AB), (FILLER, []), ((300, 9, 1), [3, 4]), ((1500, 9, 1), AB)],
        kv(stores=(replace(SHARED, blocks=2, below=1), Store(DISK, 0, -1, 100, -1, 0, 0, 0))),
        {"load_ps": [0, 0, 0, 157], "disk_tokens": [0, 0, 0, 8], "dram_tokens": [0] * 4,
         "first_token_ps": [190, 111, 490, 1500 + 157 + 110]},
        stores={"resident_blocks": [2, 4], "inserted_blocks": [6, 4], "evicted_blocks": [4, 0], "read_blocks": [0, 2],
                "medium_reads": [[], [[1, 2]]]},
        fetch=FAITHFUL,
    ),
]  # fmt: skip

ONE_BLOCK = [((0, 5, 1), [1]), ((1000, 5, 1), [2])]
EVICTIONS = [
    case(
        # Of four blocks two are cached: 1, used again at 2000, and 2. Row 3 needs three, so one must go: first in was
        # 1, but it gets a second chance and 2 goes.
        "second chance",
        [*ONE_BLOCK, ((2000, 5, 1), [1]), ((3000, 9, 1), []), ((4000, 5, 1), [1]), ((5000, 5, 1), [2])],
        kv(), {"hit_tokens": [0, 0, 4, 0, 4, 0]}, instances=1, kv_blocks=4, fetch=NOTHING, write=NEVER,
        evict=chosen("evict", odd_fetch.second_chance),
    ),
    case(
        # Row 2 runs until 2110; then row 3 needs three blocks while row 4 waits for block 1, used less recently than 2.
        "what the queue wants stays",
        [*ONE_BLOCK, ((2000, 1, 1), []), ((2001, 9, 1), []), ((2002, 5, 1), [1]), ((5000, 5, 1), [2])],
        kv(lookahead=True), {"hit_tokens": [0, 0, 0, 0, 4, 0], "scheduled_ps": [0, 1000, 2000, 2110, 2300, 5000]},
        instances=1, kv_blocks=4, max_batch=1, fetch=NOTHING, write=NEVER,
    ),
    case(
        # The same without looking ahead.
        "least recently used",
        [*ONE_BLOCK, ((2000, 1, 1), []), ((2001, 9, 1), []), ((2002, 5, 1), [1]), ((5000, 5, 1), [2])],
        kv(), {"hit_tokens": [0, 0, 0, 0, 0, 4]}, instances=1, kv_blocks=4, max_batch=1, fetch=NOTHING, write=NEVER,
    ),
    on_an_idle_one(
        # Read once from shared DRAM, block 1 has two homes: when row 1 publishes, node 1 gets a copy too.
        "replicated", kv(stores=(SHARED, replace(SHARED, node=1)), replicate_after=1),
        {"dram_tokens": 8, "first_token_ps": 1730}, stores={"written_blocks": [2, 2], "resident_blocks": [2, 2]},
        fetch=FAITHFUL,
    ),
]  # fmt: skip

INDEX = [
    case(
        # Looked up by 60, in HBM by 250 and in DRAM by 290, dead 500 ps later, swept at 1000: two nodes of 30 ps, so
        # the shard is busy until 1060. Row 1 is looked up then: 50 + 10.
        "a sweep keeps the index busy", [((0, 9, 1), AB), ((1010, 9, 1), AB)],
        kv(index=replace(NO_INDEX, shards=1, lookup_ps=50, node_ps=10, gc_node_ps=30), ttl_ps=500, gc_ps=1000),
        {"lookup_ps": [60, 110], "hit_tokens": [0, 0]}, stores={"inserted_blocks": [4]}, instances=1,
    ),
    case(
        # A lookup of a prompt of one node takes 50 + 10. Row 1 waits for row 0's, then for its iteration (250).
        "a queue at the index", [((0, 9, 1), AB), ((0, 9, 1), AB)],
        kv(index=replace(NO_INDEX, shards=1, lookup_ps=50, node_ps=10)),
        {"lookup_ps": [60, 120], "arrival_ps": [0, 0], "scheduled_ps": [60, 250], "hit_tokens": [0, 8]}, instances=1,
    ),
]  # fmt: skip

CASES = [*LOADS, *LIFETIMES, *CHANGES, *WRITES, *EVICTIONS, *INDEX]

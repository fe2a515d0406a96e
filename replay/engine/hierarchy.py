"""Build the state of the KV hierarchy: stores, disks, rings, and what will happen to them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from replay.engine import schema, tier_schema
from replay.engine.disks import empty_disks
from replay.engine.draws import mix, mix_array
from replay.engine.schema import NONE, State
from replay.engine.tier_schema import Hierarchy
from traces.trie import full_blocks
from traces.trie_kernels import through

if TYPE_CHECKING:
    from replay.cluster import Cluster
    from replay.kv import Kv, Store
    from traces import Trace

RING_STEP = 1_000_003  # owners' points come from other inputs of the hash than requests' keys
FRAGMENTS_A_SLOT, SPARE_FRAGMENTS = 4, 4096
CHANGES = 1 << 16
ONE_ROW: dict[str, Any] = {
    "stores": tier_schema.STORE, "loads": tier_schema.LOAD, "parts": tier_schema.PART, "offer": schema.OFFER,
    "writes": tier_schema.WRITE, "timer_heap": tier_schema.TIMER, "clock": tier_schema.CLOCK_ENTRY,
    "spills": tier_schema.SPILL, "changes": tier_schema.CHANGE,
    "rings": tier_schema.RING, "points": tier_schema.POINT, "owners": tier_schema.OWNER, "keys": tier_schema.KEY,
    "fragments": tier_schema.FRAGMENT, "runs": tier_schema.RUN, "media": tier_schema.MEDIUM, "disks": tier_schema.DISK,
    "free": np.int64,
}  # fmt: skip


def no_hierarchy() -> Hierarchy:
    """Return rows that nothing reads, for a cluster without stores."""
    rows = {name: np.zeros(1, kind) for name, kind in ONE_ROW.items()}
    tables = {"known": np.int64, "needed": np.int32, "occupancy": np.int64}
    return Hierarchy(**rows, **{name: np.zeros((1, 1), kind) for name, kind in tables.items()})


def settings_of(kv: "Kv", block_tokens: int) -> dict[str, Any]:
    """Return the fields of the CLUSTER row that a hierarchy sets."""
    index = kv.index
    unit_blocks = -(-kv.unit_tokens // block_tokens) if kv.unit_tokens else 0
    common = [s for s, store in enumerate(kv.stores) if store.tier == 2 and store.node < 0]
    return {
        "tiered": True, "tracked": len(kv.stores) > 0, "plain_lookup": kv.ttl_ps == 0 and not index.exact,
        "exact_match": index.exact, "refresh": kv.refresh, "lagged": index.belief == "lagged",
        "routed": index.belief == "routed",
        "prefetch": kv.prefetch, "overlap": kv.overlap, "promote": kv.promote, "lookahead": kv.lookahead,
        "num_stores": len(kv.stores), "num_shared": kv.shared_nodes, "num_shards": index.shards,
        "common_store": common[0] if common else NONE, "in_flight": kv.in_flight, "writes": kv.writes,
        "replicate_after": kv.replicate_after, "unit_tokens": kv.unit_tokens, "unit_blocks": unit_blocks,
        "bound": kv.bound, "ttl_ps": kv.ttl_ps, "gc_ps": kv.gc_ps, "lag_ps": index.lag_ps,
        "lookup_ps": index.lookup_ps, "node_ps": index.node_ps, "gc_node_ps": index.gc_node_ps,
    }  # fmt: skip


def extend(cluster: "Cluster", views: np.ndarray, instances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of instances with one more for each store: only their block accounting is used."""
    instances["private_dram"] = instances["local_disk"] = NONE
    instances["pending_head"] = instances["pending_tail"] = NONE
    if cluster.kv is None:
        return views, instances
    instances["next_death_ps"] = cluster.kv.ttl_ps
    stores = cluster.kv.stores
    views = np.concatenate([views, np.zeros(len(stores), schema.VIEW)])
    instances = np.concatenate([instances, np.zeros(len(stores), schema.INSTANCE)])
    for s, store in enumerate(stores):
        h = len(cluster.instances) + s
        views["role"][h] = NONE
        views["block_tokens"][h] = cluster.block_tokens
        views["total_blocks"][h] = views["free_blocks"][h] = store.blocks
        for name in ("queue", "slot_free", "prefill_head", "prefill_tail", "link_head", "link_tail", "lru_head",
                     "lru_tail", "private_dram", "local_disk", "pending_head", "pending_tail"):  # fmt: skip
            instances[name][h] = NONE
        instances["tier"][h], instances["clock"][h] = store.tier, -1e308
        instances["end_ps"][h], instances["next_death_ps"][h] = schema.NEVER_PS, cluster.kv.ttl_ps
        if store.server >= 0:
            instances["private_dram" if store.tier == 1 else "local_disk"][store.server] = s
    return views, instances


def hierarchy_of(trace: "Trace", cluster: "Cluster", state: State, options: Mapping[str, Any]) -> Hierarchy:
    """Return the hierarchy of a cluster before the first event; timers and counters go into the state, in place."""
    kv = cluster.kv
    assert kv is not None
    nodes, num_prefill = len(state.cache.nodes), len(state.prefill_views)
    caching = bool(state.cluster["cache"][0])
    stores = _stores(kv.stores)
    parts: dict[str, Any] = {name: np.zeros(1, kind) for name, kind in ONE_ROW.items()}
    parts |= _rings(kv)
    parts |= _disks(kv, stores, state)
    known = np.full((nodes, num_prefill), NONE if kv.index.belief == "routed" else 0, np.int64)
    believes = caching and kv.index.belief != "exact"
    parts |= {
        "stores": stores,
        "loads": _loads(len(trace)),
        "parts": np.zeros(tier_schema.MOST_PARTS * len(trace), tier_schema.PART),
        "writes": np.zeros(max(1, len(stores) * kv.writes), tier_schema.WRITE),
        "spills": np.zeros(max(1024, len(state.cache.slots)), tier_schema.SPILL),
        "changes": np.zeros(max(CHANGES, 4 * len(state.cache.slots)) if kv.index.belief == "lagged" else 1,
                            tier_schema.CHANGE),
        "known": known if believes else np.zeros((1, 1), np.int64),
        "needed": np.zeros((nodes, num_prefill) if kv.lookahead else (1, 1), np.int32),
        "keys": _keys(trace, kv, options["trie"]) if caching else np.zeros(1, tier_schema.KEY),
        "occupancy": np.zeros((max(2, kv.samples // 2 * 2), 1 + state.cache.slot_of.shape[1]), np.int64),
    }  # fmt: skip
    parts["clock"], timers = _timers(kv, stores)
    heap = np.zeros(len(timers) + 3 * len(trace) + len(parts["writes"]) + 2 * len(stores) + 8, tier_schema.TIMER)
    parts["timer_heap"] = heap
    if not caching:
        state.cluster["num_shards"] = 0 if kv.index.shards == 0 else kv.index.shards
    _arm(state, heap, timers)
    return Hierarchy(**parts)


def _loads(requests: int) -> np.ndarray:
    rows = np.zeros(requests, tier_schema.LOAD)
    rows["next"] = rows["landed_blocks"] = NONE
    return rows


def _stores(stores: "tuple[Store, ...]") -> np.ndarray:
    rows = np.zeros(max(1, len(stores)), tier_schema.STORE)
    rows["above"] = rows["disk"] = rows["moving"] = NONE
    disks = 0
    for s, store in enumerate(stores):
        rows["full_write_block_fs"][s] = store.write_block_fs
        for name in ("tier", "node", "server", "below", "read_block_fs", "write_block_fs", "latency_ps"):
            rows[name][s] = getattr(store, name)
        rows["present"][s] = 1
        if store.below >= 0 and stores[store.below].node >= 0:
            rows["above"][store.below] = s
        if store.tier == 2:
            rows["disk"][s] = disks
            disks += 1
    return rows


def _disks(kv: "Kv", stores: np.ndarray, state: State) -> dict[str, np.ndarray]:
    holders = len(state.views) - len(kv.stores) + np.flatnonzero(stores["disk"] >= 0) if len(kv.stores) else []
    if not len(holders):
        return {}
    slots = int(np.minimum(len(state.cache.nodes), state.views["total_blocks"][holders]).sum())
    return empty_disks(kv.lsm, len(holders), FRAGMENTS_A_SLOT * slots + SPARE_FRAGMENTS)


def _rings(kv: "Kv") -> dict[str, np.ndarray]:
    owners = [kv.index.shards, kv.shared_nodes]
    rings, points = np.zeros(2, tier_schema.RING), []
    for k, count in enumerate(owners):
        ring = sorted((mix(o * RING_STEP + v), o) for o in range(count) for v in range(kv.virtual_nodes))
        rings[k] = (len(points), len(ring), sum(owners[:k]), count)
        points += ring
    rows = np.zeros(max(1, sum(owners)), tier_schema.OWNER)
    rows["takes"] = 1
    return {"rings": rings, "points": np.array(points or [(0, 0)], tier_schema.POINT), "owners": rows}


def _keys(trace: "Trace", kv: "Kv", trie: Any) -> np.ndarray:
    """Return the key of every trie node, and what its hash is, KEY (nodes,)."""
    nodes = np.arange(len(trie.parent))
    start, end = np.asarray(trie.start_blocks), np.asarray(trie.start_blocks) + np.asarray(trie.blocks)
    key = np.where(start < kv.key_blocks, nodes, trie.parent)
    while not np.array_equal(key[key], key):
        key = key[key]
    rows = np.zeros(len(nodes), tier_schema.KEY)
    rows["key"], rows["shard"], rows["home"] = key, NONE, NONE
    offsets, ids = trace.prefix()
    request = through(np.asarray(trie.parent), np.asarray(trie.leaf))
    last = offsets[request] + np.minimum(kv.key_blocks, end) - 1
    assert (last < offsets[request] + full_blocks(trace)[request]).all()
    rows["hash"] = mix_array(ids[last])
    return rows


def _timers(kv: "Kv", stores: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Return the schedule as CLOCK_ENTRY rows, and the first timers as (time_ps, kind, what)."""
    entries, timers = [], []
    kinds = {"leave": tier_schema.LEAVE, "fail_disk": tier_schema.LEAVE, "drain": tier_schema.DRAIN}
    for change in kv.changes:
        tier = 2 if change.what.endswith("disk") else 1
        what = kinds.get(change.what, tier_schema.JOIN)
        for s in np.flatnonzero((stores["tier"] == tier) & (stores["node"] == change.node)):
            timers.append((change.at_ps, tier_schema.CLOCK, len(entries)))
            entries.append((what, s, change.deadline_ps))
    if kv.ttl_ps and kv.gc_ps:
        timers.append((kv.gc_ps, tier_schema.COLLECT, 0))
    if kv.samples:
        timers.append((0, tier_schema.SAMPLE, 0))
    return np.array(entries or [(0, 0, 0)], tier_schema.CLOCK_ENTRY), timers


def _arm(state: State, heap: np.ndarray, timers: list[tuple[int, int, int]]) -> None:
    """Put the first timers on the heap, which a sorted list is, and its head into the event tree."""
    from replay.engine.tree import plain_set_event

    ordered = sorted((time_ps, sequence + 1, kind, what) for sequence, (time_ps, kind, what) in enumerate(timers))
    heap[: len(ordered)] = ordered
    state.cluster["timers"] = state.cluster["timer_sequence"] = len(ordered)
    state.cluster["sample_ps"] = 1_000_000_000_000
    state.cluster["recurring"] = sum(kind in (tier_schema.COLLECT, tier_schema.SAMPLE) for _, kind, _ in timers)
    if ordered:
        plain_set_event(state.tree, 2 * int(state.cluster["num_instances"][0]), ordered[0][0])

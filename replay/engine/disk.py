"""A disk as a store: what is put there goes to its memtable, and is flushed and merged in the background."""

from replay.engine.compaction import flush, memtable_full, merge_all, merge_level, needs_compaction
from replay.engine.evicting import column_of
from replay.engine.fragments import begin_read, read_cost, rows_left
from replay.engine.inserting import insert
from replay.engine.jit import inlined, kernel
from replay.engine.kvcache import row_of
from replay.engine.lifetime import collect
from replay.engine.shipping import ship_much


@inlined
def moved_blocks(hierarchy, d):
    """Return how many blocks flushes and merges of disk d have read and written so far."""
    total = 0
    for m in range(hierarchy.disks[d].media, hierarchy.disks[d].media + hierarchy.disks[d].media_count):
        medium = hierarchy.media[m]
        total += medium.flush_blocks + medium.compact_read_blocks + medium.compact_write_blocks
    return total


@kernel
def put(state, s, node, upto_blocks, whole):
    """Put the path to the first `upto_blocks` blocks into store s, flushing and merging if it is a disk. In place."""
    i = state.cluster[0].num_instances + s
    d = state.hierarchy.stores[s].disk
    now_ps = state.cluster[0].now_ps
    hierarchy = state.hierarchy
    if d >= 0:
        make_rows(state, node)
    insert(state, i, node, upto_blocks, whole)
    if d < 0 or not memtable_full(hierarchy, d):
        return
    ships = state.cluster[0].fabric and s == state.cluster[0].common_store
    before = moved_blocks(hierarchy, d) if ships else 0
    flush(hierarchy, d, now_ps)
    level = needs_compaction(hierarchy, d)
    while level >= 0:
        if state.cluster[0].ttl_ps > 0:
            collect(state, i)
        merge_level(hierarchy, d, level, now_ps)
        level = needs_compaction(hierarchy, d)
    if ships and moved_blocks(hierarchy, d) > before:
        ship_much(state, i, moved_blocks(hierarchy, d) - before)


@kernel
def make_rows(state, node):
    """Merge whole disks, first to last, until there are fragment rows for every node of a path, modified in place."""
    wanted = 1
    while node >= 0:
        wanted += 1
        node = state.cache.nodes[node].parent
    d = 0
    while rows_left(state.hierarchy) < wanted and d < len(state.hierarchy.disks):
        merge_all(state.hierarchy, d, state.cluster[0].now_ps)
        d += 1


@kernel
def plan_read(state, s, node, from_blocks, upto_blocks):
    """Add up what reading the blocks [from, upto) of a path on disk s takes, by medium, in `part_ops`, `part_blocks`.

    node : the deepest one of the path that is resident there
    """
    cache = state.cache
    d = state.hierarchy.stores[s].disk
    c = column_of(state, state.cluster[0].num_instances + s)
    begin_read(state.hierarchy, d)
    while node >= 0:
        row = row_of(cache, node, c)
        slot = cache.slots[row]
        begin = cache.nodes[node].start_blocks
        low = max(from_blocks, begin)
        high = min(upto_blocks, begin + slot.blocks)
        if high > low:
            read_cost(state.hierarchy, cache.slots, d, row, low - begin, high - low)
        if begin <= from_blocks:
            return
        node = cache.nodes[node].parent

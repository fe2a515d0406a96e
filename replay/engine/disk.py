"""A disk as a store: what is put there goes to its memtable, and is flushed and merged in the background."""

from replay.engine.compaction import flush, merge_all, merge_level, needs_compaction, rows_left
from replay.engine.evicting import column_of
from replay.engine.fragments import begin_read, read_cost
from replay.engine.jit import kernel
from replay.engine.kvcache import insert, row_of
from replay.engine.lifetime import collect


@kernel
def put(state, s, node, upto_blocks, whole):
    """Put the path to the first `upto_blocks` blocks into store s, flushing and merging if it is a disk. In place."""
    i = state.cluster[0].num_instances + s
    d = state.hierarchy.stores[s].disk
    now_ps = state.cluster[0].now_ps
    slots = state.cache.slots
    hierarchy = state.hierarchy
    if d >= 0 and rows_left(hierarchy) < state.cache.nodes[node].start_blocks + 2:
        merge_all(hierarchy, slots, d, now_ps)
    insert(state, i, node, upto_blocks, whole)
    if d < 0 or hierarchy.disks[d].memtable_blocks < hierarchy.disks[d].memtable_limit:
        return
    flush(hierarchy, slots, d, now_ps)
    level = needs_compaction(hierarchy, d)
    while level >= 0:
        if state.cluster[0].ttl_ps > 0:
            collect(state, i)
        merge_level(hierarchy, slots, d, level, now_ps)
        level = needs_compaction(hierarchy, d)


@kernel
def plan_read(state, s, node, from_blocks, upto_blocks):
    """Add up what reading the blocks [from, upto) of a path on disk s takes, by medium, in `part_ops` and `part_blocks`.

    node : the deepest one of the path that is resident there
    """
    cache = state.cache
    hierarchy = state.hierarchy
    d = hierarchy.stores[s].disk
    c = column_of(state, state.cluster[0].num_instances + s)
    begin_read(hierarchy, d)
    at = from_blocks
    while at < upto_blocks:
        top = node
        n = node
        while n >= 0 and cache.nodes[n].start_blocks + cache.nodes[n].blocks > at:
            top = n
            n = cache.nodes[n].parent
        row = row_of(cache, top, c)
        slot = cache.slots[row]
        end = min(slot.start_blocks + slot.blocks, upto_blocks)
        read_cost(hierarchy, cache.slots, d, row, at - slot.start_blocks, end - at)
        at = end

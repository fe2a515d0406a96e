"""The end of what is kept: garbage collection of what outlived its time, and holders that lose all."""

from replay.engine.evicting import column_of, free_slot, is_dead, note_change, stamp_of
from replay.engine.eviction_queue import unlink
from replay.engine.fragments import trim
from replay.engine.inserting import disk_of
from replay.engine.jit import kernel
from replay.engine.kvcache import row_of
from replay.engine.schema import NONE


@kernel
def free_node(state, i, s):
    """Free all blocks of slot s of holder i, which is queued, whatever lies below in the trie. Modified in place."""
    instance = state.instances[i]
    view = state.views[i]
    slot = state.cache.slots[s]
    disk = disk_of(state, i)
    if disk >= 0:
        trim(state.hierarchy, state.cache.slots, s, disk, slot.blocks)
    if state.cluster[0].lagged and i < state.cluster[0].num_instances:
        note_change(state, slot.node, i, 0)
    view.cached_blocks -= slot.blocks
    view.free_blocks += slot.blocks
    unlink(state.cache, instance, s)
    free_slot(state.cache, instance, column_of(state, i), s)


@kernel
def collect(state, i):
    """Free every dead node of holder i and every node below one, modified in place; returns how many.

    The trie is numbered in preorder, so that a node comes after its parent. Stamps only grow, so that after a look at
    all nodes it is known until when none can be dead: till then this costs nothing, else O(trie nodes).
    """
    cache = state.cache
    cluster = state.cluster[0]
    if cluster.now_ps < state.instances[i].next_death_ps:
        return 0
    c = column_of(state, i)
    freed = 0
    oldest_ps = cluster.now_ps
    for node in range(len(cache.nodes)):
        s = row_of(cache, node, c)
        if s < 0:
            continue
        parent = cache.nodes[node].parent
        orphan = parent >= 0 and cache.slot_of[parent, c] == NONE
        if orphan or is_dead(state, s):
            if i >= state.cluster[0].num_instances:
                state.hierarchy.stores[i - state.cluster[0].num_instances].expired_blocks += cache.slots[s].blocks
            free_node(state, i, s)
            freed += 1
        else:
            oldest_ps = min(oldest_ps, stamp_of(state, s))
    state.instances[i].next_death_ps = oldest_ps + cluster.ttl_ps
    return freed


@kernel
def drop_all(state, i):
    """Free every node of store i, pinned or not: it is gone. Modified in place. O(trie nodes)."""
    cache = state.cache
    c = column_of(state, i)
    instance = state.instances[i]
    view = state.views[i]
    disk = disk_of(state, i)
    for node in range(len(cache.nodes)):
        s = row_of(cache, node, c)
        if s < 0:
            continue
        slot = cache.slots[s]
        if disk >= 0:
            trim(state.hierarchy, cache.slots, s, disk, slot.blocks)
        if slot.pins == 0:
            unlink(cache, instance, s)
        slot.pins = 0
        state.hierarchy.stores[i - state.cluster[0].num_instances].lost_blocks += slot.blocks
        free_slot(cache, instance, c, s)
    view.free_blocks += view.cached_blocks + instance.pinned_blocks
    view.cached_blocks = 0
    instance.pinned_blocks = 0

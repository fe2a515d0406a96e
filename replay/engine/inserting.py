"""Put a prefix into a holder from elsewhere: another HBM, a store, or the memtable of a disk."""

from replay.engine.ahead import bring_queue
from replay.engine.evicting import column_of, none_is_dead, note_change
from replay.engine.fragments import append
from replay.engine.jit import inlined, kernel
from replay.engine.kvcache import (
    deepest_resident,
    new_slot,
    pin_path,
    release_path,
    renew,
    resident_blocks,
    row_of,
    take_private,
)
from replay.engine.prefetch import bring_near
from replay.engine.schema import NONE


@kernel
def insert(state, i, leaf, target_blocks, whole):
    """Put the first `target_blocks` blocks of a path into the cache of holder i, while they fit, in place.

    whole   : 1 if `leaf` ends a prompt that its source had as a whole
    returns : the deepest node that it filled, -1 for none
    """
    cache = state.cache
    c = column_of(state, i)
    instance = state.instances[i]
    disk = disk_of(state, i)
    bring_queue(state, i)
    top = deepest_resident(cache, leaf, c)
    have = resident_blocks(cache, top, c)
    bring_near(cache.slots, max(cache.slots[max(instance.lru_head, 0)].next, 0), 0)
    if not none_is_dead(state, i):
        renew_path(state, leaf, c, target_blocks)
    if have >= target_blocks:
        mark_whole(cache, leaf, c, target_blocks, whole)
        return
    pin_path(state, i, top)
    extra = min(target_blocks - have, state.views[i].free_blocks + state.views[i].cached_blocks)
    end = have + extra
    take_private(state, i, extra)
    instance.private_blocks -= extra
    instance.pinned_blocks += extra
    instance.inserted_blocks += extra
    node = leaf
    while node >= 0 and cache.nodes[node].start_blocks >= end:
        node = cache.nodes[node].parent
    deepest = node
    while node >= 0 and extra > 0:
        s = row_of(cache, node, c)
        if s < 0:
            s = new_slot(state, i, node)
        slot = cache.slots[s]
        upto = min(cache.nodes[node].start_blocks + cache.nodes[node].blocks, end)
        added = upto - cache.nodes[node].start_blocks - slot.blocks
        slot.blocks += added
        cache.slot_of[node, c] = s if slot.blocks == cache.nodes[node].blocks else -2 - s
        extra -= added
        if state.cluster[0].lagged and i < state.cluster[0].num_instances:
            note_change(state, node, i, slot.blocks)
        node = cache.nodes[node].parent
    if disk >= 0 and deepest >= 0 and end > have:
        append_path(state, i, disk, deepest, have)
    release_path(state, i, deepest if deepest >= 0 else top)
    mark_whole(cache, leaf, c, target_blocks, whole)


@inlined
def mark_whole(cache, leaf, c, target_blocks, whole):
    """Note that a prompt ends with node `leaf` in column c if all of it came from where that was so, in place."""
    s = cache.slot_of[leaf, c]
    if whole and s >= 0 and target_blocks == cache.nodes[leaf].start_blocks + cache.nodes[leaf].blocks:
        cache.slots[s].whole = 1


@inlined
def disk_of(state, i):
    """Return the disk that holder i is, -1 if it is none."""
    if i < state.cluster[0].num_instances:
        return NONE
    return state.hierarchy.stores[i - state.cluster[0].num_instances].disk


@kernel
def append_path(state, i, disk, node, have):
    """Put the blocks of a path after the first `have` into the memtable of a disk, root first. Modified in place.

    node : the deepest one that was extended; all from there up to block `have` were
    """
    cache = state.cache
    c = column_of(state, i)
    nodes = cache.nodes
    above = node
    while True:
        top = above  # the highest node not yet appended
        n = node
        while n >= 0 and nodes[n].start_blocks + cache.slots[row_of(cache, n, c)].blocks > have:
            top = n
            n = nodes[n].parent
        s = row_of(cache, top, c)
        slot = cache.slots[s]
        first = max(have - nodes[top].start_blocks, 0)
        append(state.hierarchy, cache.slots, disk, s, first, slot.blocks - first)
        have = nodes[top].start_blocks + slot.blocks
        if top == node:
            return


@kernel
def renew_path(state, leaf, c, target_blocks):
    """Let dead nodes among the first `target_blocks` blocks of a path live again, modified in place."""
    cache = state.cache
    node = deepest_resident(cache, leaf, c)
    while node >= 0:
        if cache.nodes[node].start_blocks < target_blocks:
            renew(state, row_of(cache, node, c))
        node = cache.nodes[node].parent

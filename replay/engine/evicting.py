"""Take blocks from a holder: what policies are asked about its prefixes, which of them leave, and where they go.

A holder is an instance's HBM or a store below it (HIERARCHY.md). Unpinned slots queue by (spared, score, place in the
queue). Scores that rise with time, as those of `lru`, only ever join at the end of a list, in O(1); the others wait in
a binary heap beside it (eviction_queue.py).
"""

from replay.engine.eviction_queue import first_queued, queue_anew, unlink
from replay.engine.fragments import trim
from replay.engine.jit import inlined, kernel
from replay.engine.notes import fault
from replay.engine.prefetch import bring_near
from replay.engine.schema import BAD_EVICT, BROKEN_LAW, NONE


@inlined
def column_of(state, i):
    """Return the column of `slot_of` that holder i has: instances first, then stores; decode instances have none."""
    cluster = state.cluster[0]
    return i if i < cluster.num_instances else i - cluster.num_instances + cluster.num_prefill


@inlined
def holder_of(state, c):
    """Return the holder that has column c of `slot_of`."""
    cluster = state.cluster[0]
    return c if c < cluster.num_prefill else c - cluster.num_prefill + cluster.num_instances


@inlined
def show(state, s):
    """Fill in what a policy may always know of slot s, modified in place; returns the row."""
    slot = state.cache.slots[s]
    prefix = state.cache.prefix[0]
    prefix.last_used_ps = slot.last_used_ps
    prefix.node = slot.node
    prefix.blocks = slot.blocks
    prefix.start_blocks = state.cache.nodes[slot.node].start_blocks
    prefix.uses = slot.uses
    return prefix


@kernel
def show_more(state, i, s, examined):
    """Fill in what few policies read of slot s of holder i, modified in place."""
    cluster = state.cluster[0]
    prefix = state.cache.prefix[0]
    instance = state.instances[i]
    slot = state.cache.slots[s]
    past = state.cache.pasts[s]
    prefix.first_used_ps = past.first_used_ps
    prefix.score = slot.score
    prefix.tier = instance.tier
    prefix.examined = examined
    prefix.uses_since = max(slot.uses - past.uses_before, 0)
    prefix.clock = instance.clock
    prefix.total_blocks = state.views[i].total_blocks
    prefix.inserted_blocks = instance.inserted_blocks
    prefix.evicted_blocks = instance.evicted_blocks
    prefix.next_use = state.cache.next_use[slot.node] if cluster.foresees else NONE
    if cluster.classes:
        prefix.group_share = 0.5  # as of a class never seen
        prefix.group_reuse_s = 60.0
        if past.group >= 0:
            group = state.cache.classes[past.group]
            prefix.group_share = (group.reuses + 1.0) / (group.uses + 2.0)
            prefix.group_reuse_s = (group.reuse_s + 60.0) / (group.reuses + 1.0)


@inlined
def ask_evict(state, i, s, examined):
    """Return the score that the evict policy gives slot s of holder i. faults: BAD_EVICT for NaN."""
    cluster = state.cluster[0]
    prefix = show(state, s)
    if cluster.evict_reads:
        show_more(state, i, s, examined)
    score = state.policies.evict(prefix, cluster.now_ps, state.tunables)
    if score != score:
        if cluster.fault == 0:
            cluster.fault = BAD_EVICT
            cluster.fault_at = prefix.node
        score = 0.0
    return score


@kernel
def ask_write(state, i, s, evicting):
    """Return whether the write policy wants slot s of instance i in the stores below."""
    prefix = show(state, s)
    show_more(state, i, s, 0)
    return state.policies.write(prefix, evicting, state.cluster[0].now_ps, state.tunables)


@kernel
def stays(state, i, s):
    """Ask once more about slot s, which is up for eviction; returns whether it was queued anew, modified in place."""
    cache = state.cache
    instance = state.instances[i]
    slot = cache.slots[s]
    past = cache.pasts[s]
    if past.looked == instance.passes:
        return False
    past.looked = instance.passes
    score = ask_evict(state, i, s, 1)
    if not score > slot.score:
        return False
    past.uses_before = slot.uses
    queue_anew(cache, instance, s, score)
    c = column_of(state, i)
    node = cache.nodes[slot.node].parent
    while node >= 0:  # what stands before it must not leave before it
        above = cache.slot_of[node, c]
        if score > cache.slots[above].floor:
            cache.slots[above].floor = score
        if cache.slots[above].pins == 0 and cache.slots[above].score <= score:
            queue_anew(cache, instance, above, score)
        node = cache.nodes[node].parent
    return True


@inlined
def none_is_dead(state, i):
    """Whether it is known that nothing on holder i outlived its time (see lifetime.collect)."""
    cluster = state.cluster[0]
    return cluster.ttl_ps == 0 or cluster.now_ps < state.instances[i].next_death_ps


@inlined
def stamp_of(state, s):
    """Return when the time that slot s may live began."""
    return state.cache.slots[s].last_used_ps if state.cluster[0].refresh else state.cache.pasts[s].first_used_ps


@inlined
def is_dead(state, s):
    """Whether slot s outlived its time: lookups pass it by, garbage collection takes it."""
    cluster = state.cluster[0]
    if cluster.ttl_ps == 0 or state.cache.slots[s].pins > 0:
        return False
    return cluster.now_ps - stamp_of(state, s) >= cluster.ttl_ps


@kernel
def note_loss(state, i, s, blocks):
    """Tell who must know that the last `blocks` blocks of slot s leave holder i: the tier below, belief, the disk."""
    cluster = state.cluster[0]
    slot = state.cache.slots[s]
    if i >= cluster.num_instances:
        store = state.hierarchy.stores[i - cluster.num_instances]
        if store.disk >= 0:
            trim(state.hierarchy, state.cache.slots, s, store.disk, blocks)
        elif store.below >= 0 and not is_dead(state, s):
            spill(state, i, s)
        return
    if cluster.lagged:
        note_change(state, slot.node, i, slot.blocks - blocks)
    if cluster.spills and ask_write(state, i, s, 1):
        spill(state, i, s)


@inlined
def spill(state, i, s):
    """Put the path to the end of slot s on the list of what the tier below may take, modified in place."""
    cluster = state.cluster[0]
    if cluster.spilled >= len(state.hierarchy.spills):
        cluster.spills_lost += 1
        return
    row = state.hierarchy.spills[cluster.spilled]
    slot = state.cache.slots[s]
    row.holder = i
    row.node = slot.node
    row.end_blocks = state.cache.nodes[slot.node].start_blocks + slot.blocks
    row.whole = slot.whole and slot.blocks == state.cache.nodes[slot.node].blocks
    cluster.spilled += 1


@inlined
def note_change(state, node, i, blocks):
    """Write down for the lagging belief that instance i now holds so many blocks of a node, modified in place."""
    cluster = state.cluster[0]
    row = state.hierarchy.changes[cluster.changes_end % len(state.hierarchy.changes)]
    row.time_ps = cluster.now_ps
    row.node = node
    row.instance = i
    row.blocks = blocks
    cluster.changes_end += 1


@kernel
def evict(state, i, blocks):
    """Free `blocks` cached blocks of holder i, lowest score first, each node from its end. Modified in place.

    The caller has checked that so many are cached.
    """
    cluster = state.cluster[0]
    cache = state.cache
    slots = cache.slots
    instance = state.instances[i]
    view = state.views[i]
    c = column_of(state, i)
    instance.passes += 1
    view.cached_blocks -= blocks
    view.free_blocks += blocks
    while blocks > 0:
        s = first_queued(cache, instance)
        if s < 0:
            fault(state, BROKEN_LAW, i, blocks)  # rather than look for ever
            return
        if cluster.second_look and stays(state, i, s):
            continue
        slot = slots[s]
        bring_near(slots, max(slots[max(slot.next, 0)].next, 0), 0)  # it leaves after the next one
        taken = min(blocks, slot.blocks)
        if cluster.tracked:
            note_loss(state, i, s, taken)
        instance.clock = slot.score
        instance.evicted_blocks += taken
        blocks -= taken
        if slot.blocks > taken:
            slot.blocks -= taken
            cache.slot_of[slot.node, c] = -2 - s
            return
        unlink(cache, instance, s)
        free_slot(cache, instance, c, s)


@inlined
def free_slot(cache, instance, c, s):
    """Give back the row of slot s, which is not queued, modified in place."""
    slot = cache.slots[s]
    cache.slot_of[slot.node, c] = NONE
    slot.next = instance.slot_free
    instance.slot_free = s

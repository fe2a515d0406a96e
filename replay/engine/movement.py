"""Loads: KV of a request that moves from stores to the HBM of its instance, while it queues or as it is admitted."""

import math

import numpy as np

from replay.engine.disk import put
from replay.engine.inserting import insert
from replay.engine.jit import inlined, kernel
from replay.engine.kvcache import deepest_resident, pin_path, release_path, resident_blocks, row_of, usable_tokens
from replay.engine.phases import growth_now
from replay.engine.planning import (
    compute_s,
    find_parts,
    is_there,
    keep_tiers,
    part_times,
    plan,
    seen_blocks,
    whole_units,
)
from replay.engine.schema import NONE
from replay.engine.shipping import carried_blocks, expected_end_ps, send_load
from replay.engine.tier_schema import LOAD_OVER, LOADED, LOADING, MOST_PARTS, PENDING_LOAD, TIMEOUT
from replay.engine.timers import push_timer

MOST_BLOCKS = 1 << 30


@kernel
def plan_at_dispatch(state, r, i):
    """Plan the load of request r to instance i and start or queue it, in place; returns 1 if r waits for it."""
    cluster = state.cluster[0]
    load = state.hierarchy.loads[r]
    if load.under_way:  # to an instance that it left since it was lost
        return 0
    wanted, wait_s = plan(state, r, i)
    if not wanted:
        return 0
    instance = state.instances[i]
    if instance.loads < cluster.in_flight:
        start(state, r, i)
    else:
        load.state = PENDING_LOAD
        load.instance = i
        load.listed = 1
        load.next = NONE
        if instance.pending_tail < 0:
            instance.pending_head = r
        else:
            state.hierarchy.loads[instance.pending_tail].next = r
        instance.pending_tail = r
    if wait_s == 0.0:
        return 0
    load.waits = 1
    load.timeout = 0
    if wait_s != math.inf:
        wait_ps = np.int64(np.rint(min(wait_s, 9e6) * 1e12))
        push_timer(state, cluster.now_ps + wait_ps, TIMEOUT, r)
        load.timeout = cluster.timer_sequence
    return 1


@kernel
def start(state, r, i):
    """Start the load of request r to instance i: cards and media are busy with it, sources pinned, in place."""
    cluster = state.cluster[0]
    hierarchy = state.hierarchy
    load = hierarchy.loads[r]
    load.instance = i
    load.issued_ps = cluster.now_ps
    load.end_ps = cluster.now_ps
    load.starts += 1
    load.transfers = 0
    hot = False
    for k in range(load.count):
        part_times(state, r, k, 1)
        part = hierarchy.parts[MOST_PARTS * r + k]
        store = hierarchy.stores[part.store]
        if cluster.fabric:
            send_load(state, r, k, i)
        elif part.card >= 0:
            card = hierarchy.stores[part.card]
            card.read_busy_ps += card.read_block_fs * (part.upto_blocks - part.from_blocks) // 1000
            card.read_free_ps = part.card_ps
        if part.epoch == store.epoch:
            pin_path(state, cluster.num_instances + part.store, part.pin)
        store.reads += 1
        store.read_blocks += part.upto_blocks - part.from_blocks
        load.end_ps = max(load.end_ps, part.end_ps)
        hot = hot or (store.tier == 1 and store.server < 0)
    load.load_ps = load.end_ps - cluster.now_ps
    load.state = LOADING
    if hot:
        hierarchy.keys[hierarchy.keys[state.jobs[r].leaf].key].reads += 1
    state.instances[i].loads += 1
    load.under_way = 1
    if load.transfers == 0:
        push_timer(state, load.end_ps, LOADED, r)
        load.timer = cluster.timer_sequence


@kernel
def arrived_blocks(state, r):
    """Return the blocks of the prompt of request r that are in HBM or have arrived by now, one after the other."""
    hierarchy = state.hierarchy
    load = hierarchy.loads[r]
    now_ps = state.cluster[0].now_ps
    arrived = load.base_blocks
    for k in range(load.count):
        part = hierarchy.parts[MOST_PARTS * r + k]
        if state.cluster[0].fabric:
            if part.transfer >= 0 or part.end_ps > now_ps:
                return arrived + carried_blocks(state, part)
        elif part.end_ps > now_ps:
            store = hierarchy.stores[part.store]
            end_ps = part.end_ps if store.disk >= 0 else part.end_ps - store.latency_ps
            elapsed_ps = min(now_ps, end_ps) - part.start_ps
            whole_ps = end_ps - part.start_ps
            while whole_ps >= 1 << 40:  # keeps the product inside int64; exact for loads of up to a second
                whole_ps >>= 1
                elapsed_ps >>= 1
            if elapsed_ps > 0:
                arrived += (part.upto_blocks - part.from_blocks) * elapsed_ps // whole_ps
            break
        arrived = part.upto_blocks
    return arrived


@kernel
def conclude(state, r, i):
    """Settle what request r, about to be admitted on instance i, has of its load. Modified in place.

    What has arrived enters the HBM, and the rest is given up; with overlap it may be counted and waited for layer by
    layer. Without prefetch the load starts only now. A load that is counted stands until its request is admitted.
    """
    cluster = state.cluster[0]
    load = state.hierarchy.loads[r]
    load.counted_blocks = 0
    leaf = state.jobs[r].leaf
    if leaf < 0 or state.jobs[r].scheduled_ps >= 0 and not load.anew:
        return
    if not cluster.prefetch and not load.under_way and load.landed_blocks < 0:
        wanted, _ = plan(state, r, i)
        if not wanted:
            return
        start(state, r, i)
    if load.state == LOAD_OVER:
        return
    seen = seen_blocks(state, leaf, i) >= load.base_blocks
    if not cluster.prefetch:
        if seen:
            load.counted_blocks = load.upto_blocks
        else:
            load.state = LOAD_OVER
        return
    if load.state == PENDING_LOAD or not seen:
        load.state = LOAD_OVER
        return
    arrived = arrived_blocks(state, r)
    if cluster.overlap and worth_waiting(state, r, i, arrived):
        load.counted_blocks = load.upto_blocks
        return
    load.state = LOAD_OVER
    arrived = whole_units(state, min(arrived, end_with_room(state, i, leaf)))
    if arrived > load.base_blocks:
        insert(state, i, leaf, arrived, 1)
        load.landed_blocks = arrived


@kernel
def end_with_room(state, i, leaf):
    """Return up to which block of a path KV may enter instance i, about to begin an iteration, beside its decodes.

    What extends a node that somebody holds in part is held too: it must not take what the decodes need next.
    """
    view = state.views[i]
    node = deepest_resident(state.cache, leaf, i)
    s = row_of(state.cache, node, i) if node >= 0 else NONE
    if s < 0 or state.cache.slots[s].pins == 0 or state.cache.slot_of[node, i] >= 0:
        return MOST_BLOCKS
    have = resident_blocks(state.cache, node, i)
    return have + max(0, view.free_blocks + view.cached_blocks - growth_now(state, i))


@inlined
def worth_waiting(state, r, i, arrived):
    """Whether what request r still loads is there before it could be computed on instance i."""
    load = state.hierarchy.loads[r]
    view = state.views[i]
    context = state.requests[r].prompt_tokens + state.requests[r].generated_tokens
    first = usable_tokens(state, arrived, context, view.block_tokens)
    last = usable_tokens(state, load.upto_blocks, context, view.block_tokens)
    end_ps = expected_end_ps(state, r) if state.cluster[0].fabric else load.end_ps
    return (end_ps - state.cluster[0].now_ps) * 1e-12 <= compute_s(view, first, last)


@kernel
def release_parts(state, r):
    """Let go of what the load of request r holds on stores; what came from disk may enter the DRAM above. In place."""
    cluster = state.cluster[0]
    hierarchy = state.hierarchy
    load = hierarchy.loads[r]
    leaf = state.jobs[r].leaf
    for k in range(load.count):
        part = hierarchy.parts[MOST_PARTS * r + k]
        store = hierarchy.stores[part.store]
        comes = cluster.promote and store.disk >= 0 and part.upto_blocks > part.from_blocks
        if comes and part.card >= 0 and is_there(state, part.card):
            c = cluster.num_prefill + part.card
            raw = resident_blocks(state.cache, deepest_resident(state.cache, leaf, c), c)
            if not hierarchy.stores[part.card].leaving and raw >= part.from_blocks:
                put(state, part.card, leaf, part.upto_blocks, 1)
        if part.epoch == store.epoch:
            release_path(state, cluster.num_instances + part.store, part.pin)


@kernel
def land_load(state, r, i):
    """End the load of request r to instance i, modified in place; returns whether KV entered the HBM."""
    load = state.hierarchy.loads[r]
    standing = load.state == LOADING
    release_parts(state, r)
    state.instances[i].loads -= 1
    load.under_way = 0
    load.counted_blocks = 0
    if not standing:
        return 0
    load.state = LOAD_OVER
    leaf = state.jobs[r].leaf
    if seen_blocks(state, leaf, i) < load.base_blocks:
        return 0
    insert(state, i, leaf, load.upto_blocks, 1)
    load.landed_blocks = load.upto_blocks
    return 1


@kernel
def start_pending(state, i):
    """Start loads that wait for others to instance i to end, in place; returns a request that need not wait any more.

    What they load is found anew: stores changed meanwhile. -1 when there is no such request.
    """
    instance = state.instances[i]
    while instance.pending_head >= 0 and instance.loads < state.cluster[0].in_flight:
        r = instance.pending_head
        load = state.hierarchy.loads[r]
        instance.pending_head = load.next
        load.listed = 0
        if load.next < 0:
            instance.pending_tail = NONE
        if load.state != PENDING_LOAD:
            continue
        find_parts(state, r, i)
        if keep_tiers(state, r):
            start(state, r, i)
        else:
            load.state = LOAD_OVER
            if load.waits:
                return r
    return NONE


@kernel
def cut_load(state, s):
    """Cut the first load under way that reads store s to what has arrived, in place; returns its request or -1."""
    hierarchy = state.hierarchy
    for r in range(len(hierarchy.loads)):
        load = hierarchy.loads[r]
        if not load.under_way:
            continue
        for k in range(load.count):
            part = hierarchy.parts[MOST_PARTS * r + k]
            if part.store == s and part.epoch == hierarchy.stores[s].epoch:
                cut_parts(state, r)
                return r
    return NONE


@kernel
def cut_parts(state, r):
    """Let the load of request r end now with what has arrived, modified in place."""
    load = state.hierarchy.loads[r]
    arrived = arrived_blocks(state, r)
    for k in range(load.count):
        part = state.hierarchy.parts[MOST_PARTS * r + k]
        left = part.upto_blocks - max(part.from_blocks, min(part.upto_blocks, arrived))
        state.hierarchy.stores[part.store].cut_blocks += left
        part.upto_blocks -= left
    load.upto_blocks = arrived
    load.load_ps = state.cluster[0].now_ps - load.issued_ps
    load.end_ps = state.cluster[0].now_ps
    load.timer = 0

"""Pool nodes and disks that come and go: joining, draining, leaving at once, and what is lost."""

from replay.engine.compaction import wipe
from replay.engine.disk import put
from replay.engine.evicting import is_dead
from replay.engine.fabric_schema import DRAIN_KIND
from replay.engine.jit import inlined, kernel
from replay.engine.kvcache import deepest_resident, resident_blocks, row_of
from replay.engine.lifetime import drop_all
from replay.engine.placement import assign, take_no_more, take_share
from replay.engine.pool_nodes import node_left
from replay.engine.schema import NONE
from replay.engine.shipping import ship
from replay.engine.tier_schema import DEADLINE, DEPART, DRAIN, DRAINED, JOIN, NODES, NOTHING
from replay.engine.timers import push_timer


@kernel
def come_back(state, s):
    """Let store s, which was gone and is empty, be read and written again, modified in place."""
    store = state.hierarchy.stores[s]
    if not store.present:
        store.present = 1
        store.leaving = 0
        if s < state.cluster[0].num_shared:
            take_share(state, s)


@kernel
def change_store(state, k):
    """Carry out entry k of the schedule, in place; returns what the event loop has to do, and for which store."""
    entry = state.hierarchy.clock[k]
    s = entry.store
    store = state.hierarchy.stores[s]
    if entry.what == JOIN:
        come_back(state, s)
        return NOTHING
    if not store.present:
        return NOTHING
    return begin_drain(state, s, entry.deadline_ps) if entry.what == DRAIN else depart(state, s)


@kernel
def begin_drain(state, s, deadline_ps):
    """Start to move what store s holds to where it belongs from now on, in place; returns DEPART or NOTHING.

    deadline_ps : when it leaves with what it has not moved by then
    """
    store = state.hierarchy.stores[s]
    if not store.present or store.leaving:
        return NOTHING
    store.leaving = 1
    store.cursor = 0
    store.moving = NONE
    store.deadline_ps = deadline_ps
    take_no_more(state, s)
    push_timer(state, max(deadline_ps, state.cluster[0].now_ps), DEADLINE, s * 65536 + store.epoch % 65536)
    return drain_next(state, s)


@kernel
def drain_next(state, s):
    """Start to move the next node off store s, in place; returns DEPART if there is none, or NOTHING. O(trie nodes)."""
    cluster = state.cluster[0]
    hierarchy = state.hierarchy
    cache = state.cache
    store = hierarchy.stores[s]
    c = cluster.num_prefill + s
    while store.cursor < len(cache.nodes):
        node = store.cursor
        store.cursor += 1
        row = row_of(cache, node, c)
        if row < 0:
            continue
        slot = cache.slots[row]
        end = cache.nodes[node].start_blocks + slot.blocks
        to = assign(state, NODES, hierarchy.keys[hierarchy.keys[node].key].key) if cluster.num_shared > 0 else NONE
        if to < 0 or is_dead(state, row):
            continue
        there = raw_blocks(state, node, cluster.num_prefill + to)
        if there >= end or there < cache.nodes[node].start_blocks:
            continue
        target = hierarchy.stores[to]
        store.moving = node
        complete = slot.blocks == cache.nodes[node].blocks
        store.moving_end = -end if slot.whole and complete else end
        store.moving_to = to
        store.moving_epoch = target.epoch
        store.drained_blocks += slot.blocks
        moving = s * 65536 + store.epoch % 65536
        if cluster.fabric:
            ship(state, cluster.num_instances + s, cluster.num_instances + to, slot.blocks, DRAIN_KIND, moving)
            return NOTHING
        slower_fs = max(store.read_block_fs, target.write_block_fs)
        begin_ps = max(cluster.now_ps, store.read_free_ps, target.write_free_ps)
        end_ps = begin_ps + slower_fs * slot.blocks // 1000
        store.read_free_ps = end_ps
        target.write_free_ps = end_ps
        push_timer(state, end_ps, DRAINED, moving)
        return NOTHING
    return depart(state, s)


@inlined
def depart(state, s):
    """Let nobody read or write store s any more, in place; returns DEPART: what is under way is cut, then it goes."""
    store = state.hierarchy.stores[s]
    store.present = 0
    store.leaving = 0
    take_no_more(state, s)
    return DEPART


@kernel
def raw_blocks(state, node, c):
    """Return the blocks resident in column c on the path to a node, dead ones too."""
    return resident_blocks(state.cache, deepest_resident(state.cache, node, c), c)


@kernel
def drained(state, s):
    """Let the node that moved off store s enter its new home, and move the next, in place; as `drain_next`."""
    store = state.hierarchy.stores[s]
    target = state.hierarchy.stores[store.moving_to]
    node = store.moving
    there = raw_blocks(state, node, state.cluster[0].num_prefill + store.moving_to)
    if target.epoch == store.moving_epoch and there >= state.cache.nodes[node].start_blocks:
        put(state, store.moving_to, node, abs(store.moving_end), 1 if store.moving_end < 0 else 0)
    return drain_next(state, s)


@kernel
def leave(state, s):
    """Take store s away with all it holds, modified in place. O(trie nodes)."""
    store = state.hierarchy.stores[s]
    now_ps = state.cluster[0].now_ps
    before = store.lost_blocks
    drop_all(state, state.cluster[0].num_instances + s)
    if state.cluster[0].lives and s < state.cluster[0].num_shared:
        node_left(state, s, store.lost_blocks - before)
    store.epoch += 1
    store.read_free_ps = min(store.read_free_ps, now_ps)
    store.write_free_ps = min(store.write_free_ps, now_ps)
    if store.disk >= 0:
        wipe(state.hierarchy, store.disk, now_ps)

"""Writes: KV that goes from an HBM to stores when it is published or evicted, and from DRAM to the disk below."""

from replay.engine.disk import put
from replay.engine.evicting import ask_write
from replay.engine.fabric_schema import WRITE_KIND
from replay.engine.jit import kernel
from replay.engine.kvcache import pin_path, release_path, row_of, visible
from replay.engine.placement import homes
from replay.engine.schema import NONE
from replay.engine.shipping import ship
from replay.engine.tier_schema import WRITTEN
from replay.engine.timers import push_timer


@kernel
def begin_write(state, i, s, node, upto_blocks, whole):
    """Write the path to block `upto_blocks` of a trie node on instance i to store s, unless it is there or coming."""
    cluster = state.cluster[0]
    hierarchy = state.hierarchy
    if s < 0:
        return
    store = hierarchy.stores[s]
    if not store.present or store.leaving:
        return
    pinned, there = visible(state, node, cluster.num_prefill + s)
    if there >= upto_blocks:
        return
    free = NONE
    first = s * cluster.writes
    for w in range(first, first + min(store.writes_end + 1, cluster.writes)):
        write = hierarchy.writes[w]
        if not write.used:
            free = w if free < 0 else free
        elif write.node == node and write.upto_blocks >= upto_blocks and write.epoch == store.epoch:
            return
    if free < 0:
        store.dropped += 1
        store.dropped_blocks += upto_blocks - there
        return
    store.writes_end = max(store.writes_end, free - first + 1)
    write = hierarchy.writes[free]
    write.used = 1
    write.node = node
    write.source = i
    write.wipes = state.lives.life[i].wipes if cluster.lives else 0
    write.upto_blocks = upto_blocks
    write.base_blocks = there
    write.pin = pinned
    write.epoch = store.epoch
    write.whole = whole
    pin_path(state, cluster.num_instances + s, pinned)
    store.written += 1
    store.written_blocks += upto_blocks - there
    if cluster.fabric:
        ship(state, i, cluster.num_instances + s, upto_blocks - there, WRITE_KIND, free)
        return
    carry_ps = store.write_block_fs * (upto_blocks - there) // 1000
    store.write_free_ps = max(cluster.now_ps, store.write_free_ps) + carry_ps
    store.write_busy_ps += carry_ps
    push_timer(state, store.write_free_ps + store.latency_ps, WRITTEN, free)


@kernel
def end_write(state, w):
    """Let what write w carried enter its store, modified in place."""
    cluster = state.cluster[0]
    write = state.hierarchy.writes[w]
    s = w // cluster.writes
    store = state.hierarchy.stores[s]
    write.used = 0
    while store.writes_end > 0 and not state.hierarchy.writes[s * cluster.writes + store.writes_end - 1].used:
        store.writes_end -= 1
    if write.epoch != store.epoch:
        store.void_blocks += write.upto_blocks - write.base_blocks
        return
    release_path(state, cluster.num_instances + s, write.pin)
    _, there = visible(state, write.node, cluster.num_prefill + s)
    lost = cluster.lives and state.lives.life[write.source].wipes != write.wipes
    if there >= write.base_blocks and not lost:
        put(state, s, write.node, write.upto_blocks, write.whole)
    else:
        store.void_blocks += write.upto_blocks - write.base_blocks


@kernel
def write_path(state, i, node, upto_blocks, whole):
    """Write a path that instance i holds to the stores that are for it, modified in place."""
    cluster = state.cluster[0]
    private = state.instances[i].private_dram
    home, second = homes(state, node)
    begin_write(state, i, private, node, upto_blocks, whole)
    begin_write(state, i, home, node, upto_blocks, whole)
    begin_write(state, i, second, node, upto_blocks, whole)
    if private < 0 and cluster.num_shared == 0:
        begin_write(state, i, state.instances[i].local_disk, node, upto_blocks, whole)
        begin_write(state, i, cluster.common_store, node, upto_blocks, whole)


@kernel
def published(state, r, i):
    """Write what the write policy wants of the prompt of request r, just published on instance i. Modified in place."""
    cache = state.cache
    node = state.jobs[r].leaf
    while node >= 0:
        s = row_of(cache, node, i)
        slot = cache.slots[s]
        if ask_write(state, i, s, 0):
            write_path(state, i, node, cache.nodes[node].start_blocks + slot.blocks, slot.whole)
            return
        node = cache.nodes[node].parent


@kernel
def work_off_spills(state):
    """Take what was evicted in this event to the tier below, in order, modified in place; that may evict more."""
    cluster = state.cluster[0]
    k = 0
    while k < cluster.spilled:
        row = state.hierarchy.spills[k]
        k += 1
        if row.holder < cluster.num_instances:
            write_path(state, row.holder, row.node, row.end_blocks, row.whole)
            continue
        below = state.hierarchy.stores[row.holder - cluster.num_instances].below
        store = state.hierarchy.stores[below]
        if store.present and not store.leaving:
            inserted = state.instances[cluster.num_instances + below].inserted_blocks
            put(state, below, row.node, row.end_blocks, row.whole)
            came = state.instances[cluster.num_instances + below].inserted_blocks - inserted
            store.spilled_blocks += came
            if cluster.fabric and below == cluster.common_store and came > 0:
                ship(state, row.holder, cluster.num_instances + below, came, WRITE_KIND, NONE)
    cluster.spilled = 0

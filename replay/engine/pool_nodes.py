"""Shared DRAM nodes and servers of the store for all: they start, drain, fail and are off, as pools of scale policies.

Node k of `node_lives` is shared DRAM node k, whose local disk goes with it; those after them are the servers, which
carry the bandwidth of the store for all in equal parts. HIERARCHY.md, *Pools of nodes*.
"""

from replay.engine.eviction_queue import first_queued
from replay.engine.jit import inlined, kernel
from replay.engine.life_schema import DOWN, DRAINING, NODE_UP, OFF, STARTING, UP
from replay.engine.life_timers import cancel_timer, push_life
from replay.engine.lifecycle import mark, pass_to
from replay.engine.placement import take_no_more
from replay.engine.schema import NONE
from replay.engine.tier_schema import COMES, DRAINS, GOES, STAYS
from replay.policy import DRAM_NODES

PS = 1e-12


@inlined
def own_nodes(state, k):
    """Return the nodes of pool k: first, and the one after the last."""
    shared = state.cluster[0].num_shared
    first = 0 if state.lives.pools[k].role == DRAM_NODES else shared
    return first, shared if first == 0 and shared > 0 else len(state.lives.node_lives)


@kernel
def set_node(state, n, doing):
    """Let node n do something else from now on, modified in place; the store of all servers is as fast as these are."""
    pass_to(state, state.lives.node_lives[n], state.cluster[0].num_instances + n, doing)
    if n >= state.cluster[0].num_shared:
        share_out(state)


@kernel
def share_out(state):
    """Let the media of the store for all be as fast as the servers that are up, modified in place; with none as one."""
    cluster = state.cluster[0]
    hierarchy = state.hierarchy
    servers = len(state.lives.node_lives) - cluster.num_shared
    up = 0
    for n in range(cluster.num_shared, len(state.lives.node_lives)):
        up += 1 if state.lives.node_lives[n].state == UP else 0
    store = hierarchy.stores[cluster.common_store]
    store.write_block_fs = store.full_write_block_fs * servers // max(1, up)
    disk = hierarchy.disks[store.disk]
    for m in range(disk.media, disk.media + disk.media_count):
        medium = hierarchy.media[m]
        medium.op_ps = medium.full_op_ps * servers // max(1, up)
        medium.read_block_fs = medium.full_read_block_fs * servers // max(1, up)
        medium.write_block_fs = medium.full_write_block_fs * servers // max(1, up)


@kernel
def mark_node(state, n, fate):
    """Note that the DRAM of shared node n, and the local disk below it, go or come back in this event, in place."""
    mark(state, n, fate)
    below = state.hierarchy.stores[n].below
    if below >= 0 and state.hierarchy.stores[below].node >= 0:
        mark(state, below, fate)


@kernel
def node_left(state, n, blocks):
    """Note that shared DRAM node n lost so many blocks as it left; one that drained is off now. Modified in place."""
    node = state.lives.node_lives[n]
    node.cached_lost_blocks += blocks
    if node.state == DRAINING:
        node.cached_shrunk_blocks += blocks
        mark_node(state, n, GOES)
        state.hierarchy.stores[n].fate = STAYS
        set_node(state, n, OFF)


@kernel
def lose_node_of_pool(state, n, for_ps):
    """Let shared DRAM node n fail now, for so long, with all that it holds; as an instance does. Modified in place."""
    node = state.lives.node_lives[n]
    until_ps = state.cluster[0].now_ps + for_ps
    waits = node.state == STARTING or node.state == DOWN or node.state == OFF
    node.until_ps = max(node.until_ps, until_ps) if waits else until_ps
    if node.state == OFF:
        return
    node.crashes += 1
    mark_node(state, n, GOES)
    if node.state == DRAINING:
        set_node(state, n, OFF)
        return
    push_life(state, node.until_ps, NODE_UP, n)
    if node.state != DOWN:
        set_node(state, n, DOWN)


@kernel
def node_up(state, n):
    """Let node n be there, empty, if its start or repair is over now. Modified in place."""
    node = state.lives.node_lives[n]
    if (node.state != STARTING and node.state != DOWN) or node.until_ps != state.cluster[0].now_ps:
        return
    set_node(state, n, UP)
    if n < state.cluster[0].num_shared:
        mark_node(state, n, COMES)


@kernel
def count_nodes(state, k):
    """Fill in what pool k of nodes has now, modified in place. O(nodes)."""
    pool = state.lives.pools[k]
    first, last = own_nodes(state, k)
    pool.up = 0
    pool.starting = 0
    pool.draining = 0
    pool.down = 0
    used, total, age_s, cached = 0.0, 0.0, 0.0, 0.0
    for n in range(first, last):
        doing = state.lives.node_lives[n].state
        pool.up += 1 if doing == UP else 0
        pool.starting += 1 if doing == STARTING else 0
        pool.draining += 1 if doing == DRAINING else 0
        pool.down += 1 if doing == DOWN else 0
        if doing != UP or (pool.role != DRAM_NODES and pool.up > 1):  # all servers carry one store
            continue
        i = state.cluster[0].num_instances + (n if pool.role == DRAM_NODES else state.cluster[0].common_store)
        view = state.views[i]
        used += view.total_blocks - view.free_blocks
        total += view.total_blocks
        s = first_queued(state.cache, state.instances[i])
        if s >= 0:
            cached += view.cached_blocks
            age_s += (state.cluster[0].now_ps - state.cache.slots[s].last_used_ps) * PS * view.cached_blocks
    pool.kv_share = used / total if total > 0.0 else 0.0
    pool.tail_age_s = age_s / cached if cached > 0.0 else 0.0
    pool.held = state.cluster[0].held_count


@kernel
def measure_nodes(state, k):
    """Fill in what pool k of nodes read and how busy it was since it was last asked, and begin anew. In place."""
    cluster = state.cluster[0]
    pool = state.lives.pools[k]
    before = state.lives.asked[k]
    first, last = own_nodes(state, k)
    up_ps, reads, read_ps, write_ps, busy = 0, 0, 0, 0, 0.0
    for n in range(first, last):
        node = state.lives.node_lives[n]
        serves = node.state == UP or node.state == DRAINING
        up_ps += node.up_ps + (cluster.now_ps - node.since_ps if serves else 0)
        if pool.role == DRAM_NODES:
            reads += state.hierarchy.stores[n].read_blocks
            read_ps += state.hierarchy.stores[n].read_busy_ps
            write_ps += state.hierarchy.stores[n].write_busy_ps
    if pool.role == DRAM_NODES:
        if up_ps > before.up_ps:
            busy = max(read_ps - before.read_busy_ps, write_ps - before.write_busy_ps) / (up_ps - before.up_ps)
    else:
        store = state.hierarchy.stores[cluster.common_store]
        reads = store.read_blocks
        disk = state.hierarchy.disks[store.disk]
        for m in range(disk.media, disk.media + disk.media_count):
            medium = state.hierarchy.media[m]
            if cluster.now_ps > before.asked_ps:
                busy = max(busy, (medium.busy_ps - medium.asked_ps) / (cluster.now_ps - before.asked_ps))
            medium.asked_ps = medium.busy_ps
    pool.busy_share = busy
    pool.read_tokens = (reads - before.read_blocks) * state.views[0].block_tokens
    before.up_ps = up_ps
    before.read_blocks = reads
    before.read_busy_ps = read_ps
    before.write_busy_ps = write_ps


@kernel
def add_nodes(state, k, wanted):
    """Start up to `wanted` more nodes of pool k, lowest first; those that failed not before they are repaired."""
    first, last = own_nodes(state, k)
    for n in range(first, last):
        node = state.lives.node_lives[n]
        if wanted > 0 and node.state == OFF and node.until_ps <= state.cluster[0].now_ps:
            set_node(state, n, STARTING)
            node.starts += 1
            node.until_ps = state.cluster[0].now_ps + state.lives.setting[0].node_start_ps
            push_life(state, node.until_ps, NODE_UP, n)
            wanted -= 1


@kernel
def leaving_node(state, k):
    """Return the node of pool k to take away next: one that starts, else the one that holds the fewest blocks; or -1.

    Ties go to the highest node.
    """
    chosen = NONE
    fewest = 0
    first, last = own_nodes(state, k)
    for n in range(first, last):
        doing = state.lives.node_lives[n].state
        if doing != UP and doing != STARTING:
            continue
        held = 0
        if doing == STARTING:
            held = -1
        elif n < state.cluster[0].num_shared:
            view = state.views[state.cluster[0].num_instances + n]
            held = view.total_blocks - view.free_blocks
        if chosen < 0 or held <= fewest:
            chosen = n
            fewest = held
    return chosen


@kernel
def follow_nodes(state, k, target):
    """Bring pool k of nodes towards `target` of them, modified in place; DRAM drains, a server is off at once."""
    pool = state.lives.pools[k]
    active = pool.up + pool.starting
    if target > active:
        add_nodes(state, k, target - active)
    for _ in range(active - target):
        n = leaving_node(state, k)
        if n < 0:
            return
        if state.lives.node_lives[n].state == STARTING:
            cancel_timer(state, NODE_UP, n, state.lives.node_lives[n].until_ps)
            set_node(state, n, OFF)
        elif n < state.cluster[0].num_shared:
            set_node(state, n, DRAINING)
            take_no_more(state, n)
            mark(state, n, DRAINS)
        else:
            set_node(state, n, OFF)

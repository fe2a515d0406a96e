"""The prefix index: shards that take time to look up, and what a router believes is cached where."""

from replay.engine.jit import inlined, kernel
from replay.engine.kvcache import usable_tokens
from replay.engine.placement import assign
from replay.engine.tier_schema import LOOKED_UP, SHARDS
from replay.engine.timers import push_timer


@kernel
def look_up(state, r):
    """Send request r to the shard of its prefix; it is considered when that has served it. Modified in place."""
    cluster = state.cluster[0]
    leaf = state.jobs[r].leaf
    o = r % cluster.num_shards
    nodes = 0
    if leaf >= 0:
        o = assign(state, SHARDS, state.hierarchy.keys[leaf].key)
        nodes = state.cache.nodes[leaf].depth
    owner = state.hierarchy.owners[o]
    service_ps = cluster.lookup_ps + cluster.node_ps * nodes
    start_ps = max(cluster.now_ps, owner.free_ps)
    owner.free_ps = start_ps + service_ps
    owner.busy_ps += service_ps
    owner.wait_ps += start_ps - cluster.now_ps
    owner.lookups += 1
    load = state.hierarchy.loads[r]
    load.lookup_ps = owner.free_ps - cluster.now_ps
    load.shard = o
    load.stopped_ps = owner.stopped_ps
    push_timer(state, owner.free_ps, LOOKED_UP, r)


@kernel
def answered(state, r):
    """Whether the shard of request r is through with it: if it failed meanwhile, it comes later by that. In place."""
    load = state.hierarchy.loads[r]
    later_ps = state.hierarchy.owners[load.shard].stopped_ps - load.stopped_ps
    if later_ps == 0:
        return True
    load.stopped_ps += later_ps
    load.lookup_ps += later_ps
    push_timer(state, state.cluster[0].now_ps + later_ps, LOOKED_UP, r)
    return False


@kernel
def catch_up(state):
    """Let belief see the changes that are old enough, modified in place."""
    cluster = state.cluster[0]
    changes = state.hierarchy.changes
    while cluster.changes_begin < cluster.changes_end:
        row = changes[cluster.changes_begin % len(changes)]
        if row.time_ps > cluster.now_ps - cluster.lag_ps:
            return
        state.hierarchy.known[row.node, row.instance] = row.blocks
        cluster.changes_begin += 1


@inlined
def believed_blocks(state, node, i):
    """Return how many blocks of a node are believed to be on instance i."""
    cluster = state.cluster[0]
    known = state.hierarchy.known[node, i]
    if cluster.lagged:
        return known
    return state.cache.nodes[node].blocks if known >= 0 and cluster.now_ps < known + cluster.lag_ps else 0


@kernel
def believe(state, r):
    """Fill in what is believed cached of request r on every instance, in place. O(instances * path)."""
    cluster = state.cluster[0]
    if cluster.lagged:
        catch_up(state)
    nodes = state.cache.nodes
    leaf = state.jobs[r].leaf
    for i in range(cluster.num_prefill):
        blocks = nodes[leaf].start_blocks + nodes[leaf].blocks
        node = leaf
        while node >= 0:
            there = believed_blocks(state, node, i)
            if there < nodes[node].blocks:
                blocks = nodes[node].start_blocks + there
            node = nodes[node].parent
        prompt = state.requests[r].prompt_tokens
        state.prefill_views[i].hit_tokens = usable_tokens(state, blocks, prompt, state.views[i].block_tokens)


@kernel
def note_routed(state, r, i):
    """Believe from now on that instance i holds the whole path of request r, modified in place."""
    node = state.jobs[r].leaf
    while node >= 0:
        state.hierarchy.known[node, i] = state.cluster[0].now_ps
        node = state.cache.nodes[node].parent

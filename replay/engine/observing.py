"""What policies are told as a request comes: hits and blocks of the instances."""

from replay.engine.eviction_queue import first_queued
from replay.engine.fabric_schema import OP_SHOW
from replay.engine.jit import inlined, kernel
from replay.engine.kvcache import hit_tokens, resident_blocks, usable_tokens
from replay.engine.phases import settle
from replay.engine.schema import NONE
from replay.engine.state import address_of
from replay.engine.tier_schema import OP_BELIEVE


@kernel
def observe(state, r):
    """Bring what admit and route read up to date for request r, in place: blocks and hits, if they read them."""
    cluster = state.cluster[0]
    count = cluster.num_prefill
    if cluster.fabric and state.wires.net[0].route_reads_links:
        state.policies.fabric(address_of(state), OP_SHOW, NONE, r, 0, 0, 0)
    if cluster.reads_blocks:
        for i in range(count):
            settle(state, i)
    if not cluster.reads_hits:
        return
    if not cluster.plain_lookup or cluster.lagged or cluster.routed:
        observe_each(state, r)
        return
    cache = state.cache
    slot_of = cache.slot_of
    views = state.prefill_views
    job = state.jobs[r]
    prompt = state.requests[r].prompt_tokens
    for i in range(count):
        views[i].hit_tokens = NONE
    node = job.leaf if cluster.cache else NONE
    unknown = count
    while node >= 0 and unknown > 0:
        end = cache.nodes[node].start_blocks + cache.nodes[node].blocks
        for i in range(count):
            s = slot_of[node, i]
            if s != NONE and views[i].hit_tokens < 0:
                unknown -= 1
                if eviction_may_reach(state, i, node):
                    settle(state, i)
                    views[i].hit_tokens = hit_tokens(state, node, i, prompt, views[i].block_tokens)
                elif s >= 0:
                    views[i].hit_tokens = usable_tokens(state, end, prompt, views[i].block_tokens)
                else:
                    blocks = resident_blocks(cache, node, i)
                    views[i].hit_tokens = usable_tokens(state, blocks, prompt, views[i].block_tokens)
        node = cache.nodes[node].parent
    for i in range(count):
        views[i].hit_tokens = max(views[i].hit_tokens, 0)


@kernel
def observe_each(state, r):
    """Fill in what is believed cached of request r on every instance, one by one, in place."""
    cluster = state.cluster[0]
    views = state.prefill_views
    leaf = state.jobs[r].leaf if cluster.cache else NONE
    if (cluster.lagged or cluster.routed) and leaf >= 0:
        state.policies.tiers(address_of(state), OP_BELIEVE, r, 0)
        return
    for i in range(cluster.num_prefill):
        settle(state, i)
        prompt = state.requests[r].prompt_tokens
        views[i].hit_tokens = hit_tokens(state, leaf, i, prompt, views[i].block_tokens) if leaf >= 0 else 0


@inlined
def eviction_may_reach(state, i, node):
    """Whether blocks that decodes of instance i took since it was settled may have come from `node` or above it.

    They come out of the head of the eviction queue; nodes above `node` leave after it.
    """
    instance = state.instances[i]
    if instance.left <= 1 or not instance.may_evict:
        return False
    elapsed_ps = state.cluster[0].now_ps - instance.start_ps
    first = first_queued(state.cache, instance)
    if elapsed_ps < instance.base_ps or first < 0:
        return False
    head = state.cache.slots[first]
    if head.node == node:
        return True
    # at most elapsed / base iterations began, and each request takes a block every block_tokens of them, or one sooner;
    # in floating point, free of divisions, rounded up
    cycle_ps = float(state.views[i].block_tokens) * instance.base_ps
    return 1.000001 * state.views[i].decoding * (elapsed_ps + cycle_ps) > head.blocks * cycle_ps

"""What policies are told as a request comes: hits and blocks of the instances."""

import math

from replay.engine.eviction_queue import first_queued
from replay.engine.fabric_schema import OP_SHOW
from replay.engine.jit import inlined, kernel
from replay.engine.kvcache import hit_tokens, resident_blocks, usable_tokens
from replay.engine.phases import settle
from replay.engine.schema import NONE, RUNNING
from replay.engine.slots import generated_now
from replay.engine.state import address_of
from replay.engine.tier_schema import OP_BELIEVE


@kernel
def show_counts(state, i):
    """Bring the counts of instance i that policies read, blocks and contexts, up to date, in place."""
    settle(state, i)
    view = state.views[i]
    view.in_flight = view.waiting + view.running
    view.kv_tokens = state.instances[i].kv_tokens


@kernel
def show_pace(state, i):
    """Fill in what a batch policy reads of the pace of the decoding requests on instance i, in place. O(batch).

    A request's token k is due at its arrival + TTFT target + k * ITL target (TPOT target where that is less).
    """
    view = state.views[i]
    view.kv_tokens = state.instances[i].kv_tokens
    view.least_itl_s = math.inf
    view.slack_s = math.inf
    for tier in range(state.tiers.shape[1]):
        if state.tiers[i, tier] > 0:
            view.least_itl_s = min(view.least_itl_s, state.asking.targets[tier].itl_s)
    for slot in range(view.decoding):
        r = state.batch[i, RUNNING, slot]
        request = state.requests[r]
        target = state.asking.targets[request.tier]
        pace_s = min(target.itl_s, target.tpot_s)
        due_s = target.ttft_s + generated_now(state, i, slot) * pace_s
        view.slack_s = min(view.slack_s, due_s - (state.cluster[0].now_ps - request.arrival_ps) * 1e-12)


@kernel
def tell_own(state):
    """Bring up to date what routers count themselves, where all else that they are told is old, in place."""
    for i in range(state.cluster[0].num_instances):
        state.asking.told[i].sent = state.views[i].sent
        state.asking.told[i].in_flight = state.views[i].waiting + state.views[i].running


@inlined
def copy_view(state, i):
    """Copy what instance i reports into what routers are told, in place; hits and links are told elsewhere."""
    told = state.asking.told[i]
    view = state.views[i]
    told.waiting = view.waiting
    told.running = view.running
    told.decoding = view.decoding
    told.free_blocks = view.free_blocks
    told.cached_blocks = view.cached_blocks
    told.queued_tokens = view.queued_tokens
    told.waiting_tokens = view.waiting_tokens
    told.kv_tokens = view.kv_tokens


@kernel
def take_signals(state, time_ps):
    """Take what instances report at the last tick up to time_ps, before which nothing else happens, in place.

    source : engines publish their metrics at intervals; llm-d scrapes every 50 ms, vLLM's router every 100 ms
    """
    cluster = state.cluster[0]
    tick_ps = time_ps - time_ps % cluster.signal_lag_ps
    before_ps = cluster.now_ps
    passed = cluster.passed
    if tick_ps > before_ps:
        cluster.now_ps = tick_ps
        cluster.passed = NONE
    for i in range(cluster.num_instances):
        show_counts(state, i)
        copy_view(state, i)
    cluster.now_ps = before_ps
    cluster.passed = passed
    cluster.signal_ps = tick_ps + cluster.signal_lag_ps


@kernel
def observe(state, r):
    """Bring what admit and route read up to date for request r, in place: blocks and hits, if they read them."""
    cluster = state.cluster[0]
    count = cluster.num_prefill
    if cluster.fabric and state.wires.net[0].route_reads_links:
        state.policies.fabric(address_of(state), OP_SHOW, NONE, r, 0, 0, 0)
    if cluster.signals:
        tell_own(state)
    elif cluster.reads_blocks:
        for i in range(cluster.num_instances if cluster.admit_reads_decodes else count):
            show_counts(state, i)
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

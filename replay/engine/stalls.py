"""Loads that an admission meets: what counts as hit while it loads, and how long its iteration waits for it."""

from replay.engine.jit import inlined, kernel
from replay.engine.kvcache import usable_tokens
from replay.engine.tier_schema import LOAD_OVER, MOST_PARTS


@inlined
def may_load(state, r):
    """Whether request r has a load, or may still start one, that must be settled before it is admitted."""
    return state.hierarchy.loads[r].state != LOAD_OVER or not state.cluster[0].prefetch


@inlined
def counted_blocks(state, r):
    """Return the blocks of request r taken as a hit while they still load or as they came from a replica, or 0."""
    counted = state.hierarchy.loads[r].counted_blocks if state.cluster[0].tiered else 0
    if state.cluster[0].lives:
        return max(counted, state.lives.losses[r].restored_blocks)
    return counted


@kernel
def credit_tiers(state, i, r):
    """Say of request r, first admitted on instance i, which hit tokens came through DRAM and from disk, in place."""
    load = state.hierarchy.loads[r]
    hit = state.jobs[r].hit_tokens
    context = state.requests[r].prompt_tokens
    block_tokens = state.views[i].block_tokens
    for k in range(load.count if load.landed_blocks >= 0 else 0):
        part = state.hierarchy.parts[MOST_PARTS * r + k]
        upto = min(part.upto_blocks, load.landed_blocks)
        if upto > part.from_blocks:
            first = min(hit, usable_tokens(state, part.from_blocks, context, block_tokens))
            tokens = min(hit, usable_tokens(state, upto, context, block_tokens)) - first
            if state.hierarchy.stores[part.store].tier == 1:
                load.dram_tokens += tokens
            else:
                load.disk_tokens += tokens


@inlined
def begin_stall(state, i, r):
    """Note how long the iteration about to begin waits for what request r, just admitted, still loads, in place."""
    load = state.hierarchy.loads[r]
    instance = state.instances[i]
    stall_ps = load.end_ps - state.cluster[0].now_ps
    load.anew = 0
    if load.counted_blocks == 0:
        return
    if state.cluster[0].fabric:
        if load.under_way:
            load.awaited = 1
            instance.awaited_loads += 1
    elif stall_ps > instance.stall_ps:
        instance.stall_ps = stall_ps
        instance.stall_request = r
    load.counted_blocks = 0
    load.state = LOAD_OVER
    load.landed_blocks = load.upto_blocks


@inlined
def stalled_ps(state, i, base_ps):
    """Return how long an iteration takes that waits for KV, layer by layer or as a whole. Modified in place.

    source : layer-wise overlap as in CachedAttention (Gao et al., ATC 2024) and Mooncake (FAST 2025)
    """
    instance = state.instances[i]
    longer_ps = base_ps + instance.stall_ps
    if state.cluster[0].overlap:
        layers = state.cost.profiles[instance.profile].layers
        longer_ps = max(base_ps, instance.stall_ps + base_ps // layers)
    state.hierarchy.loads[instance.stall_request].exposed_ps += longer_ps - base_ps
    instance.stall_ps = 0
    return longer_ps

"""The start of a phase: how many iterations the batch stays the same, what they cost, when they end; steps 6 and 7."""

import numpy as np

from replay.engine.drafting_schema import OP_COST
from replay.engine.jit import inlined, kernel
from replay.engine.kvcache import take_private
from replay.engine.notes import fault
from replay.engine.phases import growth_need, growth_now
from replay.engine.preemption import head_preempts
from replay.engine.ranks import plan
from replay.engine.schema import MAX_LEAP, MAX_TIME_PS, NEVER_PS, TIME_RANGE
from replay.engine.stalls import stalled_ps
from replay.engine.state import address_of
from replay.engine.timing import iteration_cost, leap_ps
from replay.engine.tree import set_event


@inlined
def comes_late(state, i, r):
    """Whether the next batch of instance i, formed before this moment, may lack request r only for that reason."""
    instance = state.instances[i]
    return instance.late_places > 0 or instance.late_blocks > 0 or state.jobs[r].queued_ps > instance.seen_ps


@kernel
def restless(state, i, pressed):
    """Whether the next iteration's batch may differ although nothing arrives or finishes: no leap is allowed then."""
    instance = state.instances[i]
    if pressed:
        return True
    if instance.queue < 0 and instance.prefill_head < 0:
        return False
    if state.cluster[0].batch_reads_blocks or state.cluster[0].rekeys and instance.queue >= 0:
        return True
    if state.cluster[0].plans_ahead and instance.queue >= 0 and comes_late(state, i, instance.queue):
        return True
    return head_preempts(state, i) >= 0


@inlined
def leap_length(state, i, straight, base_ps, growth_ps):
    """Return for how many iterations the decodes of instance i stay the same, fit, and cost an affine time."""
    instance = state.instances[i]
    view = state.views[i]
    count = min(instance.next_finish - instance.iteration, straight, MAX_LEAP)
    if base_ps > 1 << 40:
        count = min(count, max(1, (1 << 56) // base_ps))
    if growth_ps > 1 << 28:
        count = min(count, 1024)
    # where somebody sees evictions, none may happen unseen within a leap
    room = view.free_blocks + (0 if state.cluster[0].exact_evictions else view.cached_blocks)
    if view.decoding * (count + view.block_tokens) <= room * np.int64(view.block_tokens):
        return count  # a bound without a division; nearly always enough
    low = 1  # the decodes' blocks of one iteration fit: make_room saw to it, and they are taken at once
    while low < count:
        middle = (low + count + 1) >> 1
        if growth_need(state, i, 0, middle) <= room:
            low = middle
        else:
            count = middle - 1
    return low


@inlined
def begin_phase(state, i, given, squares, decodes, pressed):
    """Start the iterations of instance i at now, or let it be idle. Modified in place."""
    instance = state.instances[i]
    view = state.views[i]
    special = state.cluster[0].special
    if special and state.cluster[0].in_step:
        plan(state, i, given, squares, decodes)
        return
    now_ps = state.cluster[0].now_ps
    leaf = state.cluster[0].num_instances + i
    if given == 0 and not decodes:
        instance.left = 0
        instance.end_ps = NEVER_PS
        set_event(state.tree, leaf, NEVER_PS)
        return
    decoding = view.decoding if decodes else 0
    kv_tokens = instance.kv_tokens if decodes else 0
    base_ps, growth_ps, straight = iteration_cost(state.cost, instance.profile, given, decoding, kv_tokens, squares)
    drafts = special and decodes and state.cluster[0].draft_tokens > 0
    if drafts:
        base_ps += state.policies.drafting(address_of(state), OP_COST, given, i)
    base_ps = max(base_ps, 1)
    if instance.stall_ps > 0:
        base_ps = stalled_ps(state, i, base_ps)
    count = 1
    if given == 0 and state.cluster[0].leap and not drafts and not restless(state, i, pressed):
        count = leap_length(state, i, straight, base_ps, growth_ps)
    instance.start_ps = now_ps
    instance.base_ps = base_ps
    instance.growth_ps = growth_ps if decodes else 0
    instance.left = count
    instance.phase_prefill_tokens = given
    instance.decodes = 1 if decodes else 0
    instance.may_evict = 0
    if decodes:
        instance.gap_ps = now_ps - instance.last_decode_ps
        instance.may_evict = decoding * (count + 2 * view.block_tokens) > view.free_blocks * np.int64(view.block_tokens)
        blocks = growth_now(state, i)
        if blocks > 0:
            take_private(state, i, blocks)
    duration_ps = leap_ps(base_ps, instance.growth_ps, count)
    if duration_ps > MAX_TIME_PS - now_ps:
        fault(state, TIME_RANGE, i, 0)
    instance.end_ps = now_ps + duration_ps
    set_event(state.tree, leaf, instance.end_ps)

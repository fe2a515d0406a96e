"""Phases: iterations of an unchanged batch, taken in one leap and settled wherever somebody looks.

A phase of `left` iterations costs base_ps, base_ps + growth_ps, ... Settling applies the iterations that are over and
moves the start of the phase forward; the rest of the phase is unchanged: settling twice or never gives the same bytes.
"""

import numpy as np

from replay.engine.accounts import charge_decodes
from replay.engine.drafting_schema import OP_JOIN, OP_LEAVE
from replay.engine.jit import inlined, kernel
from replay.engine.kvcache import take_private
from replay.engine.schema import (
    BINS_PER_OCTAVE,
    FINISH_AT,
    LAST_TOKEN,
    MAX_GAP,
    NONE,
    RUNNING,
)
from replay.engine.slots import block_part, due_at, generated_now, whole_blocks
from replay.engine.state import address_of
from replay.engine.timing import leap_count, leap_ps
from replay.engine.tree import set_event

MANTISSA_SHIFT = 52 - 6  # 2**6 = BINS_PER_OCTAVE


@inlined
def gap_bin(gap_ps):
    """Return the histogram bin of a gap: lower edge 2**e * (1 + m/64) for bin 64 e + m."""
    return (np.float64(gap_ps).view(np.int64) >> MANTISSA_SHIFT) - 1023 * BINS_PER_OCTAVE


@kernel
def count_gaps(state, i, base_ps, growth_ps, count):
    """Add `count` gaps of every decoding request of instance i to the histograms, modified in place.

    The gaps are base_ps, base_ps + growth_ps, ...; cost O(bins crossed).
    """
    histogram = state.histogram
    done = 0
    while done < count:
        gap_ps = base_ps + growth_ps * done
        where = gap_bin(gap_ps)
        run = count - done
        if growth_ps > 0 and gap_bin(base_ps + growth_ps * (count - 1)) != where:
            low = 1
            while low < run:  # the longest run that stays in this bin
                middle = (low + run + 1) >> 1
                if gap_bin(gap_ps + growth_ps * (middle - 1)) == where:
                    low = middle
                else:
                    run = middle - 1
            run = low
        for tier in range(state.tiers.shape[1]):
            requests = state.tiers[i, tier]
            if requests > 0:
                histogram[tier, where] += requests * run
        done += run


@kernel
def keep_gaps(state, i, base_ps, growth_ps, count):
    """Write down the next `count` gaps of every decoding request of instance i, modified in place. O(gaps)."""
    for slot in range(state.views[i].decoding):
        first = state.gap_first[state.batch[i, RUNNING, slot]] + generated_now(state, i, slot) - 1
        for k in range(count):
            state.gaps[first + k] = base_ps + growth_ps * k
        last_ps = state.batch[i, LAST_TOKEN, slot]
        if last_ps >= 0:  # its last token came at another time: the first gap is its own
            state.gaps[first] = state.instances[i].start_ps + state.instances[i].base_ps - last_ps


@kernel
def add_pause(state, i, gap_ps):
    """Lengthen the gap just written of the requests of instance i that decoded before a pause. Modified in place."""
    for slot in range(state.views[i].decoding):
        if state.batch[i, LAST_TOKEN, slot] < 0:
            first = state.gap_first[state.batch[i, RUNNING, slot]]
            state.gaps[first + generated_now(state, i, slot) - 1] += gap_ps


@kernel
def count_first(state, i, now_ps, gap_ps):
    """Count the first gap of a phase, where some requests got their last token at another time. Modified in place.

    now_ps : end of the iteration; gap_ps : the gap of all requests that decoded in the iteration of decodes before
    """
    instance = state.instances[i]
    count_gaps(state, i, gap_ps, 0, 1)
    for slot in range(state.views[i].decoding):
        last_ps = state.batch[i, LAST_TOKEN, slot]
        own_ps = gap_ps
        if last_ps >= 0:
            own_ps = now_ps - last_ps
            tier = state.requests[state.batch[i, RUNNING, slot]].tier
            state.histogram[tier, gap_bin(gap_ps)] -= 1
            state.histogram[tier, gap_bin(own_ps)] += 1
            state.batch[i, LAST_TOKEN, slot] = NONE
        if state.batch[i, MAX_GAP, slot] < own_ps:
            state.batch[i, MAX_GAP, slot] = own_ps
    instance.fresh = 0
    instance.gap_ps = 0


@inlined
def growth_now(state, i):
    """Return the KV blocks that the decodes of instance i need for their next iteration."""
    return state.growth[i, state.instances[i].residue]


@kernel
def growth_need(state, i, skip, count):
    """Return the KV blocks that decodes of instance i need in `count` iterations, after the next `skip` ones.

    cost : O(min(count, block_tokens))
    """
    block_tokens = state.growth.shape[1]
    blocks = 0
    if count >= block_tokens:
        rest = block_part(state, count)
        blocks = whole_blocks(state, count - rest) * state.views[i].decoding
        count = rest
    where = state.instances[i].residue + skip
    for _ in range(count):
        if where >= block_tokens:
            where -= block_tokens
        blocks += state.growth[i, where]
        where += 1
    return blocks


@inlined
def settle_iterations(state, i, count):
    """Apply `count` iterations of the phase in progress on instance i, modified in place."""
    instance = state.instances[i]
    view = state.views[i]
    base_ps = instance.base_ps
    growth_ps = instance.growth_ps
    elapsed_ps = leap_ps(base_ps, growth_ps, count)
    if instance.decodes:
        first = 0
        if state.cluster[0].gaps:
            keep_gaps(state, i, base_ps, growth_ps, count)
            if instance.gap_ps > 0:
                add_pause(state, i, instance.gap_ps)
        if instance.fresh > 0 or instance.gap_ps > 0:
            count_first(state, i, instance.start_ps + base_ps, base_ps + instance.gap_ps)
            first = 1
        if count > first:
            longest = base_ps + growth_ps * (count - 1)
            where = gap_bin(base_ps + growth_ps * first)
            if gap_bin(longest) == where:  # nearly always
                for tier in range(state.tiers.shape[1]):
                    state.histogram[tier, where] += state.tiers[i, tier] * (count - first)
            else:
                count_gaps(state, i, base_ps + growth_ps * first, growth_ps, count - first)
            batch = state.batch
            for slot in range(view.decoding):
                batch[i, MAX_GAP, slot] = max(batch[i, MAX_GAP, slot], longest)
        following = min(count, instance.left - 1)  # blocks of the iterations that have begun since
        if following > 0:
            blocks = growth_need(state, i, 1, following)
            if blocks > 0:
                take_private(state, i, blocks)
        instance.iteration += count
        residue = instance.residue + count
        block_tokens = state.growth.shape[1]
        instance.residue = residue if residue < block_tokens else block_part(state, residue)
        instance.kv_tokens += np.int64(view.decoding) * count
        instance.tokens_out += np.int64(view.decoding) * count
        if state.cluster[0].fair:
            charge_decodes(state, i, count)
        instance.last_decode_ps = instance.start_ps + elapsed_ps
    instance.start_ps += elapsed_ps
    instance.busy_ps += elapsed_ps
    instance.iterations += count
    instance.base_ps += growth_ps * count
    instance.left -= count


@kernel
def settle(state, i):
    """Bring instance i up to now: apply the iterations of its leap that are over. Modified in place.

    An iteration that ends just now is over if the event of instance i at this time would have been handled already.
    """
    instance = state.instances[i]
    if instance.left <= 1:
        return
    cluster = state.cluster[0]
    elapsed_ps = cluster.now_ps - instance.start_ps
    if i > cluster.passed:
        elapsed_ps -= 1
    if elapsed_ps < instance.base_ps:
        return
    count = leap_count(instance.base_ps, instance.growth_ps, elapsed_ps)
    settle_iterations(state, i, min(count, instance.left - 1))


@kernel
def cut(state, i):
    """End the leap of instance i with the iteration in progress, so that its batch is seen again. Modified in place."""
    settle(state, i)
    instance = state.instances[i]
    if instance.left > 1:
        instance.left = 1
        instance.end_ps = instance.start_ps + instance.base_ps
        set_event(state.tree, state.cluster[0].num_instances + i, instance.end_ps)


@inlined
def change_count(state, i):
    """Add the time since the last change to the instance's request-seconds, before `waiting` or `running` changes."""
    instance = state.instances[i]
    view = state.views[i]
    now_ps = state.cluster[0].now_ps
    elapsed_s = (now_ps - instance.changed_ps) * 1e-12
    instance.waiting_area += elapsed_s * view.waiting
    instance.running_area += elapsed_s * view.running
    instance.changed_ps = now_ps


@inlined
def join_decode(state, i, r):
    """Put request r, whose context is complete, among the decoding requests of instance i. Modified in place."""
    instance = state.instances[i]
    view = state.views[i]
    request = state.requests[r]
    job = state.jobs[r]
    slot = view.decoding
    context = request.prompt_tokens + request.generated_tokens
    if slot == 0:
        instance.last_decode_ps = job.last_token_ps
    fresh = job.last_token_ps != instance.last_decode_ps
    state.batch[i, MAX_GAP, slot] = job.max_itl_ps
    state.batch[i, RUNNING, slot] = r
    state.batch[i, LAST_TOKEN, slot] = job.last_token_ps if fresh else NONE
    if fresh:
        instance.fresh += 1
    finish_at = instance.iteration + job.output_tokens - request.generated_tokens
    state.batch[i, FINISH_AT, slot] = finish_at
    due = due_at(state, r, finish_at)
    if slot == 0 or due < instance.next_finish:
        instance.next_finish = due
    if state.cluster[0].draft_tokens > 0:
        state.policies.drafting(address_of(state), OP_JOIN, r, i)
    else:
        state.growth[i, block_part(state, instance.residue + 1 - context)] += 1
    state.tiers[i, request.tier] += 1
    instance.kv_tokens += context
    view.decoding += 1
    job.slot = slot
    job.decode_instance = i


@inlined
def leave_decode(state, i, slot):
    """Take the request in a slot out of the decoding requests of instance i and bring its row up to date, in place."""
    instance = state.instances[i]
    view = state.views[i]
    r = state.batch[i, RUNNING, slot]
    request = state.requests[r]
    job = state.jobs[r]
    generated = generated_now(state, i, slot)
    context = request.prompt_tokens + generated
    request.generated_tokens = generated
    if state.cluster[0].draft_tokens > 0:
        blocks = state.policies.drafting(address_of(state), OP_LEAVE, r, i)
    else:
        blocks = whole_blocks(state, context - 1)
        state.growth[i, block_part(state, instance.residue + 1 - context)] -= 1
    state.tiers[i, request.tier] -= 1
    instance.kv_tokens -= context
    if state.batch[i, LAST_TOKEN, slot] >= 0:
        instance.fresh -= 1
    else:
        job.last_token_ps = instance.last_decode_ps
    job.max_itl_ps = state.batch[i, MAX_GAP, slot]
    job.private_blocks = blocks - job.pinned_blocks
    last = view.decoding - 1
    if slot != last:
        for column in range(4):
            state.batch[i, column, slot] = state.batch[i, column, last]
        state.jobs[state.batch[i, RUNNING, slot]].slot = slot
    view.decoding = last
    job.slot = NONE

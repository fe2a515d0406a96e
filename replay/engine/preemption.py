"""Who is served first, and who gives way: keys, the queue of an instance, preemption by recompute."""

import math

from replay.engine.eviction_queue import link, unlink
from replay.engine.jit import kernel
from replay.engine.kvcache import (
    free_private,
    release_path,
    row_of,
)
from replay.engine.notes import note
from replay.engine.outputs import keep_output
from replay.engine.phases import change_count, growth_now, leave_decode
from replay.engine.queues import push, remove_prefill
from replay.engine.schema import (
    DECODING,
    LOG_PREEMPT,
    NONE,
    RUNNING,
    WAITING,
)
from replay.engine.waiting import count_promises, give_key, join_waiting


@kernel
def note_waiting(state, i, r):
    """Tell who counts it that request r joins the queue of instance i, modified in place."""
    if state.cluster[0].plans_ahead:
        state.jobs[r].queued_ps = state.cluster[0].now_ps
    if state.cluster[0].fair:
        join_waiting(state, i, r)
    if state.cluster[0].promises:
        count_promises(state, i)


@kernel
def push_waiting(state, policies, i, r):
    """Put request r into the queue of instance i under a new key, modified in place."""
    state.jobs[r].stage = WAITING
    state.jobs[r].instance = i
    special = state.cluster[0].special
    if special:
        note_waiting(state, i, r)
    give_key(state, policies, i, r)
    state.instances[i].queue = push(state.jobs, state.instances[i].queue, r)
    if special and state.cluster[0].lookahead and state.jobs[r].prefill_left > 0:
        spare(state, i, r, 1)


@kernel
def spare(state, i, r, step):
    """Count request r among those that wait on instance i for the nodes of its prompt, or no more, in place.

    step   : 1 or -1; a node that somebody waits for leaves the cache after all others
    source : after CachedAttention's look-ahead eviction (Gao et al., ATC 2024)
    """
    if i >= state.cluster[0].num_prefill or not state.cluster[0].cache:
        return
    cache = state.cache
    node = state.jobs[r].leaf
    while node >= 0:
        count = state.hierarchy.needed[node, i] + step
        state.hierarchy.needed[node, i] = count
        s = row_of(cache, node, i)
        if s >= 0 and (count == 1 and step > 0 or count == 0):
            slot = cache.slots[s]
            if slot.pins == 0:
                unlink(cache, state.instances[i], s)
            slot.spared = 1 if count > 0 else 0
            if slot.pins == 0:
                link(cache, state.instances[i], s)
        node = cache.nodes[node].parent


@kernel
def worst_running(state, i):
    """Return the request in the batch of instance i with the greatest (key, row), -1 if there is none. O(batch)."""
    jobs = state.jobs
    worst = NONE
    for slot in range(state.views[i].decoding):
        r = state.batch[i, RUNNING, slot]
        if worst < 0 or jobs[r].key > jobs[worst].key or (jobs[r].key == jobs[worst].key and r > worst):
            worst = r
    r = state.instances[i].prefill_head
    while r >= 0:
        if worst < 0 or jobs[r].key > jobs[worst].key or (jobs[r].key == jobs[worst].key and r > worst):
            worst = r
        r = jobs[r].next
    return worst


@kernel
def release_blocks(state, policies, i, r):
    """Let go of every KV block that request r holds on instance i, modified in place."""
    job = state.jobs[r]
    free_private(state.views[i], state.instances[i], job.private_blocks)
    job.private_blocks = 0
    if job.pinned >= 0:
        release_path(state, i, job.pinned)
    job.pinned = NONE
    job.pinned_blocks = 0


@kernel
def end_spell(state, r):
    """Note that request r runs no more as of now, modified in place."""
    spell = state.asking.spells[r]
    spell.served_ps += state.cluster[0].now_ps - spell.since_ps
    spell.since_ps = state.cluster[0].now_ps


@kernel
def preempt(state, policies, i, r):
    """Send running request r of instance i back to its queue without its KV, modified in place.

    source : vLLM, preemption by recompute
    """
    job = state.jobs[r]
    request = state.requests[r]
    view = state.views[i]
    if job.stage == DECODING:
        leave_decode(state, i, job.slot)
        if state.cluster[0].outputs:
            keep_output(state, i, r)
    else:
        remove_prefill(state.jobs, state.instances[i], r)
    release_blocks(state, policies, i, r)
    context = request.prompt_tokens + request.generated_tokens
    change_count(state, i)
    view.running -= 1
    view.waiting += 1
    view.waiting_tokens += context
    view.queued_tokens += context - job.charged_tokens
    job.charged_tokens = context
    job.prefill_left = context
    job.prefilled = 0
    job.chunk = 0
    job.preemptions += 1
    if state.cluster[0].fabric:
        state.wires.transits[r].under_way = 0
    if state.cluster[0].spelled:
        end_spell(state, r)
    note(state, LOG_PREEMPT, r, i, request.generated_tokens)
    push_waiting(state, policies, i, r)


@kernel
def make_room(state, policies, i):
    """Preempt until the decodes of instance i can take the blocks of their next iteration; returns whether any was."""
    view = state.views[i]
    pressed = False
    while growth_now(state, i) > view.free_blocks + view.cached_blocks:
        preempt(state, policies, i, worst_running(state, i))
        pressed = True
    return pressed


@kernel
def head_preempts(state, i):
    """Return the running request that the head of the queue may push out, -1 if none."""
    head = state.instances[i].queue
    if head < 0 or state.jobs[head].margin == math.inf:
        return NONE
    worst = worst_running(state, i)
    if worst >= 0 and state.jobs[head].key < state.jobs[worst].key - state.jobs[head].margin:
        return worst
    return NONE

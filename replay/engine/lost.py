"""Requests that are lost with an instance, or wait until its failure is noticed; the loss of a cache."""

from replay.engine.evicting import column_of
from replay.engine.jit import kernel
from replay.engine.kvcache import row_of
from replay.engine.lifetime import free_node
from replay.engine.notes import note
from replay.engine.phases import change_count
from replay.engine.preemption import release_blocks
from replay.engine.queues import append_row
from replay.engine.schema import LOG_LOSE, LOST, NONE
from replay.engine.tier_schema import LOAD_OVER


@kernel
def wipe(state, i):
    """Empty the cache of instance i, of which nobody holds anything, modified in place. O(trie nodes)."""
    state.lives.life[i].cached_lost_blocks += state.views[i].cached_blocks
    state.lives.life[i].wipes += 1
    if state.cluster[0].tiered:
        state.lives.life[i].abandons = 1
        state.lives.setting[0].stores_change = 1
    state.instances[i].clock = -1e308  # nothing was evicted from the next one yet
    if i >= state.cluster[0].num_prefill or not state.cluster[0].cache or state.views[i].cached_blocks == 0:
        return
    c = column_of(state, i)
    for node in range(len(state.cache.nodes)):
        s = row_of(state.cache, node, c)
        if s >= 0:
            free_node(state, i, s)


@kernel
def append_again(state, r):
    """Let request r go on in this event, after those that are to already, modified in place."""
    setting = state.lives.setting[0]
    setting.again_head = append_row(state.jobs, setting.again_head, setting.again_tail, r)
    setting.again_tail = r


@kernel
def wait_for_notice(state, i, r):
    """Let request r, taken off every list, wait until the failure of instance i is noticed; by row, in place."""
    state.lives.losses[r].notice_ps = state.lives.life[i].notice_ps
    state.lives.setting[0].aside += 1
    before = NONE
    after = state.lives.life[i].lost_head
    while after >= 0 and after < r:
        before = after
        after = state.jobs[after].next
    state.jobs[r].next = after
    if before < 0:
        state.lives.life[i].lost_head = r
    else:
        state.jobs[before].next = r


@kernel
def forget_load(state, r):
    """Let request r, lost, load as if it had never been admitted once it goes on. Modified in place.

    A load that is under way to an instance that it left long ago stays so; till it is over, nothing is loaded.
    """
    load = state.hierarchy.loads[r]
    load.anew = 1
    load.waits = 0
    if load.under_way:
        return
    load.state = LOAD_OVER
    load.counted_blocks = 0
    load.landed_blocks = NONE
    if load.listed:
        load.listed = 0
        instance = state.instances[load.instance]
        before = NONE
        other = instance.pending_head
        while other != r:
            before = other
            other = state.hierarchy.loads[other].next
        if before < 0:
            instance.pending_head = load.next
        else:
            state.hierarchy.loads[before].next = load.next
        if load.next < 0:
            instance.pending_tail = before


@kernel
def lose(state, i, r, kv_tokens):
    """Put request r, taken off every list, among those lost with instance i. Modified in place.

    kv_tokens : of its context, those whose KV was there
    """
    life = state.lives.life[i]
    loss = state.lives.losses[r]
    job = state.jobs[r]
    job.stage = LOST
    job.chunk = 0
    job.prefill_left = 0
    job.prefilled = 0
    if state.cluster[0].tiered:
        forget_load(state, r)
    loss.lost_ps = state.cluster[0].now_ps
    loss.losses += 1
    loss.kv_tokens = max(loss.kv_tokens, kv_tokens)
    life.lost_requests += 1
    state.lives.setting[0].lost += 1
    life.lost_kv_tokens += kv_tokens
    note(state, LOG_LOSE, r, i, kv_tokens)
    wait_for_notice(state, i, r)


@kernel
def stop_waiting_for(state, i, r):
    """Count request r no more among those on their way to instance i or waiting there, modified in place."""
    view = state.views[i]
    job = state.jobs[r]
    change_count(state, i)
    view.waiting -= 1
    view.waiting_tokens -= state.requests[r].prompt_tokens + state.requests[r].generated_tokens
    view.queued_tokens -= job.charged_tokens
    job.charged_tokens = 0


@kernel
def lose_waiting(state, i, r):
    """Lose request r, on its way to instance i or just taken off its queue, modified in place."""
    job = state.jobs[r]
    kv_tokens = 0
    if job.prefill_left == 0:  # handed over: its KV came along
        kv_tokens = state.requests[r].prompt_tokens + state.requests[r].generated_tokens - 1
    stop_waiting_for(state, i, r)
    lose(state, i, r, kv_tokens)


@kernel
def kv_of(state, r):
    """Return the tokens of KV of request r, whose prefill is complete: its context but for its last token."""
    return state.requests[r].prompt_tokens + state.requests[r].generated_tokens - 1


@kernel
def lose_sent(state, i, r):
    """Lose request r, prefilled on instance i, whose KV is still there for its handoff. Modified in place."""
    release_blocks(state, state.policies, i, r)
    lose(state, i, r, kv_of(state, r))

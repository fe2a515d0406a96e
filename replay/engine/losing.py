"""What an instance takes with it when it fails: its batch, its queue, its cache, what its card carries and what comes.

Every request goes to one of three lists: lost with the instance, until that is noticed; to go on in this event (a fetch
from it, a handoff to it); or nothing changes for it.
"""

from replay.engine.accounts import leave_waiting
from replay.engine.evicting import column_of
from replay.engine.jit import kernel
from replay.engine.kvcache import free_private, release_path, row_of
from replay.engine.lifetime import free_node
from replay.engine.links import change_link
from replay.engine.notes import note
from replay.engine.phases import change_count, growth_now, leave_decode, settle
from replay.engine.preemption import end_spell, release_blocks, spare
from replay.engine.queues import pop
from replay.engine.schema import FETCHING, HANDOFF, LOG_LOSE, LOST, NEVER_PS, NONE, RUNNING
from replay.engine.tree import set_event


@kernel
def wipe(state, i):
    """Empty the cache of instance i, of which nobody holds anything, modified in place. O(trie nodes)."""
    state.lives.life[i].cached_lost_blocks += state.views[i].cached_blocks
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
    state.jobs[r].next = NONE
    if setting.again_head < 0:
        setting.again_head = r
    else:
        state.jobs[setting.again_tail].next = r
    setting.again_tail = r


@kernel
def lose(state, i, r, kv_tokens):
    """Put request r, taken off every list, among those lost with instance i, in order of rows. Modified in place.

    kv_tokens : of its context, those whose KV was there
    """
    life = state.lives.life[i]
    loss = state.lives.losses[r]
    job = state.jobs[r]
    job.stage = LOST
    job.chunk = 0
    job.prefill_left = 0
    job.prefilled = 0
    loss.lost_ps = state.cluster[0].now_ps
    loss.losses += 1
    loss.recomputed_tokens += kv_tokens
    life.lost_requests += 1
    state.lives.setting[0].lost += 1
    life.lost_kv_tokens += kv_tokens
    note(state, LOG_LOSE, r, i, kv_tokens)
    before = NONE
    after = life.lost_head
    while after >= 0 and after < r:
        before = after
        after = state.jobs[after].next
    job.next = after
    if before < 0:
        life.lost_head = r
    else:
        state.jobs[before].next = r


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
def lose_running(state, i, r, kv_tokens):
    """Lose request r of the batch of instance i, already off its lists, modified in place."""
    release_blocks(state, state.policies, i, r)
    change_count(state, i)
    state.views[i].running -= 1
    state.views[i].queued_tokens -= state.jobs[r].charged_tokens
    state.jobs[r].charged_tokens = 0
    if state.cluster[0].spelled:
        end_spell(state, r)
    lose(state, i, r, kv_tokens)


@kernel
def lose_batch(state, i):
    """Lose the batch of instance i in the middle of its iteration, of which nothing remains. Modified in place."""
    instance = state.instances[i]
    view = state.views[i]
    settle(state, i)
    if instance.left > 0:
        instance.busy_ps += state.cluster[0].now_ps - instance.start_ps
        if instance.decodes:
            free_private(view, instance, growth_now(state, i))
    instance.left = 0
    instance.decodes = 0
    instance.phase_prefill_tokens = 0
    instance.gap_ps = 0
    instance.end_ps = NEVER_PS
    set_event(state.tree, state.cluster[0].num_instances + i, NEVER_PS)
    while view.decoding > 0:
        r = state.batch[i, RUNNING, view.decoding - 1]
        leave_decode(state, i, view.decoding - 1)
        lose_running(state, i, r, state.requests[r].prompt_tokens + state.requests[r].generated_tokens - 1)
    r = instance.prefill_head
    instance.prefill_head = NONE
    instance.prefill_tail = NONE
    while r >= 0:
        following = state.jobs[r].next
        lose_running(state, i, r, state.jobs[r].prefilled)
        r = following


@kernel
def lose_queue(state, i):
    """Lose what waits in the queue of instance i, modified in place."""
    instance = state.instances[i]
    while instance.queue >= 0:
        r = instance.queue
        instance.queue = pop(state.jobs, r)
        lose_waiting(state, i, r)
        if state.cluster[0].fair:
            leave_waiting(state, i, r)
    instance.empty_since_ps = state.cluster[0].now_ps


@kernel
def lose_waiting(state, i, r):
    """Lose request r, on its way to instance i or just taken off its queue, modified in place."""
    job = state.jobs[r]
    if state.cluster[0].lookahead and job.prefill_left > 0:
        spare(state, i, r, -1)
    kv_tokens = 0
    if job.prefill_left == 0:  # handed over: its KV came along
        kv_tokens = state.requests[r].prompt_tokens + state.requests[r].generated_tokens - 1
    stop_waiting_for(state, i, r)
    lose(state, i, r, kv_tokens)


@kernel
def let_go(state, p, r):
    """Give back what request r, taken off the card of instance p, holds there for a fetch, modified in place."""
    settle(state, p)
    release_path(state, p, state.jobs[r].pinned)
    state.jobs[r].pinned = NONE
    state.jobs[r].pinned_blocks = 0


@kernel
def lose_link(state, i):
    """Lose what the card of instance i carries: fetches end without result, handoffs are lost. Modified in place."""
    instance = state.instances[i]
    r = instance.link_head
    instance.link_head = NONE
    instance.link_tail = NONE
    instance.nic_free_ps = state.cluster[0].now_ps
    set_event(state.tree, i, NEVER_PS)
    while r >= 0:
        following = state.jobs[r].next
        change_link(state, i, -1)
        if state.jobs[r].stage == FETCHING:
            let_go(state, i, r)
            append_again(state, r)
        else:
            stop_waiting_for(state, state.jobs[r].decode_instance, r)
            lose_sent(state, i, r)
        r = following


@kernel
def lose_sent(state, i, r):
    """Lose request r, prefilled on instance i, whose KV is still there for its handoff. Modified in place."""
    release_blocks(state, state.policies, i, r)
    lose(state, i, r, state.requests[r].prompt_tokens + state.requests[r].generated_tokens - 1)


@kernel
def turn_back(state, p, i):
    """Take what the card of instance p carries to instance i off it: handoffs are to be sent elsewhere. In place."""
    instance = state.instances[p]
    before = NONE
    r = instance.link_head
    while r >= 0:
        job = state.jobs[r]
        following = job.next
        if (job.decode_instance if job.stage == HANDOFF else job.instance) == i:
            if before < 0:
                instance.link_head = following
            else:
                state.jobs[before].next = following
            if following < 0:
                instance.link_tail = before
            change_link(state, p, -1)
            if job.stage == HANDOFF:
                stop_waiting_for(state, i, r)
                job.decode_instance = NONE
                append_again(state, r)
            else:
                let_go(state, p, r)
                lose_waiting(state, i, r)
        else:
            before = r
        r = following
    head = instance.link_head
    set_event(state.tree, p, NEVER_PS if head < 0 else state.jobs[head].deliver_ps)


@kernel
def lose_stranded(state, i):
    """Lose the prefilled requests that wait on instance i for a decode instance, modified in place."""
    setting = state.lives.setting[0]
    before = NONE
    r = setting.stranded_head
    while r >= 0:
        following = state.jobs[r].next
        if state.jobs[r].prefill_instance == i:
            if before < 0:
                setting.stranded_head = following
            else:
                state.jobs[before].next = following
            if following < 0:
                setting.stranded_tail = before
            state.lives.life[i].stranded -= 1
            lose_sent(state, i, r)
        else:
            before = r
        r = following


@kernel
def lose_all(state, i):
    """Lose everything on instance i and on its way there, modified in place. O(instances + requests there)."""
    lose_batch(state, i)
    lose_queue(state, i)
    lose_link(state, i)
    lose_stranded(state, i)
    for p in range(state.cluster[0].num_instances):
        if p != i:
            turn_back(state, p, i)
    wipe(state, i)

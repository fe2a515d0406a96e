"""What an instance takes with it when it fails: its batch, its queue, its cache, what its card carries and what comes.

KV is lost with its holder only. A request whose KV, or whose place, was there is lost until the failure is noticed; one
that was to be handed over to it keeps its KV and waits for the same; one that fetched from it goes on at once.
"""

from replay.engine.accounts import leave_waiting
from replay.engine.jit import kernel
from replay.engine.kvcache import free_private, release_path
from replay.engine.life_schema import RESTORED
from replay.engine.life_timers import drop_timer, set_next
from replay.engine.links import change_link
from replay.engine.lost import (
    append_again,
    kv_of,
    lose,
    lose_sent,
    lose_waiting,
    stop_waiting_for,
    wait_for_notice,
    wipe,
)
from replay.engine.phases import change_count, growth_now, leave_decode, settle
from replay.engine.preemption import end_spell, release_blocks, spare
from replay.engine.queues import pop
from replay.engine.schema import FETCHING, HANDOFF, NEVER_PS, NONE, RUNNING
from replay.engine.tree import set_event


@kernel
def lose_loading(state, i):
    """Lose the requests that wait outside the queue of instance i for a load. Modified in place. O(requests)."""
    for r in range(len(state.hierarchy.loads)):
        if state.hierarchy.loads[r].waits and state.jobs[r].prefill_instance == i:
            lose_waiting(state, i, r)


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
        if state.cluster[0].lookahead and state.jobs[r].prefill_left > 0:
            spare(state, i, r, -1)
        lose_waiting(state, i, r)
        if state.cluster[0].fair:
            leave_waiting(state, i, r)
    instance.empty_since_ps = state.cluster[0].now_ps


@kernel
def let_go(state, p, r):
    """Give back what request r, on the card of instance p, holds there for a fetch, modified in place."""
    settle(state, p)
    release_path(state, p, state.jobs[r].pinned)
    state.jobs[r].pinned = NONE


@kernel
def drop_link(state, p, before, r):
    """Take request r, behind `before` on the card of instance p (-1: first), off it, modified in place."""
    instance = state.instances[p]
    following = state.jobs[r].next
    if before < 0:
        instance.link_head = following
    else:
        state.jobs[before].next = following
    if following < 0:
        instance.link_tail = before
    change_link(state, p, -1)


@kernel
def set_delivery(state, p):
    """Tell the event tree when the card of instance p delivers next, modified in place."""
    head = state.instances[p].link_head
    set_event(state.tree, p, NEVER_PS if head < 0 else state.jobs[head].deliver_ps)


@kernel
def lose_link(state, i):
    """Lose what the card of instance i has not sent: fetches end without result, handoffs are lost. Modified in place.

    What it has sent arrives, although nothing of it is held here any more.
    """
    instance = state.instances[i]
    now_ps = state.cluster[0].now_ps
    latency_ps = state.cost.profiles[instance.profile].transfer_latency_ps
    before = NONE
    r = instance.link_head
    while r >= 0:
        job = state.jobs[r]
        following = job.next
        fetches = job.stage == FETCHING
        if job.deliver_ps - latency_ps > now_ps:
            drop_link(state, i, before, r)
            if fetches:
                let_go(state, i, r)
                job.pinned_blocks = 0
                append_again(state, r)
            else:
                stop_waiting_for(state, job.decode_instance, r)
                lose_sent(state, i, r)
        else:
            before = r
            if fetches:
                let_go(state, i, r)
            else:
                release_blocks(state, state.policies, i, r)
        r = following
    instance.nic_free_ps = max(now_ps, state.lives.life[i].nic_down_ps)
    set_delivery(state, i)


@kernel
def turn_back(state, p, j, r):
    """Let request r, off the card of instance p, wait there until the failure of its decode instance j is noticed.

    It is lost where p, failed and empty since, does not have its KV any more. Modified in place.
    """
    stop_waiting_for(state, j, r)
    if state.jobs[r].pinned_blocks + state.jobs[r].private_blocks == 0:
        lose(state, j, r, kv_of(state, r))
        return
    state.jobs[r].decode_instance = NONE
    state.lives.life[p].stranded += 1
    wait_for_notice(state, j, r)


@kernel
def lose_coming(state, p, i):
    """Take what the card of instance p carries to instance i, which fails, off it. Modified in place."""
    before = NONE
    r = state.instances[p].link_head
    while r >= 0:
        job = state.jobs[r]
        following = job.next
        if (job.decode_instance if job.stage == HANDOFF else job.instance) != i:
            before = r
        else:
            drop_link(state, p, before, r)
            if job.stage == HANDOFF:
                turn_back(state, p, i, r)
            else:
                let_go(state, p, r)
                job.pinned_blocks = 0
                lose_waiting(state, i, r)
        r = following
    set_delivery(state, p)


@kernel
def lose_replicas(state, i):
    """Lose the requests whose KV is on its way from a replica to instance i, modified in place. O(timers)."""
    k = 0
    while k < state.lives.setting[0].timers:
        timer = state.lives.life_timers[k]
        r = timer.what
        if timer.kind == RESTORED and state.jobs[r].instance == i:
            drop_timer(state, k)
            lose_waiting(state, i, r)
        else:
            k += 1
    set_next(state)


@kernel
def lose_stranded(state, i):
    """Lose the prefilled requests that wait on instance i for a decode instance, modified in place."""
    setting = state.lives.setting[0]
    before = NONE
    r = setting.stranded_head
    while r >= 0:
        following = state.jobs[r].next
        if state.jobs[r].prefill_instance != i:
            before = r
        else:
            if before < 0:
                setting.stranded_head = following
            else:
                state.jobs[before].next = following
            if following < 0:
                setting.stranded_tail = before
            lose_kept(state, i, r)
        r = following


@kernel
def lose_turned(state, i, j):
    """Lose the requests prefilled on instance i that wait until the failure of instance j is noticed. In place."""
    before = NONE
    r = state.lives.life[j].lost_head
    while r >= 0:
        following = state.jobs[r].next
        if state.jobs[r].stage != HANDOFF or state.jobs[r].prefill_instance != i:
            before = r
        else:
            if before < 0:
                state.lives.life[j].lost_head = following
            else:
                state.jobs[before].next = following
            lose_kept(state, i, r)
        r = following


@kernel
def lose_kept(state, i, r):
    """Lose request r, off its list, for which instance i kept its KV, modified in place."""
    state.lives.life[i].stranded -= 1
    state.lives.setting[0].aside -= 1
    lose_sent(state, i, r)


@kernel
def lose_all(state, i):
    """Lose everything on instance i and on its way there, modified in place. O(instances + requests there)."""
    lose_batch(state, i)
    lose_queue(state, i)
    if state.cluster[0].tiered:
        lose_loading(state, i)
    lose_link(state, i)
    lose_stranded(state, i)
    for p in range(state.cluster[0].num_instances):
        if p != i:
            lose_coming(state, p, i)
            lose_turned(state, i, p)
    lose_replicas(state, i)
    wipe(state, i)

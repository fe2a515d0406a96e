"""Requests between instances: into a queue, from prefill to decode, over a network card; the end without service."""

from replay.engine.ahead import bring_queue
from replay.engine.alive import lacks_decodes, serves
from replay.engine.batching import schedule
from replay.engine.fabric_schema import WHOLE
from replay.engine.foresight import foresee
from replay.engine.inserting import insert
from replay.engine.jit import inlined, kernel
from replay.engine.kvcache import release_path, row_of
from replay.engine.life_schema import OP_OVER, OP_STRAND, OP_TURN
from replay.engine.links import change_link, send, transfer_ps
from replay.engine.notes import note
from replay.engine.phases import change_count, cut, settle
from replay.engine.preemption import end_spell, push_waiting, release_blocks
from replay.engine.queues import pop_link
from replay.engine.schema import (
    DECODE,
    FAILED,
    GONE,
    HANDOFF,
    LOG_DELIVER,
    LOG_ENQUEUE,
    LOG_FAIL,
    LOG_HANDOFF,
    LOG_REJECT,
    NEVER_PS,
    NONE,
    REJECTED,
)
from replay.engine.state import address_of
from replay.engine.traffic import choose_target, send_part
from replay.engine.tree import set_event


@kernel
def end_unserved(state, r, status):
    """Give request r and all turns that would have followed it a status without service. Modified in place."""
    jobs = state.jobs
    jobs[r].next = NONE
    top = r
    while top >= 0:
        current = top
        if state.cluster[0].foresees:
            foresee(state, current)
        top = jobs[current].next
        jobs[current].stage = GONE
        jobs[current].status = status
        state.cluster[0].gone += 1
        turn = jobs[current].first_turn
        while turn >= 0:
            jobs[turn].next = top
            top = turn
            turn = jobs[turn].next_turn
    if state.cluster[0].lives and state.cluster[0].gone == state.cluster[0].num_requests:
        state.policies.life(address_of(state), OP_OVER, 0, 0)


@kernel
def enqueue(state, policies, i, r):
    """Put request r into the queue of instance i, which sees it now if idle, else after its iteration, in place."""
    if state.cluster[0].lookahead:
        settle(state, i)
    push_waiting(state, policies, i, r)
    bring_queue(state, i)
    note(state, LOG_ENQUEUE, r, i, 0)
    instance = state.instances[i]
    view = state.views[i]
    if instance.left == 0:
        schedule(state, policies, i)
    elif instance.left > 1:
        full = view.running >= view.max_batch and instance.prefill_head < 0
        if not full or state.jobs[r].margin < 1e308:
            cut(state, i)


@kernel
def wake(state, policies, i):
    """Let instance i look at its queue again after blocks were released there. Modified in place."""
    instance = state.instances[i]
    if instance.queue < 0:
        return
    if instance.left == 0:
        schedule(state, policies, i)
    else:
        cut(state, i)


@kernel
def arrived(state, policies, i, r):
    """Let request r, whose KV came from instance i, go on where it came to. Modified in place."""
    job = state.jobs[r]
    settle(state, i)
    if state.cluster[0].lives and job.stage == HANDOFF and not serves(state, job.decode_instance):
        state.policies.life(address_of(state), OP_TURN, r, i)
        return
    if job.stage == HANDOFF:
        target = job.decode_instance
        if state.cluster[0].fabric:
            job.deliver_ps = state.cluster[0].now_ps
        note(state, LOG_DELIVER, r, target, 0)
        release_blocks(state, policies, i, r)
        job.prefill_left = 0
        job.charged_tokens = 0
    else:
        target = job.instance
        note(state, LOG_DELIVER, r, target, 0)
        blocks = job.pinned_blocks
        whole = job.pinned == job.leaf and state.cache.slots[row_of(state.cache, job.leaf, i)].whole
        release_path(state, i, job.pinned)
        job.pinned = NONE
        job.pinned_blocks = 0
        if state.views[target].role != DECODE:
            settle(state, target)
            view = state.views[target]
            room = view.free_blocks + view.cached_blocks
            insert(state, target, job.leaf, blocks, whole)
            state.instances[target].may_evict = 1
            if state.cluster[0].exact_evictions or view.free_blocks + view.cached_blocks < room:
                cut(state, target)
    enqueue(state, policies, target, r)
    wake(state, policies, i)


@kernel
def hand_over_fabric(state, policies, i, r):
    """Send request r, whose prefill on instance i is complete, over the fabric as far as it was not sent. In place."""
    transit = state.wires.transits[r]
    transit.ready_ps = state.cluster[0].now_ps
    transit.ready = 1
    note(state, LOG_HANDOFF, r, i, state.requests[r].prompt_tokens)
    if state.wires.net[0].handoff == WHOLE:
        send_part(state, i, r, state.requests[r].prompt_tokens)
    elif transit.under_way == 0:
        arrived(state, policies, i, r)


@kernel
def handoff(state, policies, i, r):
    """Send request r, prefilled on instance i, to a decode instance unless that is i. In place. faults: BAD_DECODE."""
    cluster = state.cluster[0]
    job = state.jobs[r]
    if cluster.away > 0 and lacks_decodes(state):
        leave_batch(state, i, r)
        state.policies.life(address_of(state), OP_STRAND, r, i)
        return
    chosen_before = cluster.fabric and job.decode_instance >= 0
    able = state.wires.transits[r].able != 0 if chosen_before else choose_target(state, policies, i, r)
    if cluster.fault != 0 or able and job.decode_instance == i:
        return
    leave_batch(state, i, r)
    send_on(state, policies, i, r, able)


@inlined
def leave_batch(state, i, r):
    """Count request r, whose prefill on instance i is complete, no more in its batch, modified in place."""
    change_count(state, i)
    state.views[i].running -= 1
    if state.cluster[0].spelled:
        end_spell(state, r)


@kernel
def hand_over_anew(state, policies, i, r):
    """Choose a decode instance for request r, prefilled on instance i, that lost its own or found none. In place."""
    settle(state, i)
    state.lives.losses[r].begun_ps = state.cluster[0].now_ps
    if lacks_decodes(state):
        state.policies.life(address_of(state), OP_STRAND, r, i)
        return
    able = choose_target(state, policies, i, r)
    if state.cluster[0].fault == 0:
        send_on(state, policies, i, r, able)


@kernel
def send_on(state, policies, i, r, able):
    """Send request r, prefilled on instance i, to its decode instance if that can hold it, else end it. In place."""
    cluster = state.cluster[0]
    job = state.jobs[r]
    if not able:
        refused = job.decode_instance < 0
        note(state, LOG_REJECT if refused else LOG_FAIL, r, job.decode_instance, 0)
        release_blocks(state, policies, i, r)
        end_unserved(state, r, REJECTED if refused else FAILED)
        return
    job.stage = HANDOFF
    if cluster.fabric:
        hand_over_fabric(state, policies, i, r)
        return
    instance = state.instances[i]
    kv_tokens = state.requests[r].prompt_tokens + state.requests[r].generated_tokens - 1
    carry_ps = transfer_ps(state, i, kv_tokens)
    done_ps = max(cluster.now_ps, instance.nic_free_ps) + carry_ps
    if cluster.layerwise:
        layers = state.cost.profiles[instance.profile].layers
        begun_ps = job.scheduled_ps
        if cluster.lives:
            begun_ps = max(begun_ps, state.lives.losses[r].begun_ps)
        early_ps = max(begun_ps, instance.nic_free_ps) + carry_ps
        done_ps = max(early_ps, cluster.now_ps + carry_ps // layers)
    note(state, LOG_HANDOFF, r, i, kv_tokens)
    send(state, i, r, done_ps)


@kernel
def deliver(state, policies, i):
    """Handle the delivery of what the network card of instance i carried first. Modified in place."""
    instance = state.instances[i]
    r = pop_link(state.jobs, instance)
    change_link(state, i, -1)
    following = instance.link_head
    set_event(state.tree, i, NEVER_PS if following < 0 else state.jobs[following].deliver_ps)
    arrived(state, policies, i, r)

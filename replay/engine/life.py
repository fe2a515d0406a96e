"""The part of the engine that runs the life of instances: one operation at a time, for the event loop."""

from replay.engine.failing import happen
from replay.engine.jit import kernel
from replay.engine.life_schema import (
    ASK,
    DETECT,
    DRAINING,
    OP_AGAIN,
    OP_AWAIT,
    OP_DRAINED,
    OP_LIFE,
    OP_LOST,
    OP_OVER,
    OP_RESTORE,
    OP_STRAND,
    OP_TURN,
    RESTORED,
)
from replay.engine.life_timers import drop_all_but_questions, pop_life, push_life
from replay.engine.lifecycle import count_away, is_empty, release_those, vanish
from replay.engine.links import transfer_ps
from replay.engine.losing import turn_back
from replay.engine.lost import lose_waiting
from replay.engine.queues import append_row
from replay.engine.scaling import ask_pools, start_lacking
from replay.engine.schema import FETCHING, HANDOFF, NONE


@kernel
def handle(state):
    """Handle the timer that goes first, modified in place."""
    kind, what = pop_life(state)
    if kind == ASK:
        ask_pools(state)
    else:
        happen(state, kind, what)
    start_lacking(state)
    count_away(state)
    release_those(state)


@kernel
def next_again(state):
    """Take the request that is to go on next off its list, modified in place; returns its row, -1 for none."""
    setting = state.lives.setting[0]
    r = setting.again_head
    if r >= 0:
        setting.again_head = state.jobs[r].next
        state.jobs[r].next = NONE
    return r


@kernel
def turn_back_late(state, r, p):
    """Let request r stay on instance p, as its decode instance, failed before it was chosen, is still down. In place.

    It waits until that failure is noticed; if it was already, it goes on in the next event.
    """
    j = state.jobs[r].decode_instance
    turn_back(state, p, j, r)
    if state.lives.life[j].notice_ps < state.cluster[0].now_ps:
        push_life(state, state.cluster[0].now_ps, DETECT, j)


@kernel
def strand(state, r, i):
    """Let request r, prefilled on instance i, wait there for a decode instance, modified in place."""
    setting = state.lives.setting[0]
    state.jobs[r].stage = HANDOFF
    state.jobs[r].decode_instance = NONE
    state.lives.life[i].stranded += 1
    setting.aside += 1
    setting.stranded_head = append_row(state.jobs, setting.stranded_head, setting.stranded_tail, r)
    setting.stranded_tail = r


@kernel
def await_control(state, r):
    """Let request r wait until the control plane is there again, modified in place."""
    setting = state.lives.setting[0]
    setting.aside += 1
    setting.shut_head = append_row(state.jobs, setting.shut_head, setting.shut_tail, r)
    setting.shut_tail = r


@kernel
def begin_restore(state, r, i):
    """Copy what a replica has of the KV of request r to instance i; it joins the queue there then. In place.

    The card of i takes it beside what it sends, at the speed that it has now; while it is stopped nothing comes.
    """
    life = state.lives.life[i]
    tokens = state.lives.losses[r].restored_blocks * state.views[i].block_tokens
    state.jobs[r].stage = FETCHING
    state.jobs[r].instance = i
    latency_ps = state.cost.profiles[state.instances[i].profile].transfer_latency_ps
    begin_ps = max(state.cluster[0].now_ps, life.nic_down_ps)
    push_life(state, begin_ps + transfer_ps(state, i, tokens) + latency_ps, RESTORED, r)


@kernel
def settle_drains(state):
    """Switch off what drained and is empty, and start what waited for that, modified in place. O(instances)."""
    for k in range(state.cluster[0].num_instances):
        if state.lives.life[k].state == DRAINING and is_empty(state, k):
            vanish(state, k)
    start_lacking(state)


@kernel
def operate_life(state, operation, what, i):
    """Do one operation for the event loop, modified in place; of OP_AGAIN returns a request, -1 for none."""
    if operation == OP_LIFE:
        handle(state)
    elif operation == OP_AGAIN:
        return next_again(state)
    elif operation == OP_LOST:
        lose_waiting(state, i, what)
    elif operation == OP_TURN:
        turn_back_late(state, what, i)
    elif operation == OP_STRAND:
        strand(state, what, i)
    elif operation == OP_AWAIT:
        await_control(state, what)
    elif operation == OP_RESTORE:
        begin_restore(state, what, i)
    elif operation == OP_DRAINED:
        settle_drains(state)
    elif operation == OP_OVER:
        drop_all_but_questions(state)
    return 0

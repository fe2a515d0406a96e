"""What is to happen in the life of instances: timers by (time, sequence); the first is a leaf of the event tree."""

from replay.engine.jit import kernel
from replay.engine.life_schema import ASK
from replay.engine.notes import fault
from replay.engine.schema import MAX_TIME_PS, NEVER_PS, NONE, TIME_RANGE
from replay.engine.tree import set_event


@kernel
def push_life(state, time_ps, kind, what):
    """Have something happen at time_ps, after what was asked for that time before. Modified in place. O(timers).

    With no request left nothing matters any more but the next question to the scale policy.
    """
    setting = state.lives.setting[0]
    if state.cluster[0].gone >= state.cluster[0].num_requests and kind != ASK:
        return
    if time_ps > MAX_TIME_PS:
        fault(state, TIME_RANGE, 0, 0)
        return
    timer = state.lives.life_timers[setting.timers]
    timer.time_ps = time_ps
    timer.sequence = setting.sequence
    timer.kind = kind
    timer.what = what
    setting.sequence += 1
    setting.timers += 1
    set_next(state)


@kernel
def first_timer(state):
    """Return the place of the timer that goes first, -1 if there is none. O(timers), which are few."""
    timers = state.lives.life_timers
    first = NONE
    for k in range(state.lives.setting[0].timers):
        if first < 0 or timers[k].time_ps < timers[first].time_ps or (
            timers[k].time_ps == timers[first].time_ps and timers[k].sequence < timers[first].sequence
        ):
            first = k
    return first


@kernel
def set_next(state):
    """Tell the event tree when the next timer goes, modified in place."""
    first = first_timer(state)
    time_ps = NEVER_PS if first < 0 else state.lives.life_timers[first].time_ps
    set_event(state.tree, 3 * state.cluster[0].num_instances + 3, time_ps)


@kernel
def drop_timer(state, k):
    """Take the timer at place k away, modified in place; the last one takes its place."""
    setting = state.lives.setting[0]
    timers = state.lives.life_timers
    setting.timers -= 1
    last = timers[setting.timers]
    timer = timers[k]
    timer.time_ps = last.time_ps
    timer.sequence = last.sequence
    timer.kind = last.kind
    timer.what = last.what


@kernel
def pop_life(state):
    """Take the timer that goes first away, modified in place; returns (kind, what)."""
    first = first_timer(state)
    kind = state.lives.life_timers[first].kind
    what = state.lives.life_timers[first].what
    drop_timer(state, first)
    set_next(state)
    return kind, what


@kernel
def drop_all_but_questions(state):
    """Take every timer away but the next question to the scale policy, as no request is left. Modified in place."""
    k = 0
    while k < state.lives.setting[0].timers:
        if state.lives.life_timers[k].kind == ASK:
            k += 1
        else:
            drop_timer(state, k)
    set_next(state)


@kernel
def cancel_timer(state, kind, what, time_ps):
    """Take the timer of this kind for something and a time away, modified in place."""
    timers = state.lives.life_timers
    for k in range(state.lives.setting[0].timers):
        if timers[k].kind == kind and timers[k].what == what and timers[k].time_ps == time_ps:
            drop_timer(state, k)
            set_next(state)
            return

"""Stages beside the transformer: which of them a request begins, when it is past them, and the link of each pool.

STAGES.md beside this file is the specification. Compiled apart: a replay without stages need not have it.
"""

from replay.engine.jit import kernel
from replay.engine.notes import fault
from replay.engine.schema import GONE, MAX_TIME_PS, NEVER_PS, NONE, TIME_RANGE
from replay.engine.stage_schema import (
    ENDED,
    IN_AFTER,
    IN_BEFORE,
    IN_DECODER,
    IN_JOIN,
    NO_TOKENS,
    OP_ADMITTED,
    OP_DECODED,
    OP_ENTER,
    OP_STAGE_EVENT,
    OP_TOKENS,
)
from replay.engine.stage_service import change_station, issue, set_stage_event, start


@kernel
def open_stages(state, r, mask):
    """Begin the stages of a set that request r has not begun and that wait for no other; in place."""
    pipeline = state.pipeline
    journey = pipeline.journeys[r]
    count = pipeline.pipe[0].num_stages
    for s in range(count):
        bit = 1 << s
        if mask & bit and not journey.started & bit and not pipeline.stations[s].needs & ~journey.over:
            journey.started |= bit
            if pipeline.tasks[r * count + s].calls == 0:
                journey.over |= bit
            elif not pipeline.pipe[0].segments & bit:
                for _ in range(pipeline.tasks[r * count + s].calls):
                    issue(state, r, s)


@kernel
def passes_before(state, r):
    """Whether request r is past the stages before the decoder, which it then enters; in place."""
    journey = state.pipeline.journeys[r]
    if journey.phase != IN_BEFORE or state.pipeline.pipe[0].before & ~journey.over:
        return False
    journey.phase = IN_DECODER
    journey.entered_ps = state.cluster[0].now_ps
    return True


@kernel
def passes_all(state, r):
    """Whether request r, decoded, is past all of its stages; those after the decoder begin after the rest. In place."""
    pipe = state.pipeline.pipe[0]
    journey = state.pipeline.journeys[r]
    if journey.phase == IN_JOIN and not (pipe.beside | pipe.segments) & ~journey.over:
        journey.phase = IN_AFTER
        open_stages(state, r, pipe.after)
    if journey.phase == IN_AFTER and not pipe.after & ~journey.over:
        journey.phase = ENDED
        return True
    return False


@kernel
def end_call(state, c):
    """Handle the end of a call, its output where it is needed. Returns its request if that goes on or ends, or -1."""
    pipeline = state.pipeline
    pipe = pipeline.pipe[0]
    r = pipeline.calls[c].request
    s = pipeline.calls[c].stage
    task = pipeline.tasks[r * pipe.num_stages + s]
    task.ended += 1
    task.end_ps = state.cluster[0].now_ps
    if task.ended < task.calls:
        return -1
    journey = pipeline.journeys[r]
    journey.over |= 1 << s
    if state.jobs[r].stage == GONE:  # refused meanwhile: what had begun is spent, nothing more begins
        return -1
    if journey.phase == IN_BEFORE:
        open_stages(state, r, pipe.before)
        return r if passes_before(state, r) else -1
    if journey.phase == IN_AFTER:
        open_stages(state, r, pipe.after)
    else:
        open_stages(state, r, pipe.beside)
    return r if passes_all(state, r) else -1


@kernel
def send_output(state, s, c):
    """Put the output of a call on the link of stage s, modified in place."""
    pipeline = state.pipeline
    station = pipeline.stations[s]
    call = pipeline.calls[c]
    call.next = NONE
    begin_ps = max(state.cluster[0].now_ps, station.link_free_ps)
    station.link_free_ps = begin_ps + station.item_fs * call.items // 1000
    call.done_ps = station.link_free_ps + station.latency_ps
    if call.done_ps > MAX_TIME_PS:
        fault(state, TIME_RANGE, 0, 0)
    if station.link_head < 0:
        station.link_head = c
        set_stage_event(state, s, call.done_ps)
    else:
        pipeline.calls[station.link_tail].next = c
    station.link_tail = c


@kernel
def end_link(state, s):
    """Handle the delivery of the first output on the link of stage s; returns as `end_call`. Modified in place."""
    pipeline = state.pipeline
    station = pipeline.stations[s]
    c = station.link_head
    station.link_head = pipeline.calls[c].next
    if station.link_head < 0:
        station.link_tail = NONE
        set_stage_event(state, s, NEVER_PS)
    else:
        set_stage_event(state, s, pipeline.calls[station.link_head].done_ps)
    return end_call(state, c)


@kernel
def end_service(state, b):
    """Handle the end of the next call of the batch on server b, which is free after the last. Returns as `end_call`."""
    pipeline = state.pipeline
    bench = pipeline.benches[b]
    s = bench.stage
    station = pipeline.stations[s]
    c = bench.head
    call = pipeline.calls[c]
    bench.head = call.next
    change_station(state, s)
    station.serving -= 1
    pipeline.tasks[call.request * pipeline.pipe[0].num_stages + s].service_ps += bench.end_ps - bench.start_ps
    if bench.head < 0:
        station.busy -= 1
        station.busy_ps += bench.end_ps - bench.start_ps
        pipeline.pipe[0].dirty = 1
        set_stage_event(state, pipeline.pipe[0].num_stages + b, NEVER_PS)
    if station.item_fs > 0 or station.latency_ps > 0:
        send_output(state, s, c)
        return -1
    return end_call(state, c)


@kernel
def handle_event(state):
    """Handle the next event of the stages; returns as `end_call`. Modified in place."""
    pipeline = state.pipeline
    pipe = pipeline.pipe[0]
    leaf = pipeline.agendas[len(pipeline.agendas) // 2 + 1]
    if leaf < pipe.num_stages:
        return end_link(state, leaf)
    if leaf < pipe.num_stages + pipe.num_servers:
        return end_service(state, leaf - pipe.num_stages)
    set_stage_event(state, leaf, NEVER_PS)
    pipe.dirty = 1
    return -1


@kernel
def issue_segments(state, r, generated):
    """Issue the calls of request r that are due with so many tokens, and say when the next is. Modified in place."""
    pipeline = state.pipeline
    pipe = pipeline.pipe[0]
    output = state.jobs[r].output_tokens
    following = NO_TOKENS
    for s in range(pipe.num_stages):
        task = pipeline.tasks[r * pipe.num_stages + s]
        if pipe.segments >> s & 1:
            every = pipeline.stations[s].every_tokens
            while task.issued < task.calls and min((task.issued + 1) * every, output) <= generated:
                issue(state, r, s)
            if task.issued < task.calls:
                following = min(following, (task.issued + 1) * every, output)
    pipeline.journeys[r].next_tokens = following


@kernel
def operate_stages(state, operation, what, i):
    """Do one operation of the stages for the event loop, about request `what`, modified in place.

    i       : of OP_TOKENS, the tokens generated
    returns : of OP_ENTER and OP_DECODED 1 if the request waits for a stage; of OP_STAGE_EVENT a request that goes on
              to the decoder or ends, or -1
    """
    pipe = state.pipeline.pipe[0]
    journey = state.pipeline.journeys[what]
    if operation == OP_STAGE_EVENT:
        return handle_event(state)
    if operation == OP_ENTER:
        open_stages(state, what, pipe.before)
        return 0 if passes_before(state, what) else 1
    if operation == OP_ADMITTED:
        journey.admitted_ps = state.cluster[0].now_ps
        open_stages(state, what, pipe.beside | pipe.segments)
    elif operation == OP_TOKENS:
        issue_segments(state, what, i)
    elif operation == OP_DECODED:
        journey.decoded_ps = state.cluster[0].now_ps
        journey.phase = IN_JOIN
        return 0 if passes_all(state, what) else 1
    else:
        start(state)
    return 0

"""The pools of the stages: calls wait in a queue, free servers begin batches of them. STAGES.md says it precisely."""

from replay.engine.jit import kernel
from replay.engine.notes import fault
from replay.engine.schema import MAX_TIME_PS, NEVER_PS, NONE, TIME_RANGE
from replay.engine.tree import set_event


@kernel
def set_stage_event(state, leaf, time_ps):
    """Set the time of a leaf of the stages' tree, and of the stages among all events. Modified in place."""
    agendas = state.pipeline.agendas
    set_event(agendas, leaf, time_ps)
    set_event(state.tree, 3 * state.cluster[0].num_instances + 4, agendas[1])


@kernel
def change_station(state, s):
    """Add the time since the last change to the call-seconds of stage s, before its counts change. In place."""
    station = state.pipeline.stations[s]
    elapsed_s = (state.cluster[0].now_ps - station.changed_ps) * 1e-12
    station.waiting_area += elapsed_s * station.waiting
    station.serving_area += elapsed_s * station.serving
    station.changed_ps = state.cluster[0].now_ps


@kernel
def issue(state, r, s):
    """Let the next call of request r join the queue of stage s, modified in place."""
    pipeline = state.pipeline
    now_ps = state.cluster[0].now_ps
    station = pipeline.stations[s]
    task = pipeline.tasks[r * pipeline.pipe[0].num_stages + s]
    c = task.first_call + task.issued
    if task.issued == 0:
        task.ready_ps = now_ps
    task.issued += 1
    pipeline.calls[c].since_ps = now_ps
    pipeline.calls[c].next = NONE
    line = state.requests[r].tier if station.by_tier else 0
    last = pipeline.lines[s, line, 1]
    if last < 0:
        pipeline.lines[s, line, 0] = c
    else:
        pipeline.calls[last].next = c
    pipeline.lines[s, line, 1] = c
    change_station(state, s)
    station.waiting += 1
    pipeline.pipe[0].dirty = 1


@kernel
def next_line(state, s):
    """Return the line of stage s whose first call goes next: the most urgent; -1 if no call waits."""
    for line in range(state.pipeline.lines.shape[1]):
        if state.pipeline.lines[s, line, 0] >= 0:
            return line
    return -1


@kernel
def waited_since(state, s):
    """Return since when the call has waited that has waited longest for stage s, NEVER_PS for none."""
    since_ps = NEVER_PS
    for line in range(state.pipeline.lines.shape[1]):
        c = state.pipeline.lines[s, line, 0]
        if c >= 0:
            since_ps = min(since_ps, state.pipeline.calls[c].since_ps)
    return since_ps


@kernel
def start_batch(state, s, b):
    """Begin a batch of the calls that go first on server b of stage s, modified in place."""
    pipeline = state.pipeline
    station = pipeline.stations[s]
    bench = pipeline.benches[b]
    now_ps = state.cluster[0].now_ps
    taken = min(station.waiting, station.max_batch)
    duration_ps = station.base_ps
    last = NONE
    for _ in range(taken):
        line = next_line(state, s)
        c = pipeline.lines[s, line, 0]
        call = pipeline.calls[c]
        pipeline.lines[s, line, 0] = call.next
        if call.next < 0:
            pipeline.lines[s, line, 1] = NONE
        call.next = NONE
        if last < 0:
            bench.head = c
        else:
            pipeline.calls[last].next = c
        last = c
        duration_ps += call.work_ps
        if duration_ps > MAX_TIME_PS - now_ps:
            fault(state, TIME_RANGE, 0, 0)
            return
        station.items += call.items
        pipeline.tasks[call.request * pipeline.pipe[0].num_stages + s].queue_ps += now_ps - call.since_ps
    change_station(state, s)
    station.waiting -= taken
    station.serving += taken
    station.busy += 1
    station.batches += 1
    station.calls += taken
    bench.start_ps = now_ps
    bench.end_ps = now_ps + duration_ps
    set_stage_event(state, pipeline.pipe[0].num_stages + b, bench.end_ps)


@kernel
def start_stage(state, s):
    """Begin batches on the free servers of stage s as long as its rule lets it, modified in place."""
    pipeline = state.pipeline
    station = pipeline.stations[s]
    wait_leaf = pipeline.pipe[0].num_stages + pipeline.pipe[0].num_servers + s
    look_ps = NEVER_PS
    b = station.first_server
    while station.waiting > 0 and station.busy < station.servers:
        if station.wait_ps > 0 and station.waiting < station.max_batch:
            due_ps = waited_since(state, s) + station.wait_ps
            if due_ps > state.cluster[0].now_ps:
                look_ps = due_ps
                break
        while pipeline.benches[b].head >= 0:
            b += 1
        start_batch(state, s, b)
        if state.cluster[0].fault != 0:
            return
    if station.wait_ps > 0:
        set_stage_event(state, wait_leaf, look_ps)


@kernel
def start(state):
    """Begin what batches can begin, unless something of the stages is still to happen now. Modified in place."""
    pipeline = state.pipeline
    if pipeline.agendas[1] == state.cluster[0].now_ps:
        return
    pipeline.pipe[0].dirty = 0
    for s in range(pipeline.pipe[0].num_stages):
        start_stage(state, s)

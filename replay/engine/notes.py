"""What the kernel leaves for Python to tell: the first fault, and the event log."""

from replay.engine.jit import inlined


@inlined
def fault(state, code, at, value):
    """Stop the replay: the first fault is kept, Python makes a sentence of it."""
    cluster = state.cluster[0]
    if cluster.fault == 0:
        cluster.fault = code
        cluster.fault_at = at
        cluster.fault_value = value


@inlined
def note(state, kind, r, i, value):
    """Append to the event log if there is one, modified in place."""
    cluster = state.cluster[0]
    if cluster.log:
        event = state.log[cluster.log_count]
        event.time_ps = cluster.now_ps
        event.request = r
        event.instance = i
        event.value = value
        event.kind = kind
        cluster.log_count += 1

"""Events of the KV hierarchy to come: a binary heap by (time, sequence); its head is the event tree's last leaf."""

from replay.engine.jit import inlined, kernel
from replay.engine.schema import MAX_TIME_PS, NEVER_PS, TIME_RANGE
from replay.engine.tree import set_event


@inlined
def sooner(heap, a, b):
    """Whether the timer at place a goes before the one at place b."""
    if heap[a].time_ps != heap[b].time_ps:
        return heap[a].time_ps < heap[b].time_ps
    return heap[a].sequence < heap[b].sequence


@inlined
def swap(heap, a, b):
    """Exchange two timers, modified in place."""
    time_ps, sequence, kind, what = heap[a].time_ps, heap[a].sequence, heap[a].kind, heap[a].what
    heap[a].time_ps, heap[a].sequence = heap[b].time_ps, heap[b].sequence
    heap[a].kind, heap[a].what = heap[b].kind, heap[b].what
    heap[b].time_ps, heap[b].sequence, heap[b].kind, heap[b].what = time_ps, sequence, kind, what


@kernel
def push_timer(state, time_ps, kind, what):
    """Have something happen at time_ps, after what was asked for that time before. Modified in place. O(log timers)."""
    cluster = state.cluster[0]
    heap = state.hierarchy.timer_heap
    if time_ps > MAX_TIME_PS:
        if cluster.fault == 0:
            cluster.fault = TIME_RANGE
            cluster.fault_at = 0
        return
    place = cluster.timers
    cluster.timers = place + 1
    cluster.timer_sequence += 1
    heap[place].time_ps = time_ps
    heap[place].sequence = cluster.timer_sequence
    heap[place].kind = kind
    heap[place].what = what
    while place > 0 and sooner(heap, place, (place - 1) >> 1):
        swap(heap, place, (place - 1) >> 1)
        place = (place - 1) >> 1
    set_event(state.tree, 2 * cluster.num_instances, heap[0].time_ps)


@kernel
def pop_timer(state):
    """Take the next timer off the heap, modified in place; returns (kind, what)."""
    cluster = state.cluster[0]
    heap = state.hierarchy.timer_heap
    kind = heap[0].kind
    what = heap[0].what
    cluster.timer_now = heap[0].sequence
    count = cluster.timers - 1
    cluster.timers = count
    swap(heap, 0, count)
    place = 0
    while 2 * place + 1 < count:
        below = 2 * place + 1
        if below + 1 < count and sooner(heap, below + 1, below):
            below += 1
        if not sooner(heap, below, place):
            break
        swap(heap, below, place)
        place = below
    set_event(state.tree, 2 * cluster.num_instances, heap[0].time_ps if count > 0 else NEVER_PS)
    return kind, what

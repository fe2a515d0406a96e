"""Events of the fabric to come: rows of `flows` in a heap by (end_ps, sequence); its head is in the event tree."""

from replay.engine.jit import inlined, kernel
from replay.engine.schema import MAX_TIME_PS, NEVER_PS, TIME_RANGE
from replay.engine.tree import set_event


@inlined
def sooner(flows, a, b):
    """Whether the event of row a comes before that of row b."""
    if flows[a].end_ps != flows[b].end_ps:
        return flows[a].end_ps < flows[b].end_ps
    return flows[a].sequence < flows[b].sequence


@kernel
def push_event(state, f, time_ps):
    """Put row f on the agenda for time_ps, after what is there for that time, modified in place. O(log events)."""
    net = state.wires.net[0]
    flows = state.wires.flows
    agenda = state.wires.agenda
    if time_ps > MAX_TIME_PS:
        if state.cluster[0].fault == 0:
            state.cluster[0].fault = TIME_RANGE
        return
    flows[f].end_ps = time_ps
    flows[f].sequence = net.sequence
    net.sequence += 1
    place = net.events
    net.events = place + 1
    while place > 0:
        above = (place - 1) >> 1
        if not sooner(flows, f, agenda[above]):
            break
        agenda[place] = agenda[above]
        place = above
    agenda[place] = f


@kernel
def pop_event(state):
    """Take the first row off the agenda and return it, modified in place. O(log events)."""
    net = state.wires.net[0]
    flows = state.wires.flows
    agenda = state.wires.agenda
    first = agenda[0]
    count = net.events - 1
    net.events = count
    last = agenda[count]
    place = 0
    while 2 * place + 1 < count:
        below = 2 * place + 1
        if below + 1 < count and sooner(flows, agenda[below + 1], agenda[below]):
            below += 1
        if not sooner(flows, agenda[below], last):
            break
        agenda[place] = agenda[below]
        place = below
    agenda[place] = last
    return first


@inlined
def next_row(state):
    """Return the row whose event comes first: of the agenda, or the flow that ends first; -1 for none."""
    net = state.wires.net[0]
    flows = state.wires.flows
    if net.events == 0:
        return net.first
    top = state.wires.agenda[0]
    if net.first >= 0 and sooner(flows, net.first, top):
        return net.first
    return top


@kernel
def set_next(state):
    """Tell the event tree when the fabric's next event comes, modified in place."""
    f = next_row(state)
    time_ps = NEVER_PS if f < 0 else state.wires.flows[f].end_ps
    set_event(state.tree, 2 * state.cluster[0].num_instances + 1, time_ps)

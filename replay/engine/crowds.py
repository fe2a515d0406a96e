"""Which flows are on which links, and which links are crowded: their flows might want more than they have to give."""

from replay.engine.fabric_schema import HOPS
from replay.engine.jit import inlined, kernel
from replay.engine.schema import NONE

MOST_SENDERS = 1000  # that incast loss tells apart


@inlined
def incast_factor(state, link):
    """Return in thousandths how much longer a receiving card takes for what its flows send at once."""
    net = state.wires.net[0]
    if net.loss == 0 or not state.wires.links[link].receives:
        return 1000
    return 1000 + net.loss * min(state.wires.links[link].flows - 1, MOST_SENDERS)


@inlined
def room_of(state, m):
    """Return what link m has to give, units a picosecond."""
    factor = incast_factor(state, m)
    rate = state.wires.links[m].rate
    return rate if factor == 1000 else rate * 1000 // factor


@kernel
def tell_crowd(state, m):
    """Put link m on the list of crowded links or take it off, as its flows came or went, modified in place."""
    wires = state.wires
    net = wires.net[0]
    crowds = wires.links[m].peaks > room_of(state, m)
    place = wires.crowded[m] - 1
    if crowds or place >= 0:
        net.unfair = 1
    if crowds and place < 0:
        wires.crowd[net.crowds] = m
        net.crowds += 1
        wires.crowded[m] = net.crowds
    elif not crowds and place >= 0:
        net.crowds -= 1
        last = wires.crowd[net.crowds]
        wires.crowd[place] = last
        wires.crowded[last] = place + 1
        wires.crowded[m] = 0


@kernel
def attach(state, f):
    """Put flow f on the lists of its links and, by peak, of the flows under way, modified in place."""
    wires = state.wires
    net = wires.net[0]
    flow = wires.flows[f]
    flow.new_rate = flow.peak
    before = net.last
    while before >= 0 and wires.flows[before].peak > flow.peak:
        before = wires.flows[before].previous
    flow.previous = before
    flow.next = net.active if before < 0 else wires.flows[before].next
    if before < 0:
        net.active = f
    else:
        wires.flows[before].next = f
    if flow.next < 0:
        net.last = f
    else:
        wires.flows[flow.next].previous = f
    for h in range(flow.hops):
        link = wires.links[wires.hops[f, h]]
        e = f * HOPS + h
        link.peaks += flow.peak
        tell_crowd(state, wires.hops[f, h])
        wires.entries[e].previous = NONE
        wires.entries[e].next = link.head
        if link.head >= 0:
            wires.entries[link.head].previous = e
        link.head = e


@kernel
def detach(state, f):
    """Take flow f off the lists of its links and of the flows under way, modified in place."""
    wires = state.wires
    flow = wires.flows[f]
    if flow.previous >= 0:
        wires.flows[flow.previous].next = flow.next
    else:
        wires.net[0].active = flow.next
    if flow.next >= 0:
        wires.flows[flow.next].previous = flow.previous
    else:
        wires.net[0].last = flow.previous
    for h in range(flow.hops):
        entry = wires.entries[f * HOPS + h]
        wires.links[wires.hops[f, h]].peaks -= flow.peak
        tell_crowd(state, wires.hops[f, h])
        if entry.previous >= 0:
            wires.entries[entry.previous].next = entry.next
        else:
            wires.links[wires.hops[f, h]].head = entry.next
        if entry.next >= 0:
            wires.entries[entry.next].previous = entry.previous

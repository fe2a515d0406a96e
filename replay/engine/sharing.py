"""How flows share links: FIFO reservations, or max-min fair shares by progressive filling."""

import numpy as np

from replay.engine.crowds import incast_factor, room_of
from replay.engine.fabric_schema import FLOWING, HOPS
from replay.engine.jit import inlined, kernel
from replay.engine.paths import rounded_up
from replay.engine.schema import NEVER_PS, NONE


@kernel
def reserve(state, f):
    """Serve flow f on every link of its path after what came before, modified in place; returns when it ends.

    Its bytes go on as they come: a link begins when the link before does, and ends no sooner. O(links)
    """
    wires = state.wires
    flow = wires.flows[f]
    units = flow.bytes * wires.net[0].unit
    first_ps = state.cluster[0].now_ps
    last_ps = first_ps
    for h in range(flow.hops):
        link = wires.links[wires.hops[f, h]]
        work_ps = rounded_up(units, link.rate)
        factor = incast_factor(state, wires.hops[f, h])
        if factor > 1000:
            work_ps = work_ps * factor // 1000
        start_ps = max(first_ps, link.free_ps)
        link.free_ps = start_ps + work_ps
        link.wait_ps += start_ps - first_ps
        link.busy_ps += work_ps
        if h == 0:
            flow.start_ps = start_ps
        first_ps = start_ps
        last_ps = max(last_ps, start_ps + work_ps)
    return last_ps


@inlined
def parted(room, count):
    """Return room // count, for 0 <= room < 2**52: floating point rounds no such quotient up to a whole number."""
    return np.int64(np.float64(room) / np.float64(count))


@inlined
def fuller(links, a, b):
    """Whether link a has a smaller share to give than link b; of equal ones the lower goes first."""
    if links[a].share != links[b].share:
        return links[a].share < links[b].share
    return a < b


@kernel
def sink_link(state, place, count):
    """Move the link at a place of the heap of `count` links down to where its share belongs, modified in place."""
    links = state.wires.links
    order = state.wires.order
    link = order[place]
    while 2 * place + 1 < count:
        below = 2 * place + 1
        if below + 1 < count and fuller(links, order[below + 1], order[below]):
            below += 1
        if not fuller(links, order[below], link):
            break
        order[place] = order[below]
        place = below
    order[place] = link


@kernel
def open_links(state):
    """Say what every crowded link has to give, modified in place."""
    wires = state.wires
    for k in range(wires.net[0].crowds):
        link = wires.links[wires.crowd[k]]
        link.room = room_of(state, wires.crowd[k])
        link.without = link.flows


@kernel
def count_class(state, urgency):
    """Count the flows of a class on every crowded link, modified in place."""
    wires = state.wires
    for k in range(wires.net[0].crowds):
        wires.links[wires.crowd[k]].without = 0
    f = wires.net[0].active
    while f >= 0:
        flow = wires.flows[f]
        if flow.urgency == urgency:
            for h in range(flow.hops):
                if wires.crowded[wires.hops[f, h]]:
                    wires.links[wires.hops[f, h]].without += 1
        f = flow.next


@kernel
def line_up(state):
    """Heap the crowded links that flows wait at by the share they could give, modified in place; returns how many."""
    wires = state.wires
    count = 0
    for k in range(wires.net[0].crowds):
        m = wires.crowd[k]
        if wires.links[m].without > 0:
            wires.links[m].share = parted(wires.links[m].room, wires.links[m].without)
            wires.order[count] = m
            count += 1
    for place in range(count // 2 - 1, -1, -1):
        sink_link(state, place, count)
    return count


@inlined
def give(state, f, share):
    """Give flow f its share and take it from the crowded links of its path, modified in place."""
    wires = state.wires
    flow = wires.flows[f]
    flow.pass_number = wires.net[0].pass_number
    flow.new_rate = share
    for h in range(flow.hops):
        m = wires.hops[f, h]
        if wires.crowded[m]:
            wires.links[m].room -= share
            wires.links[m].without -= 1


@kernel
def fill(state, m, urgency):
    """Give every flow of a class on link m that has no share what the link can give, modified in place."""
    wires = state.wires
    number = wires.net[0].pass_number
    share = wires.links[m].share
    e = wires.links[m].head
    while e >= 0:
        f = e // HOPS
        if wires.flows[f].urgency == urgency and wires.flows[f].pass_number != number:
            give(state, f, share)
        e = wires.entries[e].next


@inlined
def settle_top(state, count):
    """Bring the first link of the heap up to date, modified in place; returns how many links are left in it."""
    wires = state.wires
    while count > 0:
        link = wires.links[wires.order[0]]
        if link.without > 0:
            share = parted(link.room, link.without)
            if share == link.share:
                return count
            link.share = share
        else:
            count -= 1
            wires.order[0] = wires.order[count]
        if count > 0:
            sink_link(state, 0, count)
    return count


@kernel
def share_class(state, urgency):
    """Find the shares of the flows of a class in what is left, modified in place."""
    wires = state.wires
    number = wires.net[0].pass_number
    count = line_up(state)
    f = wires.net[0].active
    while True:
        while f >= 0 and (wires.flows[f].pass_number == number or wires.flows[f].urgency != urgency):
            f = wires.flows[f].next
        if f < 0:
            return
        count = settle_top(state, count)
        if count == 0 or wires.flows[f].peak <= wires.links[wires.order[0]].share:
            give(state, f, wires.flows[f].peak)
        else:
            fill(state, wires.order[0], urgency)


@kernel
def share_out(state):
    """Find the max-min fair rates of all flows, class after class, and when they end, modified in place.

    The link with the least for each of its flows is filled first, unless a flow cannot take that much; what others can
    give never shrinks by either, so that a heap by outdated shares finds it. Links that cannot be full are left out; if
    flows came and went on such links only, nobody else is concerned.
    cost   : O(links of all flows + crowded links log crowded links)
    source : progressive filling, Bertsekas and Gallager, Data Networks, section 6.5
    """
    net = state.wires.net[0]
    if not net.unfair:
        retime(state)
        return
    net.unfair = 0
    net.pass_number += 1
    open_links(state)
    for urgency in range(net.classes):
        if net.classes > 1:
            count_class(state, urgency)
        share_class(state, urgency)
    retime(state)


@kernel
def retime(state):
    """Let every flow under way go on at its new rate, and find the one that ends first, modified in place. O(flows)."""
    wires = state.wires
    net = wires.net[0]
    now_ps = state.cluster[0].now_ps
    first = NONE
    f = net.active
    while f >= 0:
        flow = wires.flows[f]
        if flow.new_rate != flow.rate:
            flow.left = max(0, flow.left - flow.rate * (now_ps - flow.since_ps))
            flow.since_ps = now_ps
            flow.rate = flow.new_rate
            if flow.left == 0:
                flow.end_ps = now_ps
            elif flow.rate == 0:
                flow.end_ps = NEVER_PS
            else:
                flow.end_ps = now_ps + rounded_up(flow.left, flow.rate)
        if first < 0 or flow.end_ps < wires.flows[first].end_ps or (
                flow.end_ps == wires.flows[first].end_ps and flow.sequence < wires.flows[first].sequence):
            first = f
        f = flow.next
    net.first = first


@kernel
def moved_bytes(state, t):
    """Return the bytes of transfer t that have arrived at the end of their path by now."""
    wires = state.wires
    now_ps = state.cluster[0].now_ps
    total = 0
    f = wires.transfers[t].first_flow
    while f >= 0:
        flow = wires.flows[f]
        if flow.state != FLOWING:
            total += flow.bytes
        elif wires.net[0].fair:
            left = max(0, flow.left - flow.rate * (now_ps - flow.since_ps))
            total += flow.bytes - rounded_up(left, wires.net[0].unit)
        else:
            gone_ps = max(0, now_ps - flow.start_ps)
            whole_ps = max(1, flow.end_ps - flow.start_ps)
            while whole_ps >= 1 << 20:  # keeps the product inside int64; exact for up to a microsecond
                whole_ps >>= 1
                gone_ps >>= 1
            total += flow.bytes * min(gone_ps, whole_ps) // whole_ps
        f = flow.sibling
    return total

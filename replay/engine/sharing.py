"""How flows share links: FIFO reservations, or max-min fair shares by progressive filling."""

from replay.engine.fabric_schema import FLOWING, HOPS
from replay.engine.jit import inlined, kernel
from replay.engine.paths import rounded_up
from replay.engine.schema import NEVER_PS, NONE

MOST_SENDERS = 1000  # that incast loss tells apart


@inlined
def incast_factor(state, link):
    """Return in thousandths how much longer a receiving card takes for what its flows send at once."""
    net = state.wires.net[0]
    if net.loss == 0 or not state.wires.links[link].receives:
        return 1000
    return 1000 + net.loss * min(state.wires.links[link].flows - 1, MOST_SENDERS)


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


@kernel
def attach(state, f):
    """Put flow f on the lists of its links and of the flows under way, modified in place."""
    wires = state.wires
    net = wires.net[0]
    flow = wires.flows[f]
    flow.previous = NONE
    flow.next = net.active
    if net.active >= 0:
        wires.flows[net.active].previous = f
    net.active = f
    for h in range(flow.hops):
        link = wires.links[wires.hops[f, h]]
        e = f * HOPS + h
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
    for h in range(flow.hops):
        entry = wires.entries[f * HOPS + h]
        if entry.previous >= 0:
            wires.entries[entry.previous].next = entry.next
        else:
            wires.links[wires.hops[f, h]].head = entry.next
        if entry.next >= 0:
            wires.entries[entry.next].previous = entry.previous


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
def line_up(state, urgency):
    """Heap the links that flows of a class wait at by the share they could give, in place; returns how many."""
    wires = state.wires
    count = 0
    f = wires.net[0].active
    while f >= 0:
        flow = wires.flows[f]
        if flow.urgency == urgency:
            for h in range(flow.hops):
                m = wires.hops[f, h]
                link = wires.links[m]
                if link.without == 0:
                    wires.order[count] = m
                    count += 1
                link.without += 1
        f = flow.next
    for place in range(count):
        link = wires.links[wires.order[place]]
        link.share = link.room // link.without
    for place in range(count // 2 - 1, -1, -1):
        sink_link(state, place, count)
    return count


@kernel
def fill(state, m, urgency):
    """Give every flow of a class on link m that has no share what the link can give, modified in place."""
    wires = state.wires
    number = wires.net[0].pass_number
    share = wires.links[m].share
    e = wires.links[m].head
    while e >= 0:
        f = e // HOPS
        flow = wires.flows[f]
        if flow.urgency == urgency and flow.pass_number != number:
            flow.pass_number = number
            flow.new_rate = share
            for h in range(flow.hops):
                link = wires.links[wires.hops[f, h]]
                link.room -= share
                link.without -= 1
        e = wires.entries[e].next


@kernel
def share_out(state):
    """Find the max-min fair rates of all flows, class after class, and when they end, modified in place.

    The link with the least for each of its flows is filled first; what others can give never shrinks by that, so that a
    heap by outdated shares finds it.
    cost   : O(links of all flows + links log links)
    source : progressive filling, Bertsekas and Gallager, Data Networks, section 6.5
    """
    wires = state.wires
    net = wires.net[0]
    net.pass_number += 1
    for m in range(len(wires.links)):
        link = wires.links[m]
        if link.flows > 0:
            link.room = link.rate
            factor = incast_factor(state, m)
            if factor > 1000:
                link.room = link.rate * 1000 // factor
    for urgency in range(net.classes):
        count = line_up(state, urgency)
        while count > 0:
            m = wires.order[0]
            link = wires.links[m]
            if link.without > 0:
                now_share = link.room // link.without
                if now_share == link.share:
                    fill(state, m, urgency)
                else:
                    link.share = now_share
            if link.without == 0:
                count -= 1
                wires.order[0] = wires.order[count]
            if count > 0:
                sink_link(state, 0, count)
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

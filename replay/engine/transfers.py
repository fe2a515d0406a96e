"""Transfers: what is sent from one endpoint to another, as one flow or one a rail, until it is delivered."""

from replay.engine.agenda import push_event
from replay.engine.crowds import attach, detach
from replay.engine.fabric_schema import (
    ARRIVED,
    DELIVERING,
    DRAIN_KIND,
    ENDED,
    EXCHANGE,
    EXCHANGED,
    FETCH_KIND,
    FETCHED,
    FLOWING,
    FREE,
    HANDOFF_KIND,
    LOAD_KIND,
    REQUEST_KIND,
    REQUESTED,
    WRITE_KIND,
)
from replay.engine.jit import inlined, kernel
from replay.engine.paths import (
    choose_rail,
    choose_spine,
    climbs,
    delay_ps,
    is_networked,
    lay_path,
    rounded_up,
)
from replay.engine.schema import BROKEN_LAW, NEVER_PS, NONE
from replay.engine.sharing import reserve
from replay.engine.tier_schema import DRAINED, LOADED, MOST_PARTS, NOTHING, WRITTEN
from replay.engine.timers import push_timer


@kernel
def new_flow(state):
    """Return a free row of `flows`, modified in place. faults: BROKEN_LAW if there is none."""
    net = state.wires.net[0]
    f = net.flow_free
    if f >= 0:
        net.flow_free = state.wires.flows[f].next
    elif net.flows_used < len(state.wires.flows):
        f = net.flows_used
        net.flows_used += 1
    else:
        state.cluster[0].fault = BROKEN_LAW
        f = len(state.wires.flows) - 1
    net.flows_taken += 1
    return f


@kernel
def new_transfer(state):
    """Return a free row of `transfers`, modified in place; there are as many as flows."""
    net = state.wires.net[0]
    t = net.transfer_free
    if t >= 0:
        net.transfer_free = state.wires.transfers[t].next
    else:
        t = min(net.transfers_used, len(state.wires.transfers) - 1)
        net.transfers_used = t + 1
    return t


@inlined
def epoch_of(state, kind, what):
    """Return a number that changes when what a transfer was begun for is given up."""
    if kind == HANDOFF_KIND:
        return state.jobs[what].preemptions
    if kind == LOAD_KIND:
        return state.hierarchy.loads[what // MOST_PARTS].starts
    return 0


@kernel
def begin(state, source, target, size_bytes, kind, what):
    """Begin a transfer between two endpoints and return its row, modified in place.

    kind, what : a kind of traffic, and the request, part of a load, write, ... that it is for; -1 for none
    """
    wires = state.wires
    net = wires.net[0]
    t = new_transfer(state)
    transfer = wires.transfers[t]
    transfer.bytes = size_bytes
    transfer.begin_ps = state.cluster[0].now_ps
    transfer.source = source
    transfer.target = target
    transfer.kind = kind
    transfer.what = what
    transfer.epoch = epoch_of(state, kind, what)
    transfer.first_flow = NONE
    transfer.flows_left = 0
    transfer.alone_ps = 0
    network = wires.kinds[kind].network
    networked = is_networked(state, source, target)
    transfer.delay_ps = delay_ps(state, source, target, network, size_bytes)
    wires.kinds[kind].transfers += 1
    wires.kinds[kind].bytes += size_bytes
    rails = wires.networks[network].rails if networked and net.striping else 1
    for k in range(rails):
        flow_bytes = size_bytes // rails + (1 if k < size_bytes % rails else 0)
        if flow_bytes > 0 or k == 0:
            rail = k if rails > 1 else choose_rail(state, source, target, network)
            begin_flow(state, t, flow_bytes, rail, network if networked else NONE)
    net.begun += 1
    net.dirty = 1
    return t


@kernel
def begin_flow(state, t, size_bytes, rail, network):
    """Begin a flow of transfer t on a rail, modified in place; network: -1 if it crosses none."""
    wires = state.wires
    net = wires.net[0]
    transfer = wires.transfers[t]
    f = new_flow(state)
    flow = wires.flows[f]
    spine = NONE
    if network >= 0 and climbs(state, transfer.source, transfer.target, network):
        spine = choose_spine(state, transfer.source, transfer.target, network, rail)
        count_collision(state, transfer.source, network, rail, spine)
    flow.hops = lay_path(state, f, transfer.source, transfer.target, max(network, 0), rail, spine)
    flow.bytes = size_bytes
    flow.transfer = t
    flow.urgency = wires.kinds[transfer.kind].urgency
    flow.state = FLOWING
    flow.sibling = transfer.first_flow
    transfer.first_flow = f
    transfer.flows_left += 1
    now_ps = state.cluster[0].now_ps
    flow.peak = NEVER_PS
    for h in range(flow.hops):
        link = wires.links[wires.hops[f, h]]
        flow.peak = min(flow.peak, link.rate)
        if link.flows == 0:
            link.since_ps = now_ps
        link.flows += 1
        link.most = max(link.most, link.flows)
    alone_ps = rounded_up(size_bytes * net.unit, flow.peak) if flow.hops > 0 else 0
    transfer.alone_ps = max(transfer.alone_ps, alone_ps + transfer.delay_ps)
    flow.left = size_bytes * net.unit if flow.hops > 0 else 0
    flow.since_ps = now_ps
    flow.rate = NONE if flow.hops > 0 else 0
    if not net.fair or flow.hops == 0:  # without a link it takes no time
        push_event(state, f, reserve(state, f))
        return
    flow.start_ps = now_ps
    flow.end_ps = NEVER_PS
    flow.sequence = net.sequence
    net.sequence += 1
    attach(state, f)


@inlined
def count_collision(state, source, network, rail, spine):
    """Count a flow that climbs, and whether it found its uplink taken while another of the leaf was idle, in place."""
    wires = state.wires
    net = wires.net[0]
    wire = wires.networks[network]
    first = wire.first_up + (wires.endpoints[source].leaf * wire.rails + rail) * wire.spines
    net.inter += 1
    if wires.links[first + spine].flows == 0:
        return
    for other in range(wire.spines):
        if wires.links[first + other].flows == 0:
            net.collided += 1
            return


@kernel
def end_flow(state, f):
    """Take flow f off its links, modified in place; returns as `deliver_transfer`, or NOTHING if more is to come."""
    wires = state.wires
    net = wires.net[0]
    flow = wires.flows[f]
    transfer = wires.transfers[flow.transfer]
    for h in range(flow.hops):
        link = wires.links[wires.hops[f, h]]
        link.flows -= 1
        link.bytes += flow.bytes
        if net.fair and link.flows == 0:
            link.busy_ps += state.cluster[0].now_ps - link.since_ps
    if net.fair and flow.hops > 0:
        detach(state, f)
    net.dirty = 1
    flow.state = ENDED
    transfer.flows_left -= 1
    if transfer.flows_left > 0:
        return NOTHING
    if transfer.delay_ps > 0:
        flow.state = DELIVERING
        push_event(state, f, state.cluster[0].now_ps + transfer.delay_ps)
        return NOTHING
    return deliver_transfer(state, flow.transfer)


@kernel
def deliver_transfer(state, t):
    """Hand over what transfer t brought and free its rows, in place; returns 8 * (request or instance) + what to do."""
    wires = state.wires
    net = wires.net[0]
    transfer = wires.transfers[t]
    kind = wires.kinds[transfer.kind]
    took_ps = state.cluster[0].now_ps - transfer.begin_ps
    kind.delivered += 1
    kind.delivered_bytes += transfer.bytes
    kind.time_ps += took_ps
    kind.alone_ps += transfer.alone_ps
    kind.longest_ps = max(kind.longest_ps, took_ps)
    f = transfer.first_flow
    while f >= 0:
        following = wires.flows[f].sibling
        wires.flows[f].state = FREE
        wires.flows[f].next = net.flow_free
        net.flow_free = f
        net.flows_taken -= 1
        f = following
    transfer.next = net.transfer_free
    net.transfer_free = t
    return hand_over(state, transfer.kind, transfer.what, transfer.epoch)


@kernel
def hand_over(state, kind, what, epoch):
    """Let what waits for a transfer go on, modified in place; returns as `deliver_transfer`."""
    now_ps = state.cluster[0].now_ps
    if what < 0:
        return NOTHING
    if kind == HANDOFF_KIND:
        transit = state.wires.transits[what]
        if epoch != state.jobs[what].preemptions:
            return NOTHING
        transit.under_way -= 1
        return 8 * what + ARRIVED if transit.under_way == 0 and transit.ready else NOTHING
    if kind == FETCH_KIND:
        return 8 * what + FETCHED
    if kind == REQUEST_KIND:
        return 8 * what + REQUESTED
    if kind == EXCHANGE:
        return 8 * what + EXCHANGED
    if kind == WRITE_KIND:
        push_timer(state, now_ps, WRITTEN, what)
    elif kind == DRAIN_KIND:
        push_timer(state, now_ps, DRAINED, what)
    elif kind == LOAD_KIND:
        part_arrived(state, what, epoch)
    return NOTHING


@kernel
def part_arrived(state, k, epoch):
    """Note that part k of a load came over the network; the load ends when its media are through too. In place."""
    r = k // MOST_PARTS
    load = state.hierarchy.loads[r]
    if load.starts != epoch:
        return
    state.hierarchy.parts[k].transfer = NONE
    load.transfers -= 1
    if load.transfers == 0 and load.under_way:
        end_load(state, r)


@kernel
def end_load(state, r):
    """Have the load of request r end as soon as its media are through, modified in place."""
    load = state.hierarchy.loads[r]
    load.end_ps = max(state.cluster[0].now_ps, load.end_ps)
    load.load_ps = load.end_ps - load.issued_ps
    push_timer(state, load.end_ps, LOADED, r)
    load.timer = state.cluster[0].timer_sequence

"""Which links a flow takes, and how long it would take them: rails, spines, hashes, delays, quotes."""

import numpy as np

from replay.engine.draws import blend, pick
from replay.engine.fabric_schema import (
    ADAPTIVE,
    ECMP,
    HOPS,
    INTO,
    NIC_IN,
    NIC_OUT,
    OUT,
)
from replay.engine.jit import inlined, kernel
from replay.engine.schema import NONE

SCRATCH = 0  # row of `flows` and `hops` for paths that are only looked at


@inlined
def rounded_up(units, rate):
    """Return how many picoseconds so many units take at a rate."""
    return (units + rate - 1) // rate


@kernel
def is_networked(state, source, target):
    """Whether transfers between two endpoints cross network cards."""
    if source == target:
        return True
    endpoints = state.wires.endpoints
    a = endpoints[source]
    b = endpoints[target]
    return a.node != b.node and (a.domain < 0 or a.domain != b.domain)


@inlined
def climbs(state, source, target, network):
    """Whether a path through network cards goes over a spine."""
    endpoints = state.wires.endpoints
    return source != target and state.wires.networks[network].spines > 0 and (
        endpoints[source].leaf != endpoints[target].leaf)


@kernel
def delay_ps(state, source, target, network, size_bytes):
    """Return what a transfer takes beyond its flows: latency, switches, messages and their acknowledgements."""
    net = state.wires.net[0]
    if not is_networked(state, source, target):
        return net.local_ps
    wire = state.wires.networks[network]
    far_ps = state.wires.endpoints[source].extra_ps + state.wires.endpoints[target].extra_ps
    messages = max(1, rounded_up(size_bytes, net.message_bytes))
    switches = 3 if climbs(state, source, target, network) else 1
    total_ps = wire.latency_ps + wire.hop_ps * switches + far_ps + messages * net.message_ps
    if net.outstanding > 0:
        total_ps += (messages - 1) // net.outstanding * 2 * (wire.latency_ps + far_ps)
    return total_ps


@kernel
def choose_rail(state, source, target, network):
    """Return the rail of an unstriped flow: the one with the fewest flows, or by hash."""
    net = state.wires.net[0]
    rails = state.wires.networks[network].rails
    if rails <= 1 or not is_networked(state, source, target):
        return 0
    if net.balance != ADAPTIVE:
        return pick(hash_of(state, source, target), rails)
    first = state.wires.ways[source, NIC_OUT + network]
    best = 0
    for rail in range(1, rails):
        if state.wires.links[first + rail].flows < state.wires.links[first + best].flows:
            best = rail
    return best


@inlined
def hash_of(state, source, target):
    """Return the hash of the transfer about to begin, or of its pair of endpoints, uint64."""
    net = state.wires.net[0]
    number = net.begun << 20 if net.per_flow else np.int64(0)
    return blend(net.salt, (np.int64(source) << 32) + target ^ number)


@kernel
def choose_spine(state, source, target, network, rail):
    """Return the spine of a flow that climbs."""
    wires = state.wires
    net = wires.net[0]
    wire = wires.networks[network]
    if wire.spines <= 1:
        return 0
    if net.balance == ECMP:
        return pick(blend(hash_of(state, source, target), rail + 1), wire.spines)
    up = wire.first_up + (wires.endpoints[source].leaf * wire.rails + rail) * wire.spines
    down = wire.first_down + (wires.endpoints[target].leaf * wire.rails + rail) * wire.spines
    best, fewest = 0, wires.links[up].flows + wires.links[down].flows
    for spine in range(1, wire.spines):
        flows = wires.links[up + spine].flows + wires.links[down + spine].flows
        if flows < fewest:
            best, fewest = spine, flows
    return best


@inlined
def step(state, f, link, place):
    """Make `link` the next of flow f's path unless it is in it or none, modified in place; returns the links so far."""
    hops = state.wires.hops
    if link < 0:
        return place
    for h in range(place):
        if hops[f, h] == link:
            return place
    if place < HOPS:
        hops[f, place] = link
    return place + 1


@kernel
def lay_path(state, f, source, target, network, rail, spine):
    """Write the path between two endpoints into row f of `hops`, modified in place; returns how many links it has.

    spine : -1 for a path that does not climb
    """
    wires = state.wires
    ways = wires.ways
    a = wires.endpoints[source]
    b = wires.endpoints[target]
    if source == target:
        place = step(state, f, ways[source, NIC_OUT + network] + rail, 0)
        return step(state, f, ways[target, NIC_IN + network] + rail, place)
    place = 0
    if a.node != b.node and a.domain >= 0 and a.domain == b.domain:
        place = step(state, f, a.scale_out, place)
        return step(state, f, b.scale_in, place)
    for k in range(4):
        place = step(state, f, ways[source, OUT + k], place)
    if a.node != b.node:
        place = step(state, f, ways[source, NIC_OUT + network] + rail, place)
        if spine >= 0:
            wire = wires.networks[network]
            up = wire.first_up + (a.leaf * wire.rails + rail) * wire.spines
            down = wire.first_down + (b.leaf * wire.rails + rail) * wire.spines
            place = step(state, f, up + spine, place)
            place = step(state, f, down + spine, place)
        if a.group >= 0 and b.group >= 0 and a.group != b.group:
            place = step(state, f, wires.bisection[a.group], place)
        place = step(state, f, ways[target, NIC_IN + network] + rail, place)
    for k in range(4):
        place = step(state, f, ways[target, INTO + k], place)
    return place


@kernel
def quote_ps(state, source, target, size_bytes, kind, seen):
    """Return how long a transfer would take if begun now: one flow on rail 0 and spine 0 beside what is there.

    seen : what is there as policies know it, rather than as it is
    """
    net = state.wires.net[0]
    now_ps = state.cluster[0].now_ps
    network = state.wires.kinds[kind].network
    networked = is_networked(state, source, target)
    spine = 0 if networked and climbs(state, source, target, network) else NONE
    count = lay_path(state, SCRATCH, source, target, network, 0, spine)
    flow_bytes = size_bytes
    if networked and net.striping:
        flow_bytes = size_bytes // state.wires.networks[network].rails
    longest_ps = 0
    for h in range(count):
        link = state.wires.links[state.wires.hops[SCRATCH, h]]
        if net.fair:
            flows = (link.seen_flows if seen else link.flows) + 1
            longest_ps = max(longest_ps, rounded_up(flow_bytes * net.unit, max(1, link.rate // flows)))
        else:
            free_ps = max(now_ps, link.seen_free_ps if seen else link.free_ps)
            longest_ps = max(longest_ps, free_ps - now_ps + rounded_up(flow_bytes * net.unit, link.rate))
    return longest_ps + delay_ps(state, source, target, network, size_bytes)

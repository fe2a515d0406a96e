"""The part of the engine that runs the fabric, behind one function, so that a run without it need not load it."""

import math

import numpy as np

from replay.engine.agenda import next_row, pop_event, push_event, set_next
from replay.engine.draws import uniform
from replay.engine.fabric_schema import (
    BACKGROUND,
    DELIVERING,
    ENDED,
    FLOWING,
    GENERATING,
    HANDOFF_KIND,
    NIC_IN,
    OP_BEGIN,
    OP_END,
    OP_FABRIC_EVENT,
    OP_MOVED,
    OP_QUOTE,
    OP_SHARE,
    OP_SHOW,
    SIGNALLING,
)
from replay.engine.going_on import goes_on, keep_every_other
from replay.engine.jit import inlined, kernel
from replay.engine.paths import quote_ps
from replay.engine.schema import NEVER_PS, NONE
from replay.engine.sharing import moved_bytes, share_out
from replay.engine.tier_schema import NOTHING
from replay.engine.transfers import begin, deliver_transfer, end_flow


@kernel
def share(state):
    """Find rates anew if flows came or went, and when the next event is, modified in place."""
    net = state.wires.net[0]
    if net.dirty:
        net.dirty = 0
        if net.fair:
            share_out(state)
    set_next(state)


@kernel
def fabric_event(state):
    """Handle the next event of the fabric, in place; returns what it asks of the event loop, as `deliver_transfer`."""
    flows = state.wires.flows
    net = state.wires.net[0]
    f = next_row(state)
    net.dirty = 1
    if f == net.first:  # a flow by its rate, not on the agenda
        return end_flow(state, f)
    pop_event(state)
    if flows[f].state == FLOWING:
        return end_flow(state, f)
    if flows[f].state == DELIVERING:
        flows[f].state = ENDED
        return deliver_transfer(state, flows[f].transfer)
    if flows[f].state == GENERATING:
        generate(state, f)
    elif flows[f].state == SIGNALLING:
        signal(state)
        come_again(state, f, net.signal_ps)
    else:
        take_sample(state)
        come_again(state, f, net.sample_ps)
    return NOTHING


@inlined
def come_again(state, f, after_ps):
    """Put a timer on the agenda again while the replay goes on, modified in place."""
    if goes_on(state):
        push_event(state, f, state.cluster[0].now_ps + after_ps)
    else:
        retire(state)


@inlined
def retire(state):
    """Count a timer that comes no more, modified in place."""
    net = state.wires.net[0]
    net.recurring -= 1
    net.flows_taken -= 1


@kernel
def next_gap_ps(state, g):
    """Return the time to the next flow of background generator g, exponentially distributed around its mean."""
    generator = state.wires.generators[g]
    u = uniform(generator.key, 3 * generator.count)
    return max(1, np.int64(np.rint(-math.log(1.0 - u) * generator.mean_ps)))


@kernel
def generate(state, f):
    """Begin a background flow between two random instances, and set the time of the next. Modified in place."""
    wires = state.wires
    g = wires.flows[f].transfer
    generator = wires.generators[g]
    if not goes_on(state):
        retire(state)
        return
    count = state.cluster[0].num_instances
    source = np.int64(uniform(generator.key, 3 * generator.count + 1) * count)
    target = np.int64(uniform(generator.key, 3 * generator.count + 2) * (count - 1))
    if count == 1:
        target = np.int64(wires.net[0].gateway)
    elif target >= source:
        target += 1
    begin(state, source, target, generator.bytes, BACKGROUND, NONE)
    generator.count += 1
    push_event(state, f, state.cluster[0].now_ps + next_gap_ps(state, g))


@inlined
def used_share(units, rate, span_ps):
    """Return which share of what a link can carry in a time it has carried."""
    return np.float64(units) / (np.float64(rate) * np.float64(span_ps))


@kernel
def signal(state):
    """Let policies see what is on the links now, modified in place. O(links)."""
    for m in range(len(state.wires.links)):
        link = state.wires.links[m]
        link.seen_flows = link.flows
        units = (link.bytes - link.seen_bytes) * state.wires.net[0].unit
        link.seen_share = used_share(units, link.rate, state.wires.net[0].signal_ps)
        link.seen_bytes = link.bytes
        link.seen_free_ps = link.free_ps


@kernel
def take_sample(state):
    """Write down how many bytes each link has carried; with no row left keep every other one. Modified in place."""
    net = state.wires.net[0]
    series = state.wires.series
    if net.samples == len(series):
        net.samples = keep_every_other(series)
        net.sample_ps *= 2
    series[net.samples, 0] = state.cluster[0].now_ps
    for m in range(len(state.wires.links)):
        series[net.samples, 1 + m] = state.wires.links[m].bytes
    net.samples += 1


@inlined
def show_card(state, view, j):
    """Fill in what policies read of the card through which instance j receives KV, view modified in place."""
    net = state.wires.net[0]
    card = state.wires.links[state.wires.ways[j, NIC_IN + state.wires.kinds[HANDOFF_KIND].network]]
    if net.signal_ps > 0:
        view.link_flows = card.seen_flows
        view.link_utilisation = card.seen_share
    else:
        view.link_flows = card.flows
        view.link_utilisation = used_share(card.bytes * net.unit, card.rate, max(1, state.cluster[0].now_ps))


@kernel
def show(state, i, r):
    """Fill in what decode policies read of the links for request r, prefilled on instance i, modified in place."""
    cluster = state.cluster[0]
    net = state.wires.net[0]
    size_bytes = state.requests[r].prompt_tokens * net.kv_token_bytes
    seen = net.signal_ps > 0
    for j in range(cluster.first_decode, cluster.num_instances):
        view = state.decode_views[j - cluster.first_decode]
        show_card(state, view, j)
        view.transfer_s = quote_ps(state, i, j, size_bytes, HANDOFF_KIND, seen) * 1e-12


@kernel
def end_of(state, t):
    """Return when transfer t will be delivered if nothing changes on its links."""
    wires = state.wires
    if wires.net[0].dirty:
        share(state)
    last_ps = np.int64(0)
    f = wires.transfers[t].first_flow
    while f >= 0:
        flow = wires.flows[f]
        if flow.state == DELIVERING:
            return flow.end_ps
        last_ps = max(last_ps, flow.end_ps)
        f = flow.sibling
    return last_ps if last_ps == NEVER_PS else last_ps + wires.transfers[t].delay_ps


@kernel
def operate_fabric(state, operation, a, b, size_bytes, kind, what):
    """Do one operation of the fabric for the event loop or the hierarchy, modified in place.

    a, b : endpoints; of OP_SHOW an instance and a request, or -1 for the views of route; of OP_END, OP_MOVED a transfer
    """
    if operation == OP_BEGIN:
        return begin(state, a, b, size_bytes, kind, what)
    if operation == OP_FABRIC_EVENT:
        return fabric_event(state)
    if operation == OP_SHARE:
        share(state)
    elif operation == OP_QUOTE:
        return quote_ps(state, a, b, size_bytes, kind, what)
    elif operation == OP_SHOW:
        if a >= 0:
            show(state, a, b)
        else:
            for i in range(state.cluster[0].num_prefill):
                show_card(state, state.prefill_views[i], i)
                state.prefill_views[i].transfer_s = 0.0
    elif operation == OP_END:
        return end_of(state, a)
    elif operation == OP_MOVED:
        return moved_bytes(state, a)
    return 0

"""Events of the hierarchy and of the fabric, and what they ask the instances to do."""

from replay.engine.fabric_schema import ARRIVED, EXCHANGED, FETCHED, OP_FABRIC_EVENT, REQUESTED
from replay.engine.handoff import arrived, enqueue
from replay.engine.jit import inlined, kernel
from replay.engine.links import fetch
from replay.engine.phases import cut, settle
from replay.engine.routing import consider, settle_down
from replay.engine.state import address_of
from replay.engine.tier_schema import (
    COLLECT_ALL,
    CONSIDER,
    DEPART,
    ENQUEUE,
    LAND,
    OP_COLLECT,
    OP_CUT,
    OP_EVENT,
    OP_LAND,
    OP_LEAVE,
    OP_NEXT,
    OP_SAMPLE,
    SAMPLE_ALL,
)
from replay.engine.traffic import exchange_came, load_came


@kernel
def requested(state, policies, r):
    """Let request r, whose text came to its instance, fetch, load or queue there. Modified in place."""
    i = state.jobs[r].prefill_instance
    source = state.wires.transits[r].source
    fetched = False
    if source >= 0:
        fetched = fetch(state, r, i, source)
    settle_down(state, policies, r, i, fetched)


@inlined
def fabric_event(state, policies):
    """Handle the next event of the fabric, and what it asks the instances to do. Modified in place."""
    answer = state.policies.fabric(address_of(state), OP_FABRIC_EVENT, 0, 0, 0, 0, 0)
    action = answer & 7
    what = answer >> 3
    if action == ARRIVED:
        arrived(state, policies, state.jobs[what].prefill_instance, what)
    elif action == FETCHED:
        arrived(state, policies, state.jobs[what].source, what)
    elif action == REQUESTED:
        requested(state, policies, what)
    elif action == EXCHANGED:
        exchange_came(state, what)


@kernel
def land(state, policies, r):
    """Handle the end of the load of request r: KV enters the HBM of its instance, the next load starts. In place."""
    i = state.jobs[r].prefill_instance
    load = state.hierarchy.loads[r]
    settle(state, i)
    if state.policies.tiers(address_of(state), OP_LAND, r, i):
        state.instances[i].may_evict = 1
        if state.cluster[0].exact_evictions:
            cut(state, i)
    if load.awaited:
        load.awaited = 0
        load_came(state, i, r)
    if load.waits:
        stop_waiting(state, policies, r)
    released = state.policies.tiers(address_of(state), OP_NEXT, 0, i)
    while released >= 0:
        stop_waiting(state, policies, released)
        released = state.policies.tiers(address_of(state), OP_NEXT, 0, i)


@inlined
def stop_waiting(state, policies, r):
    """Put request r, which waited for a load, into the queue of its instance, modified in place."""
    i = state.jobs[r].prefill_instance
    load = state.hierarchy.loads[r]
    instance = state.instances[i]
    load.waits = 0
    if instance.queue < 0:
        ready_ps = max(load.ready_ps, instance.empty_since_ps)
        load.exposed_ps += max(0, state.cluster[0].now_ps - ready_ps)
    enqueue(state, policies, i, r)


@inlined
def tier_event(state, policies):
    """Handle the next event of the hierarchy, and what it asks the instances to do. Modified in place."""
    answer = state.policies.tiers(address_of(state), OP_EVENT, 0, 0)
    action = answer & 7
    what = answer >> 3
    if action == CONSIDER:
        consider(state, policies, what)
    elif action == LAND:
        land(state, policies, what)
    elif action == ENQUEUE:
        stop_waiting(state, policies, what)
    elif action == DEPART:
        r = state.policies.tiers(address_of(state), OP_CUT, what, 0)
        while r >= 0:
            land(state, policies, r)
            r = state.policies.tiers(address_of(state), OP_CUT, what, 0)
        state.policies.tiers(address_of(state), OP_LEAVE, what, 0)
    elif action == COLLECT_ALL or action == SAMPLE_ALL:
        for i in range(state.cluster[0].num_prefill):
            settle(state, i)
        state.policies.tiers(address_of(state), OP_COLLECT if action == COLLECT_ALL else OP_SAMPLE, 0, 0)

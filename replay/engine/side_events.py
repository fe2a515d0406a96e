"""Events of the hierarchy, of the fabric and of the life of instances, and what they ask the instances to do."""

from replay.engine.alive import serves
from replay.engine.asking import shown
from replay.engine.fabric_schema import ARRIVED, EXCHANGED, FETCHED, OP_FABRIC_EVENT, REQUESTED
from replay.engine.handoff import arrived, end_unserved, enqueue, hand_over_anew, wake
from replay.engine.jit import inlined, kernel
from replay.engine.life_schema import GIVE_UP, OP_AGAIN, OP_AWAIT, OP_DRAINED, OP_LIFE, OP_LOST, RESTART, RESTORE
from replay.engine.links import fetch
from replay.engine.notes import fault, note
from replay.engine.observing import observe
from replay.engine.phases import cut, settle
from replay.engine.routing import consider, drain, hold, looks, meet, settle_down, try_route
from replay.engine.schema import (
    BAD_RECOVER,
    FAILED,
    FETCHING,
    HANDOFF,
    LOG_FAIL,
    LOG_RETRY,
    LOST,
    NONE,
    PENDING,
    RECOVER,
)
from replay.engine.state import address_of
from replay.engine.tier_schema import (
    COLLECT_ALL,
    COMES,
    CONSIDER,
    DEPART,
    DRAINS,
    ENQUEUE,
    GOES,
    LAND,
    OP_ABANDON,
    OP_BACK,
    OP_COLLECT,
    OP_CUT,
    OP_DRAIN,
    OP_DROP,
    OP_EVENT,
    OP_LAND,
    OP_LEAVE,
    OP_NEXT,
    OP_SAMPLE,
    SAMPLE_ALL,
    STAYS,
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
    load = state.hierarchy.loads[r]
    i = load.instance
    settle(state, i)
    room = state.views[i].free_blocks + state.views[i].cached_blocks
    if state.policies.tiers(address_of(state), OP_LAND, r, i):
        state.instances[i].may_evict = 1
        if state.cluster[0].exact_evictions or state.views[i].free_blocks + state.views[i].cached_blocks < room:
            cut(state, i)  # what extends a node that is held is held too: there may be less than the leap needs
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


@kernel
def leave_store(state, policies, s):
    """Let loads that read store s, which is to be gone, end with what has arrived; then it is. Modified in place."""
    r = state.policies.tiers(address_of(state), OP_CUT, s, 0)
    while r >= 0:
        land(state, policies, r)
        r = state.policies.tiers(address_of(state), OP_CUT, s, 0)
    state.policies.tiers(address_of(state), OP_LEAVE, s, 0)


@kernel
def change_stores(state, policies):
    """Carry out what the life of instances asks: loads to those that were emptied end, stores go and come. In place."""
    cluster = state.cluster[0]
    for i in range(cluster.num_instances):
        if state.lives.life[i].abandons:
            state.lives.life[i].abandons = 0
            state.policies.tiers(address_of(state), OP_ABANDON, 0, i)
    for s in range(cluster.num_stores):
        fate = state.hierarchy.stores[s].fate
        state.hierarchy.stores[s].fate = STAYS
        if fate == COMES:
            state.policies.tiers(address_of(state), OP_BACK, s, 0)
        elif fate == GOES and state.policies.tiers(address_of(state), OP_DROP, s, 0):
            leave_store(state, policies, s)
        elif fate == DRAINS and state.policies.tiers(address_of(state), OP_DRAIN, s, 0) == DEPART:
            leave_store(state, policies, s)
    state.lives.setting[0].stores_change = 0


@inlined
def drained(state, policies):
    """Switch off the instances that drained and have nothing left, and what goes with them. Modified in place."""
    state.policies.life(address_of(state), OP_DRAINED, 0, 0)
    if state.lives.setting[0].stores_change:
        change_stores(state, policies)


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
        leave_store(state, policies, what)
        if state.cluster[0].lives and state.lives.setting[0].stores_change:
            change_stores(state, policies)  # the disk below goes with its node
    elif action == COLLECT_ALL or action == SAMPLE_ALL:
        for i in range(state.cluster[0].num_prefill):
            settle(state, i)
        state.policies.tiers(address_of(state), OP_COLLECT if action == COLLECT_ALL else OP_SAMPLE, 0, 0)


@kernel
def recover(state, policies, r):
    """Let request r, lost with its instance, go on as the recover policy says, in place. faults: BAD_RECOVER."""
    cluster = state.cluster[0]
    setting = state.lives.setting[0]
    loss = state.lives.losses[r]
    job = state.jobs[r]
    request = state.requests[r]
    loss.away_ps += cluster.now_ps - loss.lost_ps
    loss.lost_ps = NONE
    answer = policies.recover(shown(state, RECOVER, r, NONE), loss.losses, cluster.now_ps, state.tunables)
    if answer < RESTART or answer > GIVE_UP:
        fault(state, BAD_RECOVER, r, answer)
        return
    job.decode_instance = NONE
    loss.restored_blocks = 0
    if answer == GIVE_UP:
        setting.given_up += 1
        note(state, LOG_FAIL, r, NONE, 0)
        end_unserved(state, r, FAILED)
        return
    setting.retries += 1
    if answer == RESTART and request.generated_tokens > 0:
        setting.restarts += 1
        setting.wasted_tokens += request.generated_tokens
        request.generated_tokens = 0
        job.first_token_ps = NONE
        job.last_token_ps = NONE
        job.max_itl_ps = 0
    if answer == RESTORE and setting.replica_tokens > 0 and request.generated_tokens > 0:
        kept = (request.prompt_tokens + request.generated_tokens - 1) // setting.replica_tokens * setting.replica_tokens
        loss.restored_blocks = kept // state.views[0].block_tokens
    job.stage = PENDING
    note(state, LOG_RETRY, r, NONE, request.generated_tokens)
    if looks(state):
        observe(state, r)
    if cluster.held >= 0 or not try_route(state, policies, r):
        hold(state, policies, r)


@kernel
def carry_on(state, policies):
    """Let every request go on that an event of the life of instances asks to, in place; then those that wait."""
    r = state.policies.life(address_of(state), OP_AGAIN, 0, 0)
    while r >= 0 and state.cluster[0].fault == 0:
        stage = state.jobs[r].stage
        if stage == LOST and state.lives.setting[0].paused > 0:
            state.policies.life(address_of(state), OP_AWAIT, r, 0)
        elif stage == LOST:
            recover(state, policies, r)
        elif stage == HANDOFF:
            hand_over_anew(state, policies, state.jobs[r].prefill_instance, r)
        elif stage != FETCHING:
            meet(state, policies, r)
        elif serves(state, state.jobs[r].instance):
            enqueue(state, policies, state.jobs[r].instance, r)
        else:
            state.policies.life(address_of(state), OP_LOST, r, state.jobs[r].instance)
        r = state.policies.life(address_of(state), OP_AGAIN, 0, 0)
    for i in range(state.cluster[0].num_instances):
        if serves(state, i):
            wake(state, policies, i)
    if state.cluster[0].held >= 0:
        drain(state, policies)


@inlined
def life_event(state, policies):
    """Handle the next event of the life of instances, and what follows for requests. Modified in place."""
    state.policies.life(address_of(state), OP_LIFE, 0, 0)
    if state.lives.setting[0].stores_change:
        change_stores(state, policies)
    carry_on(state, policies)

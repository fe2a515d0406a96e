"""Requests on their way to an instance: arrival, routing, the cluster queue, dispatch, loads that end."""

import numpy as np

from replay.engine.accounts import leave_waiting
from replay.engine.alive import admit_there, note_arrival, route_there, serves
from replay.engine.asking import shown
from replay.engine.fabric_schema import (
    OP_BEGIN,
    REQUEST_KIND,
)
from replay.engine.handoff import end_unserved, enqueue
from replay.engine.jit import inlined, kernel
from replay.engine.learning_schema import OP_PREDICT
from replay.engine.life_schema import OP_AWAIT, OP_LOST, OP_RESTORE
from replay.engine.links import fetch, fetch_gain
from replay.engine.notes import fault, note
from replay.engine.observing import observe
from replay.engine.phases import change_count, settle
from replay.engine.queues import pop, push
from replay.engine.schema import (
    ADMIT,
    BAD_ROUTE,
    BAD_SOURCE,
    FAILED,
    FETCHING,
    HELD,
    LOG_ARRIVE,
    LOG_FAIL,
    LOG_HOLD,
    LOG_REJECT,
    NONE,
    PENDING,
    PREDICTING,
    PREFILL,
    REJECTED,
    ROUTE,
    STAGED,
)
from replay.engine.slots import whole_blocks
from replay.engine.stage_schema import OP_ADMITTED, OP_ENTER
from replay.engine.state import address_of
from replay.engine.tier_schema import (
    LOAD_OVER,
    OP_LOOK_UP,
    OP_PLAN,
    OP_ROUTED,
)
from replay.engine.waiting import give_key, join_waiting, rekey_held

HOLD = -1


@inlined
def change_held(state, step):
    """Change the length of the cluster queue by `step`, adding up its request-seconds. Modified in place."""
    cluster = state.cluster[0]
    cluster.held_area += (cluster.now_ps - cluster.held_changed_ps) * 1e-12 * cluster.held_count
    cluster.held_changed_ps = cluster.now_ps
    cluster.held_count += step


@kernel
def try_route(state, policies, r):
    """Route request r and dispatch it; returns False if the router holds it. faults: BAD_ROUTE, BAD_SOURCE."""
    cluster = state.cluster[0]
    count = cluster.num_prefill
    if cluster.forced >= 0:
        i = np.int64(cluster.forced)
        cluster.forced = NONE
        dispatch(state, policies, r, i, NONE)
        return True
    request = shown(state, ROUTE, r, NONE)
    if cluster.away > 0:
        i, source = route_there(state, policies, r, request)
    else:
        i, source = policies.route(request, state.prefill_views, cluster.now_ps, state.tunables)
    if i == HOLD:
        return False
    if i < 0 or i >= count:
        fault(state, BAD_ROUTE, r, i)
        return True
    if source < -1 or source >= count:
        fault(state, BAD_SOURCE, r, source)
        return True
    dispatch(state, policies, r, i, source)
    return True


@inlined
def looks(state):
    """Whether admit or route read what must be brought up to date for them."""
    cluster = state.cluster[0]
    links = cluster.fabric and state.wires.net[0].route_reads_links
    return cluster.reads_hits or cluster.reads_blocks or cluster.signals or links


@kernel
def predict_later(state, r):
    """Let the first of those that predict to be free work on request r, which comes back when it is done. In place."""
    workers = state.asking.workers
    chosen = 0
    for k in range(1, len(workers)):
        if workers[k] < workers[chosen]:
            chosen = k
    job = state.jobs[r]
    workers[chosen] = max(workers[chosen], state.cluster[0].now_ps) + state.cluster[0].predict_ps
    job.think_ps = workers[chosen]
    job.key = float(job.think_ps)
    job.stage = PREDICTING
    state.cluster[0].turns = push(state.jobs, state.cluster[0].turns, r)


@inlined
def meet(state, policies, r):
    """Handle request r once it is predicted: the look-up of its prefix, then what follows. Modified in place."""
    if state.cluster[0].lives and state.lives.setting[0].paused > 0:
        state.policies.life(address_of(state), OP_AWAIT, r, 0)
        return
    if state.cluster[0].learns:
        state.policies.learning(address_of(state), OP_PREDICT, r, 0)
    if state.cluster[0].num_shards > 0:
        state.policies.tiers(address_of(state), OP_LOOK_UP, r, 0)
        return
    consider(state, policies, r)


@inlined
def go_on(state, policies, r):
    """Let request r be predicted, or what follows where that takes no time. Modified in place."""
    if state.cluster[0].predict_ps > 0:
        predict_later(state, r)
        return
    meet(state, policies, r)


@inlined
def arrive(state, policies, r):
    """Handle the arrival of request r at now, or the end of its prediction. Modified in place."""
    cluster = state.cluster[0]
    request = state.requests[r]
    state.jobs[r].think_ps = 0
    if state.jobs[r].stage == PREDICTING:
        state.jobs[r].stage = PENDING
        meet(state, policies, r)
        return
    request.sequence = cluster.arrived
    cluster.arrived += 1
    if cluster.spelled:
        state.asking.spells[r].since_ps = cluster.now_ps
    note(state, LOG_ARRIVE, r, NONE, 0)
    if cluster.lives:
        note_arrival(state, r)
    if cluster.staged and state.policies.stages(address_of(state), OP_ENTER, r, 0):
        state.jobs[r].stage = STAGED
        return
    go_on(state, policies, r)


@kernel
def consider(state, policies, r):
    """Handle request r once its prefix is looked up: admission, then routing or the cluster queue, in place."""
    cluster = state.cluster[0]
    if looks(state):
        observe(state, r)
    request = shown(state, ADMIT, r, NONE)
    if cluster.away > 0:
        taken = admit_there(state, policies, request)
    else:
        taken = policies.admit(request, state.prefill_views, state.decode_views, cluster.now_ps, state.tunables)
    if not taken:
        note(state, LOG_REJECT, r, NONE, 0)
        end_unserved(state, r, REJECTED)
        return
    if cluster.staged:
        state.policies.stages(address_of(state), OP_ADMITTED, r, 0)
    if cluster.held < 0 and try_route(state, policies, r):
        return
    hold(state, policies, r)


@kernel
def hold(state, policies, r):
    """Put request r into the cluster queue, modified in place; if others wait there, the first of them are routed."""
    cluster = state.cluster[0]
    note(state, LOG_HOLD, r, NONE, 0)
    waits = cluster.held >= 0
    state.jobs[r].stage = HELD
    if cluster.fair:
        join_waiting(state, cluster.num_instances, r)
    give_key(state, policies, NONE, r)
    cluster.held = push(state.jobs, cluster.held, r)
    change_held(state, 1)
    if waits:
        drain(state, policies)


@kernel
def drain(state, policies):
    """Route requests of the cluster queue in order until the router holds one. Modified in place."""
    cluster = state.cluster[0]
    fresh = cluster.rekeys != 0
    while cluster.held >= 0 and cluster.fault == 0:
        if fresh:
            rekey_held(state, policies)
        fresh = cluster.fair != 0
        r = cluster.held
        if looks(state):
            observe(state, r)
        root = cluster.held
        after = pop(state.jobs, root)
        cluster.held = after
        change_held(state, -1)
        if not try_route(state, policies, r):
            cluster.held = push(state.jobs, after, r)
            change_held(state, 1)
            return
        if cluster.fair:
            leave_waiting(state, cluster.num_instances, r)


@inlined
def dispatch_load(state, r, i, fetched):
    """Plan what request r loads from stores to instance i; returns whether it waits outside the queue for KV, in place.

    fetched : whether it fetches a prefix from another instance; then it loads nothing
    """
    cluster = state.cluster[0]
    load = state.hierarchy.loads[r]
    if fetched or state.jobs[r].leaf < 0:
        load.state = LOAD_OVER
        return fetched
    if not cluster.prefetch:
        return False
    settle(state, i)
    instance = state.instances[i]
    load.ready_ps = instance.start_ps + instance.base_ps if instance.left > 0 else cluster.now_ps
    if state.policies.tiers(address_of(state), OP_PLAN, r, i) == 0:
        return False
    state.jobs[r].stage = FETCHING
    return True


@kernel
def settle_down(state, policies, r, i, fetched):
    """Load what request r lacks on instance i, or put it into the queue there. Modified in place.

    fetched : whether it fetches a prefix from another instance first
    """
    if state.cluster[0].tiered:
        fetched = dispatch_load(state, r, i, fetched)
    if not fetched:
        enqueue(state, policies, i, r)


@kernel
def would_fetch(state, r, i, source):
    """Whether `source` holds more of the prompt of request r than instance i, brought up to date, in place."""
    settle(state, i)
    settle(state, source)
    return fetch_gain(state, r, i, source) > 0


@kernel
def send_request(state, r, i, source):
    """Send the text of request r to instance i; what else is to be done there waits for it. Modified in place."""
    state.wires.transits[r].source = source
    state.jobs[r].stage = FETCHING
    net = state.wires.net[0]
    size_bytes = state.requests[r].prompt_tokens * net.request_token_bytes
    state.policies.fabric(address_of(state), OP_BEGIN, net.gateway, i, size_bytes, REQUEST_KIND, r)


@inlined
def dispatch(state, policies, r, i, source):
    """Send request r to instance i, fetching its prefix from `source` first if that holds more. Modified in place."""
    view = state.views[i]
    job = state.jobs[r]
    request = state.requests[r]
    context = request.prompt_tokens + request.generated_tokens  # it may have been elsewhere before
    leaves = view.role == PREFILL or state.cluster[0].pooled
    last = context if leaves else request.prompt_tokens + job.output_tokens - 1 + state.cluster[0].draft_tokens
    if whole_blocks(state, last) > view.total_blocks:
        note(state, LOG_FAIL, r, i, 0)
        end_unserved(state, r, FAILED)
        return
    job.prefill_instance = i
    job.prefill_left = context
    change_count(state, i)
    view.waiting += 1
    view.sent += 1
    view.waiting_tokens += context
    special = state.cluster[0].special
    if special and state.cluster[0].routed:
        state.policies.tiers(address_of(state), OP_ROUTED, r, i)
    if special and state.cluster[0].lives and not serves(state, i):
        state.policies.life(address_of(state), OP_LOST, r, i)
        return
    restores = special and state.cluster[0].lives and state.lives.losses[r].restored_blocks > 0
    may_fetch = source >= 0 and source != i and state.cluster[0].cache and job.leaf >= 0 and not restores
    sends_text = special and state.cluster[0].fabric and state.wires.net[0].request_token_bytes > 0
    fetched = False
    if sends_text:
        fetched = may_fetch and would_fetch(state, r, i, source)
    elif may_fetch:
        fetched = fetch(state, r, i, source)
    saved = 0
    if state.cluster[0].reads_hits:
        saved = state.prefill_views[source if fetched else i].hit_tokens
    job.charged_tokens = context - saved
    view.queued_tokens += job.charged_tokens
    if restores:
        state.policies.life(address_of(state), OP_RESTORE, r, i)
    elif sends_text:
        send_request(state, r, i, source if may_fetch else NONE)
    else:
        settle_down(state, policies, r, i, fetched)

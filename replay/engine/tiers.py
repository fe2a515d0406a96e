"""The part of the engine that runs the KV hierarchy, behind one function, so that a run without it need not load it."""

from replay.engine.dropping import abandon, drop
from replay.engine.elastic import begin_drain, change_store, come_back, depart, drained, leave
from replay.engine.going_on import goes_on, keep_every_other
from replay.engine.index import answered, believe, look_up, note_routed
from replay.engine.jit import kernel
from replay.engine.lifetime import collect
from replay.engine.movement import conclude, cut_load, land_load, plan_at_dispatch, start_pending
from replay.engine.tier_schema import (
    CLOCK,
    COLLECT,
    COLLECT_ALL,
    CONSIDER,
    DEADLINE,
    ENQUEUE,
    LAND,
    LOADED,
    LOOKED_UP,
    NOTHING,
    OP_ABANDON,
    OP_BACK,
    OP_BELIEVE,
    OP_COLLECT,
    OP_CONCLUDE,
    OP_CUT,
    OP_DRAIN,
    OP_DROP,
    OP_EVENT,
    OP_LAND,
    OP_LEAVE,
    OP_LOOK_UP,
    OP_NEXT,
    OP_PLAN,
    OP_PUBLISHED,
    OP_ROUTED,
    OP_SPILL,
    SAMPLE,
    SAMPLE_ALL,
    TIMEOUT,
    WRITTEN,
)
from replay.engine.timers import pop_timer, push_timer
from replay.engine.writes import end_write, published, work_off_spills


@kernel
def next_event(state):
    """Handle the next event of the hierarchy, in place; returns 8 * (request or store) + what is left to do."""
    kind, what = pop_timer(state)
    load = state.hierarchy.loads[what if kind <= TIMEOUT else 0]
    if kind == LOOKED_UP:
        return 8 * what + CONSIDER if answered(state, what) else NOTHING
    if kind == LOADED:
        current = load.under_way and load.timer == state.cluster[0].timer_now
        return 8 * what + LAND if current else NOTHING
    if kind == TIMEOUT:
        return 8 * what + ENQUEUE if load.waits and load.timeout == state.cluster[0].timer_now else NOTHING
    if kind == WRITTEN:
        end_write(state, what)
        return NOTHING
    if kind == CLOCK:
        return 8 * state.hierarchy.clock[what].store + change_store(state, what)
    if kind == COLLECT:
        return COLLECT_ALL
    if kind == SAMPLE:
        return SAMPLE_ALL
    s = what // 65536
    store = state.hierarchy.stores[s]
    if not store.present or not store.leaving or store.epoch % 65536 != what % 65536:
        return NOTHING
    if kind == DEADLINE:
        return 8 * s + depart(state, s)
    return 8 * s + drained(state, s)


@kernel
def collect_all(state):
    """Collect garbage on every holder, keep the shards busy with it, and come back after gc_ps. Modified in place."""
    cluster = state.cluster[0]
    freed = 0
    for c in range(cluster.num_prefill + cluster.num_stores):
        i = c if c < cluster.num_prefill else c - cluster.num_prefill + cluster.num_instances
        freed += collect(state, i)
    cluster.gc_nodes += freed
    for k in range(cluster.num_shards):
        owner = state.hierarchy.owners[k]
        service_ps = cluster.gc_node_ps * freed // cluster.num_shards
        owner.free_ps = max(cluster.now_ps, owner.free_ps) + service_ps
        owner.busy_ps += service_ps
    cluster.recurring -= 1
    if goes_on(state):
        cluster.recurring += 1
        push_timer(state, cluster.now_ps + cluster.gc_ps, COLLECT, 0)


@kernel
def sample_all(state):
    """Write down what every holder keeps; with no row left keep every other one and take half as many, in place."""
    cluster = state.cluster[0]
    series = state.hierarchy.occupancy
    if cluster.samples == len(series):
        cluster.samples = keep_every_other(series)
        cluster.sample_ps *= 2
    row = cluster.samples
    cluster.samples += 1
    series[row, 0] = cluster.now_ps
    for c in range(cluster.num_prefill + cluster.num_stores):
        i = c if c < cluster.num_prefill else c - cluster.num_prefill + cluster.num_instances
        series[row, 1 + c] = state.views[i].cached_blocks + state.instances[i].pinned_blocks
    cluster.recurring -= 1
    if goes_on(state):
        cluster.recurring += 1
        push_timer(state, cluster.now_ps + cluster.sample_ps, SAMPLE, 0)


@kernel
def operate(state, operation, what, i):
    """Do one operation of the hierarchy for the event loop, modified in place; what it returns is said at its function.

    what : a request, or a store for OP_CUT, OP_LEAVE, OP_DROP, OP_DRAIN, OP_BACK; i: an instance, if one is concerned
    """
    if operation == OP_EVENT:
        return next_event(state)
    if operation == OP_PLAN:
        return plan_at_dispatch(state, what, i)
    if operation == OP_LAND:
        return land_load(state, what, i)
    if operation == OP_NEXT:
        return start_pending(state, i)
    if operation == OP_CUT:
        return cut_load(state, what)
    if operation == OP_DROP:
        return drop(state, what)
    if operation == OP_DRAIN:
        return begin_drain(state, what, state.cluster[0].now_ps + state.lives.setting[0].drain_ps)
    if operation == OP_CONCLUDE:
        conclude(state, what, i)
    elif operation == OP_PUBLISHED:
        published(state, what, i)
    elif operation == OP_SPILL:
        work_off_spills(state)
    elif operation == OP_LOOK_UP:
        look_up(state, what)
    elif operation == OP_BELIEVE:
        believe(state, what)
    elif operation == OP_ROUTED:
        note_routed(state, what, i)
    elif operation == OP_ABANDON:
        abandon(state, i)
    elif operation == OP_BACK:
        come_back(state, what)
    elif operation == OP_LEAVE:
        leave(state, what)
    elif operation == OP_COLLECT:
        collect_all(state)
    else:
        sample_all(state)
    return 0

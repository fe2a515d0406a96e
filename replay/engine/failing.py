"""What fails, and how: instances and nodes with all they have, network cards, health checks, the control plane."""

from replay.engine.alive import serves
from replay.engine.jit import kernel
from replay.engine.life_schema import (
    COME_UP,
    CRASH,
    DETECT,
    DOWN,
    DRAINING,
    FAIL,
    LINK,
    NODE_LOSS,
    NODE_UP,
    OFF,
    PAUSE,
    RESTORE_LINK,
    RESTORED,
    RESUME_CONTROL,
    SHARD_LOSS,
    STARTING,
    STORE_BACK,
    STORE_LOSS,
    SUSPECT,
    TRUST,
)
from replay.engine.life_timers import push_life, set_next
from replay.engine.lifecycle import come_up, detect, mark, mark_own, restored, set_state
from replay.engine.losing import lose_all
from replay.engine.pool_nodes import lose_node_of_pool, node_up
from replay.engine.schema import NEVER_PS
from replay.engine.tier_schema import COMES, GOES
from replay.engine.tree import set_event

SPEEDS = 1001  # a timer of a card is for its instance * SPEEDS + the speed that ends then, in thousandths


@kernel
def crash(state, i, for_ps):
    """Let instance i fail now, for so long, with all that it has. Modified in place.

    One that is off has nothing that could fail; one that drains is off at once; what starts or is down is there again
    when both its start or repair and this one are over.
    """
    life = state.lives.life[i]
    now_ps = state.cluster[0].now_ps
    if life.state == OFF:
        return
    waits = life.state == STARTING or life.state == DOWN
    life.until_ps = max(life.until_ps, now_ps + for_ps) if waits else now_ps + for_ps
    life.crashes += 1
    if serves(state, i):
        life.notice_ps = now_ps + state.lives.setting[0].detect_ps
        push_life(state, life.notice_ps, DETECT, i)
        lose_all(state, i)
    if life.state == DRAINING:
        set_state(state, i, OFF)
        return
    push_life(state, life.until_ps, COME_UP, i)
    if life.state != DOWN:
        set_state(state, i, DOWN)


@kernel
def lose_node(state, node, for_ps):
    """Let all instances of a node fail; those that are off cannot start before it is back. Modified in place."""
    size = state.lives.setting[0].node_instances
    for i in range(node * size, min((node + 1) * size, state.cluster[0].num_instances)):
        life = state.lives.life[i]
        if state.cluster[0].tiered:
            mark_own(state, i, GOES)
        if life.state == OFF:
            life.until_ps = max(life.until_ps, state.cluster[0].now_ps + for_ps)
        else:
            crash(state, i, for_ps)


@kernel
def lose_pool_node(state, node, for_ps):
    """Let a pool node, or the store that all share (the last number), fail for so long. Modified in place."""
    cluster = state.cluster[0]
    if node < cluster.num_shared:
        lose_node_of_pool(state, node, for_ps)
        return
    store = state.hierarchy.stores[cluster.common_store]
    store.back_ps = max(store.back_ps, cluster.now_ps + for_ps)
    mark(state, cluster.common_store, GOES)
    push_life(state, store.back_ps, STORE_BACK, cluster.common_store)


@kernel
def stop_shard(state, o, for_ps):
    """Let an index shard answer nothing for so long: lookups under way and to come are later by that. In place."""
    owner = state.hierarchy.owners[o]
    now_ps = state.cluster[0].now_ps
    later_ps = now_ps + for_ps - max(owner.down_ps, now_ps)  # it may have failed already
    if later_ps > 0:
        owner.down_ps = now_ps + for_ps
        owner.free_ps = max(owner.free_ps, now_ps) + later_ps
        owner.stopped_ps += later_ps


@kernel
def stop_link(state, i, for_ps):
    """Let the card of instance i stop for so long: what it has not sent comes later, as does a replica. In place."""
    instance = state.instances[i]
    life = state.lives.life[i]
    now_ps = state.cluster[0].now_ps
    later_ps = now_ps + for_ps - max(life.nic_down_ps, now_ps)  # it may have stopped already
    if later_ps <= 0:
        return
    life.nic_down_ps = now_ps + for_ps
    latency_ps = state.cost.profiles[instance.profile].transfer_latency_ps
    r = instance.link_head
    while r >= 0:
        if state.jobs[r].deliver_ps - latency_ps > now_ps:
            state.jobs[r].deliver_ps += later_ps
        r = state.jobs[r].next
    instance.nic_free_ps = max(instance.nic_free_ps, now_ps) + later_ps
    if instance.link_head >= 0:
        set_event(state.tree, i, state.jobs[instance.link_head].deliver_ps)
    for k in range(state.lives.setting[0].timers):
        timer = state.lives.life_timers[k]
        if timer.kind == RESTORED and state.jobs[timer.what].instance == i:
            timer.time_ps += later_ps
    set_next(state)


@kernel
def set_speed(state, i):
    """Let the card of instance i go as fast as the slowest of its failures allows, modified in place. O(timers)."""
    permille = 1000
    for k in range(state.lives.setting[0].timers):
        timer = state.lives.life_timers[k]
        if timer.kind == RESTORE_LINK and timer.what // SPEEDS == i:
            permille = min(permille, timer.what % SPEEDS)
    state.lives.life[i].nic_permille = permille


@kernel
def fail_link(state, i, permille, for_ps):
    """Let the card of instance i stop for so long, or go slower for what it begins to send. Modified in place."""
    if permille == 0:
        stop_link(state, i, for_ps)
    else:
        push_life(state, state.cluster[0].now_ps + for_ps, RESTORE_LINK, i * SPEEDS + permille)
        set_speed(state, i)


@kernel
def fail_next(state):
    """Carry out the next failure of the plan, and wait for the one after it. Modified in place."""
    setting = state.lives.setting[0]
    failure = state.lives.failures[setting.cursor]
    setting.cursor += 1
    following = state.lives.failures[setting.cursor]
    cluster = state.cluster[0]
    before = setting.lost
    if following.at_ps != NEVER_PS:
        push_life(state, following.at_ps, FAIL, 0)
    if failure.kind == CRASH:
        crash(state, failure.what, failure.for_ps)
    elif failure.kind == NODE_LOSS:
        lose_node(state, failure.what, failure.for_ps)
    elif failure.kind == LINK:
        fail_link(state, failure.what, failure.permille, failure.for_ps)
    elif failure.kind == SUSPECT:
        state.lives.life[failure.what].suspected += 1
        push_life(state, cluster.now_ps + failure.for_ps, TRUST, failure.what)
    elif failure.kind == PAUSE:
        setting.paused += 1
        push_life(state, cluster.now_ps + failure.for_ps, RESUME_CONTROL, 0)
    elif failure.kind == STORE_LOSS:
        lose_pool_node(state, failure.what, failure.for_ps)
    elif failure.kind == SHARD_LOSS:
        stop_shard(state, failure.what, failure.for_ps)
    setting.most_lost = max(setting.most_lost, setting.lost - before)


@kernel
def happen(state, kind, what):
    """Handle a timer of one instance or of the plan of failures, modified in place."""
    setting = state.lives.setting[0]
    if kind == FAIL:
        fail_next(state)
    elif kind == COME_UP:
        come_up(state, what)
    elif kind == DETECT:
        detect(state, what)
    elif kind == TRUST:
        state.lives.life[what].suspected -= 1
    elif kind == RESTORE_LINK:
        set_speed(state, what // SPEEDS)
    elif kind == RESUME_CONTROL:
        setting.paused -= 1
    elif kind == RESTORED:
        restored(state, what)
    elif kind == NODE_UP:
        node_up(state, what)
    elif kind == STORE_BACK and state.hierarchy.stores[what].back_ps == state.cluster[0].now_ps:
        mark(state, what, COMES)

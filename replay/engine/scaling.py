"""How many instances a pool has: what scale policies are told, and how the cluster follows what they say."""

from replay.engine.going_on import goes_on
from replay.engine.jit import inlined, kernel
from replay.engine.life_schema import ASK, COME_UP, DOWN, DRAINING, OFF, STARTING, UP
from replay.engine.life_timers import cancel_timer, push_life
from replay.engine.lifecycle import begin_drain, set_state
from replay.engine.observing import show_counts
from replay.engine.phases import settle
from replay.engine.pool_nodes import count_nodes, follow_nodes, measure_nodes
from replay.engine.schema import NONE
from replay.policy import DRAM_NODES

PS = 1e-12


@kernel
def count_pool(state, k):
    """Fill in what pool k has now, modified in place. O(instances)."""
    pool = state.lives.pools[k]
    pool.up = 0
    pool.starting = 0
    pool.draining = 0
    pool.down = 0
    pool.waiting = 0
    pool.running = 0
    pool.max_batch = 0
    pool.queued_tokens = 0
    used, total = 0.0, 0.0
    for i in range(state.cluster[0].num_instances):
        if state.lives.life[i].pool != k:
            continue
        doing = state.lives.life[i].state
        pool.up += 1 if doing == UP else 0
        pool.starting += 1 if doing == STARTING else 0
        pool.draining += 1 if doing == DRAINING else 0
        pool.down += 1 if doing == DOWN else 0
        if doing == UP:
            show_counts(state, i)
            view = state.views[i]
            pool.waiting += view.waiting
            pool.running += view.running
            pool.max_batch += view.max_batch
            pool.queued_tokens += view.queued_tokens
            used += view.total_blocks - view.free_blocks - view.cached_blocks
            total += view.total_blocks
    pool.kv_share = used / total if total > 0.0 else 0.0
    pool.held = state.cluster[0].held_count


@kernel
def add_up(state, k):
    """Return (busy time, time up) of the instances of pool k so far [ps], iterations in progress counted in part."""
    now_ps = state.cluster[0].now_ps
    busy_ps = 0
    up_ps = 0
    for i in range(state.cluster[0].num_instances):
        life = state.lives.life[i]
        if life.pool == k:
            settle(state, i)
            instance = state.instances[i]
            busy_ps += instance.busy_ps + (now_ps - instance.start_ps if instance.left > 0 else 0)
            up_ps += life.up_ps + (now_ps - life.since_ps if life.state == UP or life.state == DRAINING else 0)
    return busy_ps, up_ps


@inlined
def mean(amount, count, factor):
    """Return a mean, 0 where nothing was counted."""
    return amount * factor / count if count > 0 else 0.0


@kernel
def measure_pool(state, k):
    """Fill in how busy pool k of instances was since it was last asked, and begin anew. Modified in place."""
    before = state.lives.asked[k]
    busy_ps, up_ps = add_up(state, k)
    state.lives.pools[k].busy_share = mean(float(busy_ps - before.busy_ps), up_ps - before.up_ps, 1.0)
    before.busy_ps = busy_ps
    before.up_ps = up_ps


@kernel
def count_interval(state, k):
    """Fill in what happened since pool k was last asked, and begin to count anew, modified in place."""
    pool = state.lives.pools[k]
    now = state.lives.totals[0]
    before = state.lives.asked[k]
    now_ps = state.cluster[0].now_ps
    pool.interval_s = (now_ps - before.asked_ps) * PS
    pool.since_s = now_ps * PS
    pool.arrivals = now.arrivals - before.arrivals
    pool.arrived_tokens = now.arrived_tokens - before.arrived_tokens
    pool.first_tokens = now.first_tokens - before.first_tokens
    pool.ttft_s = mean(float(now.ttft_ps - before.ttft_ps), pool.first_tokens, PS)
    pool.finished = now.finished - before.finished
    pool.mean_output_tokens = mean(float(now.output_tokens - before.output_tokens), pool.finished, 1.0)
    pool.itl_s = mean(float(now.decode_ps - before.decode_ps), now.decode_tokens - before.decode_tokens, PS)
    before.arrivals = now.arrivals
    before.arrived_tokens = now.arrived_tokens
    before.first_tokens = now.first_tokens
    before.ttft_ps = now.ttft_ps
    before.finished = now.finished
    before.output_tokens = now.output_tokens
    before.decode_ps = now.decode_ps
    before.decode_tokens = now.decode_tokens
    before.asked_ps = now_ps


@kernel
def add_instances(state, k, wanted):
    """Let up to `wanted` more instances of pool k serve: those that drain at once, others start. Modified in place.

    Those of a node that is lost cannot start. Where the budget is used up, the rest is kept as `lacking`.
    """
    pool = state.lives.pools[k]
    pool.lacking = 0
    cluster = state.cluster[0]
    setting = state.lives.setting[0]
    used = 0
    for i in range(cluster.num_instances):
        life = state.lives.life[i]
        used += 1 if life.state != OFF else 0
        if life.pool == k and life.state == DRAINING and wanted > 0:
            set_state(state, i, UP)
            life.trusted = 1
            wanted -= 1
    for i in range(cluster.num_instances):
        life = state.lives.life[i]
        room = setting.budget == 0 or used < setting.budget
        if wanted > 0 and room and life.pool == k and life.state == OFF and life.until_ps <= cluster.now_ps:
            set_state(state, i, STARTING)
            life.starts += 1
            life.until_ps = cluster.now_ps + setting.start_ps
            push_life(state, life.until_ps, COME_UP, i)
            used += 1
            wanted -= 1
    if setting.budget > 0 and used >= setting.budget:
        pool.lacking = max(0, wanted)


@kernel
def start_lacking(state):
    """Start what the last answers asked for and the budget had no room for, if it has now. Modified in place."""
    for k in range(state.lives.setting[0].num_pools):
        if state.lives.pools[k].lacking > 0:
            add_instances(state, k, state.lives.pools[k].lacking)


@kernel
def cancel_start(state, i):
    """Switch instance i off before its start is over, modified in place; the timer of that is taken away."""
    cancel_timer(state, COME_UP, i, state.lives.life[i].until_ps)
    set_state(state, i, OFF)


@kernel
def choose_leaver(state, k):
    """Return the instance of pool k to take away next: one that starts, else the one with the fewest requests; or -1.

    Ties go to the highest instance.
    """
    chosen = NONE
    fewest = 0
    for i in range(state.cluster[0].num_instances):
        life = state.lives.life[i]
        if life.pool != k or (life.state != UP and life.state != STARTING):
            continue
        requests = state.views[i].waiting + state.views[i].running
        if life.state == STARTING:
            requests = -1
        if chosen < 0 or requests <= fewest:
            chosen = i
            fewest = requests
    return chosen


@kernel
def follow(state, k, target):
    """Bring pool k towards `target` instances, within its limits, modified in place."""
    pool = state.lives.pools[k]
    target = min(max(target, pool.least), pool.most)
    if pool.role >= DRAM_NODES:
        follow_nodes(state, k, target)
        return
    active = pool.up + pool.starting
    pool.lacking = 0
    if target > active:
        add_instances(state, k, target - active)
    for _ in range(active - target):
        i = choose_leaver(state, k)
        if i < 0:
            return
        if state.lives.life[i].state == STARTING:
            cancel_start(state, i)
        else:
            begin_drain(state, i)


@kernel
def ask_pools(state):
    """Ask the scale policy how many instances each pool should have, and follow it. Modified in place."""
    cluster = state.cluster[0]
    setting = state.lives.setting[0]
    setting.recurring -= 1
    if goes_on(state):
        push_life(state, cluster.now_ps + setting.interval_ps, ASK, 0)
        setting.recurring += 1
    for k in range(setting.num_pools):
        if state.lives.pools[k].role >= DRAM_NODES:
            count_nodes(state, k)
            measure_nodes(state, k)
        else:
            count_pool(state, k)
            measure_pool(state, k)
        count_interval(state, k)
    pools = state.lives.pools[: setting.num_pools]
    for k in range(setting.num_pools):
        target = state.policies.scale(state.lives.pools[k], pools, cluster.now_ps, state.tunables)
        follow(state, k, target)

"""The life of instances: they start, drain, fail and are repaired; requests that one took with it go on elsewhere.

What routers take to be there lags behind: a failure is noticed after a time, a health check may be wrong.
"""

from replay.engine.alive import is_offered, lacks_decodes, serves
from replay.engine.jit import inlined, kernel
from replay.engine.life_schema import (
    COME_UP,
    CRASH,
    DETECT,
    DOWN,
    DRAINING,
    FAIL,
    LINK,
    NODE_LOSS,
    OFF,
    PAUSE,
    RESTORE_LINK,
    RESTORED,
    RESUME_CONTROL,
    STARTING,
    SUSPECT,
    TRUST,
    UP,
)
from replay.engine.losing import append_again, lose_all, wipe
from replay.engine.notes import fault, note
from replay.engine.schema import FETCHING, LOG_DOWN, LOG_OFF, LOG_UP, MAX_TIME_PS, NEVER_PS, NONE, TIME_RANGE
from replay.engine.tree import set_event


@kernel
def push_life(state, time_ps, kind, what):
    """Have something happen at time_ps, after what was asked for that time before. Modified in place. O(1)."""
    setting = state.lives.setting[0]
    if time_ps > MAX_TIME_PS:
        fault(state, TIME_RANGE, 0, 0)
        return
    timer = state.lives.life_timers[setting.timers]
    timer.time_ps = time_ps
    timer.sequence = setting.sequence
    timer.kind = kind
    timer.what = what
    setting.sequence += 1
    setting.timers += 1
    set_next(state)


@kernel
def first_timer(state):
    """Return the place of the timer that goes first, -1 if there is none. O(timers), which are few."""
    timers = state.lives.life_timers
    first = NONE
    for k in range(state.lives.setting[0].timers):
        if first < 0 or timers[k].time_ps < timers[first].time_ps or (
            timers[k].time_ps == timers[first].time_ps and timers[k].sequence < timers[first].sequence
        ):
            first = k
    return first


@kernel
def set_next(state):
    """Tell the event tree when the next timer goes, modified in place."""
    first = first_timer(state)
    time_ps = NEVER_PS if first < 0 else state.lives.life_timers[first].time_ps
    set_event(state.tree, 3 * state.cluster[0].num_instances + 3, time_ps)


@kernel
def set_state(state, i, doing):
    """Let instance i do something else from now on, modified in place; its time so far is added up."""
    life = state.lives.life[i]
    cluster = state.cluster[0]
    elapsed_ps = cluster.now_ps - life.since_ps
    if life.state != OFF:
        life.paid_ps += elapsed_ps
    if serves(state, i):
        life.up_ps += elapsed_ps
    elif life.state == DOWN:
        life.down_ps += elapsed_ps
    cluster.draining += (1 if doing == DRAINING else 0) - (1 if life.state == DRAINING else 0)
    life.since_ps = cluster.now_ps
    life.state = doing
    setting = state.lives.setting[0]
    if setting.moments < len(state.lives.moments):
        moment = state.lives.moments[setting.moments]
        moment.time_ps = cluster.now_ps
        moment.instance = i
        moment.state = doing
        setting.moments += 1
    else:
        setting.unsaid += 1
    if doing == UP:
        note(state, LOG_UP, NONE, i, 0)
    elif doing == DOWN:
        note(state, LOG_DOWN, NONE, i, 0)
    elif doing == OFF:
        note(state, LOG_OFF, NONE, i, 0)


@kernel
def count_away(state):
    """Count the instances that routers do not take to be there, modified in place: none costs them nothing."""
    away = state.lives.setting[0].paused
    for i in range(state.cluster[0].num_instances):
        if not is_offered(state, i):
            away += 1
    state.cluster[0].away = away


@kernel
def appear(state, i):
    """Let instance i serve, empty, from now on. Modified in place."""
    life = state.lives.life[i]
    set_state(state, i, UP)
    life.trusted = 1


@kernel
def release_those(state):
    """Let requests go on that wait for a decode instance or for the control plane, if that is there. In place."""
    setting = state.lives.setting[0]
    if setting.paused > 0:
        return
    r = NONE if lacks_decodes(state) else setting.stranded_head
    if r >= 0:
        setting.stranded_head = NONE
        setting.stranded_tail = NONE
    while r >= 0:
        following = state.jobs[r].next
        state.lives.life[state.jobs[r].prefill_instance].stranded -= 1
        append_again(state, r)
        r = following
    r = setting.shut_head
    setting.shut_head = NONE
    setting.shut_tail = NONE
    while r >= 0:
        following = state.jobs[r].next
        append_again(state, r)
        r = following


@kernel
def vanish(state, i):
    """Switch instance i off, on which nothing is left to do; its cache is lost. Modified in place."""
    state.lives.life[i].cached_shrunk_blocks += state.views[i].cached_blocks
    wipe(state, i)
    set_state(state, i, OFF)


@inlined
def is_empty(state, i):
    """Whether nothing is left to do on instance i: no request, none on its way there, nothing on its card."""
    return state.views[i].waiting + state.views[i].running == 0 and state.instances[i].linked == 0 and (
        state.lives.life[i].stranded == 0)


@kernel
def begin_drain(state, i):
    """Send instance i no more; when what it has is done, it is switched off. Modified in place."""
    set_state(state, i, DRAINING)
    state.lives.life[i].trusted = 0
    if is_empty(state, i):
        vanish(state, i)


@kernel
def crash(state, i, for_ps):
    """Let instance i fail now, for so long, with all that it has. Modified in place."""
    life = state.lives.life[i]
    cluster = state.cluster[0]
    if life.state == OFF:
        return
    life.until_ps = max(life.until_ps, cluster.now_ps + for_ps) if life.state == DOWN else cluster.now_ps + for_ps
    life.crashes += 1
    push_life(state, life.until_ps, COME_UP, i)
    if life.state == DOWN:
        return
    life.retires = 1 if life.state == DRAINING else 0
    if serves(state, i):
        lose_all(state, i)
        push_life(state, cluster.now_ps + state.lives.setting[0].detect_ps, DETECT, i)
    set_state(state, i, DOWN)


@kernel
def come_up(state, i):
    """Let instance i serve if its start or repair is over now. Modified in place."""
    life = state.lives.life[i]
    if (life.state != STARTING and life.state != DOWN) or life.until_ps != state.cluster[0].now_ps:
        return
    if life.retires:
        life.retires = 0
        set_state(state, i, OFF)
        return
    appear(state, i)


@kernel
def detect(state, i):
    """Notice that instance i failed: routers send nothing more, and what it took with it goes on. In place."""
    life = state.lives.life[i]
    if life.state == DOWN:
        life.trusted = 0
    r = life.lost_head
    life.lost_head = NONE
    while r >= 0:
        following = state.jobs[r].next
        append_again(state, r)
        r = following


@kernel
def change_link_speed(state, i, permille, for_ps):
    """Let the card of instance i go slower, or stop, for so long; what it carries comes later. Modified in place."""
    instance = state.instances[i]
    life = state.lives.life[i]
    now_ps = state.cluster[0].now_ps
    push_life(state, now_ps + for_ps, RESTORE_LINK, i)
    life.nic_down_ps = max(life.nic_down_ps, now_ps + for_ps)
    if permille > 0:
        life.nic_permille = min(life.nic_permille, permille)
        return
    r = instance.link_head
    while r >= 0:
        state.jobs[r].deliver_ps += for_ps
        r = state.jobs[r].next
    instance.nic_free_ps = max(instance.nic_free_ps, now_ps) + for_ps
    if instance.link_head >= 0:
        set_event(state.tree, i, state.jobs[instance.link_head].deliver_ps)


@kernel
def fail_next(state):
    """Carry out the next failure of the plan, and wait for the one after it. Modified in place."""
    setting = state.lives.setting[0]
    failure = state.lives.failures[setting.cursor]
    setting.cursor += 1
    following = state.lives.failures[setting.cursor]
    cluster = state.cluster[0]
    before = setting.lost
    if following.at_ps != NEVER_PS and cluster.gone < cluster.num_requests:
        push_life(state, following.at_ps, FAIL, 0)
    if failure.kind == CRASH:
        crash(state, failure.what, failure.for_ps)
    elif failure.kind == NODE_LOSS:
        first = failure.what * setting.node_instances
        for i in range(first, min(first + setting.node_instances, cluster.num_instances)):
            crash(state, i, failure.for_ps)
    elif failure.kind == LINK:
        change_link_speed(state, failure.what, failure.permille, failure.for_ps)
    elif failure.kind == SUSPECT:
        state.lives.life[failure.what].suspected += 1
        push_life(state, cluster.now_ps + failure.for_ps, TRUST, failure.what)
    elif failure.kind == PAUSE:
        setting.paused += 1
        push_life(state, cluster.now_ps + failure.for_ps, RESUME_CONTROL, 0)
    setting.most_lost = max(setting.most_lost, setting.lost - before)


@kernel
def restore(state, r):
    """Let request r, whose KV came from its replica, wait on its instance, modified in place."""
    if state.jobs[r].stage == FETCHING:
        append_again(state, r)


@kernel
def pop_life(state):
    """Take the timer that goes first away, modified in place; returns (kind, what)."""
    setting = state.lives.setting[0]
    first = first_timer(state)
    timers = state.lives.life_timers
    kind = timers[first].kind
    what = timers[first].what
    setting.timers -= 1
    timers[first] = timers[setting.timers]
    set_next(state)
    return kind, what


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
    elif kind == RESTORE_LINK and state.lives.life[what].nic_down_ps <= state.cluster[0].now_ps:
        state.lives.life[what].nic_permille = 1000
    elif kind == RESUME_CONTROL:
        setting.paused -= 1
    elif kind == RESTORED:
        restore(state, what)

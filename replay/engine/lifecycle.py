"""The life of instances: they start, serve, drain and are off; failures that end are noticed, and what waited goes on.

What routers take to be there lags behind: a failure is noticed after a time, a health check may be wrong.
"""

from replay.engine.alive import is_offered, lacks_decodes
from replay.engine.jit import inlined, kernel
from replay.engine.life_schema import DOWN, DRAINING, OFF, STARTING, UP
from replay.engine.lost import append_again, wipe
from replay.engine.notes import note
from replay.engine.schema import FETCHING, HANDOFF, LOG_DOWN, LOG_OFF, LOG_UP, NONE
from replay.engine.tier_schema import COMES, GOES


@inlined
def pass_to(state, life, i, doing):
    """Let what `life` is of do something else from now on, modified in place; its time so far is added up.

    i : by which its changes are known: an instance, or the number of instances and a node
    """
    now_ps = state.cluster[0].now_ps
    elapsed_ps = now_ps - life.since_ps
    if life.state != OFF:
        life.paid_ps += elapsed_ps
    if life.state == UP or life.state == DRAINING:
        life.up_ps += elapsed_ps
    elif life.state == DOWN:
        life.down_ps += elapsed_ps
    life.since_ps = now_ps
    life.state = doing
    setting = state.lives.setting[0]
    moment = state.lives.moments[setting.moments]
    moment.time_ps = now_ps
    moment.instance = i
    moment.state = doing
    setting.moments += 1


@kernel
def set_state(state, i, doing):
    """Let instance i do something else from now on, modified in place; its time so far is added up."""
    life = state.lives.life[i]
    cluster = state.cluster[0]
    if cluster.tiered and (doing == UP or doing == OFF):
        mark_own(state, i, COMES if doing == UP else GOES)
    cluster.draining += (1 if doing == DRAINING else 0) - (1 if life.state == DRAINING else 0)
    pass_to(state, life, i, doing)
    if doing == UP:
        note(state, LOG_UP, NONE, i, 0)
    elif doing == DOWN:
        note(state, LOG_DOWN, NONE, i, 0)
    elif doing == OFF:
        note(state, LOG_OFF, NONE, i, 0)


@kernel
def mark_own(state, i, fate):
    """Note that the stores of the host of instance i go or come back in this event, modified in place."""
    mark(state, state.instances[i].private_dram, fate)
    mark(state, state.instances[i].local_disk, fate)


@inlined
def mark(state, s, fate):
    """Note that store s, if there is one, goes or comes back in this event, modified in place."""
    if s >= 0:
        state.hierarchy.stores[s].fate = fate
        state.lives.setting[0].stores_change = 1


@kernel
def count_away(state):
    """Count the instances that routers do not take to be there, modified in place: none costs them nothing."""
    away = state.lives.setting[0].paused
    for i in range(state.cluster[0].num_instances):
        if not is_offered(state, i):
            away += 1
    state.cluster[0].away = away


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
        setting.aside -= 1
        append_again(state, r)
        r = following
    r = setting.shut_head
    setting.shut_head = NONE
    setting.shut_tail = NONE
    while r >= 0:
        following = state.jobs[r].next
        setting.aside -= 1
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
def come_up(state, i):
    """Let instance i serve, empty, if its start or repair is over now. Modified in place."""
    life = state.lives.life[i]
    if (life.state != STARTING and life.state != DOWN) or life.until_ps != state.cluster[0].now_ps:
        return
    set_state(state, i, UP)
    life.trusted = 1


@kernel
def detect(state, i):
    """Notice a failure of instance i: routers send nothing more if it is still down, what it took goes on. In place."""
    life = state.lives.life[i]
    now_ps = state.cluster[0].now_ps
    if life.state == DOWN and life.notice_ps <= now_ps:
        life.trusted = 0
    before = NONE
    r = life.lost_head
    while r >= 0:
        following = state.jobs[r].next
        if state.lives.losses[r].notice_ps > now_ps:  # by a failure after the one that is noticed
            before = r
        else:
            if before < 0:
                life.lost_head = following
            else:
                state.jobs[before].next = following
            if state.jobs[r].stage == HANDOFF:
                state.lives.life[state.jobs[r].prefill_instance].stranded -= 1
            state.lives.setting[0].aside -= 1
            append_again(state, r)
        r = following


@kernel
def restored(state, r):
    """Let request r, whose KV came from its replica, join the queue of its instance, modified in place."""
    if state.jobs[r].stage == FETCHING:
        append_again(state, r)

"""The end of a request: its status, and the arrival times of its next turns."""

from replay.engine.jit import inlined
from replay.engine.life_schema import OP_OVER
from replay.engine.notes import fault, note
from replay.engine.queues import push
from replay.engine.schema import FINISHED, GONE, LOG_FINISH, MAX_TIME_PS, TIME_RANGE
from replay.engine.state import address_of


@inlined
def conclude(state, i, r):
    """End request r, last on instance i, with all its tokens; its next turns get their arrival times. In place."""
    cluster = state.cluster[0]
    job = state.jobs[r]
    job.stage = GONE
    job.status = FINISHED
    job.finish_ps = cluster.now_ps
    cluster.gone += 1
    if cluster.lives and cluster.gone == cluster.num_requests:
        state.policies.life(address_of(state), OP_OVER, 0, 0)
    note(state, LOG_FINISH, r, i, job.output_tokens)
    turn = job.first_turn
    while turn >= 0:
        following = state.jobs[turn]
        if following.think_ps > MAX_TIME_PS - cluster.now_ps:
            fault(state, TIME_RANGE, i, 0)
            return
        following.think_ps += cluster.now_ps
        following.key = float(following.think_ps)
        state.requests[turn].arrival_ps = following.think_ps
        cluster.turns = push(state.jobs, cluster.turns, turn)
        turn = following.next_turn

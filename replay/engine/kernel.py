"""The event loop: what happens next, and the end of an iteration. MODEL.md beside this file is its specification."""

from replay.engine.ahead import bring_arrivals
from replay.engine.batching import schedule
from replay.engine.ending import conclude
from replay.engine.handoff import deliver, handoff
from replay.engine.jit import inlined, kernel
from replay.engine.kvcache import publish
from replay.engine.notes import fault, note
from replay.engine.observing import take_signals
from replay.engine.outputs import keep_output
from replay.engine.phases import change_count, gap_bin, join_decode, leave_decode, settle_iterations
from replay.engine.preemption import release_blocks
from replay.engine.queues import pop
from replay.engine.rare import begin_end, count_token, finish_more, follow_up, note_late, wake_ranks
from replay.engine.request_schema import OP_GO, OP_MOVE
from replay.engine.routing import arrive, drain
from replay.engine.rows_left import is_full
from replay.engine.schema import (
    BROKEN_LAW,
    DECODE,
    DECODING,
    DONE,
    FAULT,
    FINISH_AT,
    GONE,
    LOG_TOKEN,
    NEVER_PS,
    NONE,
    PAUSED,
    PREFILL,
    RUNNING,
)
from replay.engine.side_events import fabric_event, life_event, tier_event
from replay.engine.stage_events import issue_due, next_due, stage_event
from replay.engine.state import address_of
from replay.engine.tier_schema import OP_PUBLISHED
from replay.engine.traffic import send_rest, sends_parts
from replay.engine.tree import first_event


@inlined
def finish(state, policies, i, r):
    """Take request r, which has all its tokens, off instance i; it ends unless it waits for stages. In place."""
    cluster = state.cluster[0]
    if cluster.special and cluster.outputs:
        keep_output(state, i, r)
    release_blocks(state, policies, i, r)
    change_count(state, i)
    state.views[i].running -= 1
    if not (cluster.special and finish_more(state, i, r)):
        conclude(state, i, r)


@inlined
def finish_decodes(state, policies, i):
    """Finish the decoding requests of instance i that have all their tokens, in row order; returns how many."""
    finished = 0
    instance = state.instances[i]
    iteration = instance.iteration
    batch = state.batch
    while iteration >= instance.next_finish:
        chosen = -1
        following = NEVER_PS
        for slot in range(state.views[i].decoding):
            finish_at = batch[i, FINISH_AT, slot]
            if finish_at != iteration:
                following = min(following, finish_at)
            elif chosen < 0 or batch[i, RUNNING, slot] < batch[i, RUNNING, chosen]:
                chosen = slot
        if chosen < 0:
            instance.next_finish = min(following, next_due(state, i)) if state.cluster[0].staged else following
        else:
            r = batch[i, RUNNING, chosen]
            leave_decode(state, i, chosen)
            finish(state, policies, i, r)
            finished += 1
    return finished


@inlined
def complete_prefill(state, policies, i, r):
    """Give request r the token that its complete prefill on instance i yields; returns 1 if it leaves the batch."""
    cluster = state.cluster[0]
    view = state.views[i]
    job = state.jobs[r]
    request = state.requests[r]
    now_ps = cluster.now_ps
    if cluster.cache and view.role != DECODE and job.leaf >= 0:
        publish(state, i, r)
        if cluster.tiered:
            state.policies.tiers(address_of(state), OP_PUBLISHED, r, i)
    request.generated_tokens += 1
    state.instances[i].tokens_out += 1
    if cluster.special:
        count_token(state, i, r)
    if job.first_token_ps < 0:
        job.first_token_ps = now_ps
        note(state, LOG_TOKEN, r, i, 1)
    else:
        gap_ps = now_ps - job.last_token_ps
        state.histogram[request.tier, gap_bin(gap_ps)] += 1
        job.max_itl_ps = max(job.max_itl_ps, gap_ps)
        if cluster.gaps:
            state.gaps[state.gap_first[r] + request.generated_tokens - 2] = gap_ps
    job.last_token_ps = now_ps
    if request.generated_tokens == job.output_tokens:
        finish(state, policies, i, r)
        return 1
    if view.role == PREFILL or cluster.pooled and job.decode_instance < 0:
        handoff(state, policies, i, r)
        if job.decode_instance != i or job.stage == GONE:
            return 1
    job.stage = DECODING
    join_decode(state, i, r)
    return 0


@inlined
def advance_prefills(state, policies, i):
    """Apply the chunks that the last iteration of instance i computed; returns how many requests left the batch."""
    instance = state.instances[i]
    view = state.views[i]
    gone = 0
    previous = NONE
    r = instance.prefill_head
    while r >= 0:
        job = state.jobs[r]
        following = job.next
        chunk = job.chunk
        view.queued_tokens -= chunk
        instance.prefill_done_tokens += chunk
        job.charged_tokens -= chunk
        job.prefilled += chunk
        job.prefill_left -= chunk
        job.chunk = 0
        if state.cluster[0].fabric and chunk > 0 and sends_parts(state, i):
            send_rest(state, policies, i, r, chunk)
        if job.prefill_left > 0:
            previous = r
        else:
            if previous < 0:
                instance.prefill_head = following
            else:
                state.jobs[previous].next = following
            if following < 0:
                instance.prefill_tail = previous
            job.next = NONE
            gone += complete_prefill(state, policies, i, r)
        r = following
    return gone


@inlined
def end_iteration(state, policies, i):
    """Handle the end of the phase of instance i: tokens, finished requests, the next phase. Modified in place."""
    instance = state.instances[i]
    settle_iterations(state, i, instance.left)
    instance.left = -1
    if state.cluster[0].special:
        begin_end(state, i)
    gone = 0
    if instance.decodes and instance.iteration >= instance.next_finish:
        if state.cluster[0].special and state.cluster[0].staged:
            issue_due(state, i)
        gone += finish_decodes(state, policies, i)
    if instance.phase_prefill_tokens > 0:
        gone += advance_prefills(state, policies, i)
    if instance.gives:
        gone += state.policies.moves(address_of(state), OP_GO, 0, i)
    if state.cluster[0].special:
        note_late(state, i)
    if gone > 0 and state.cluster[0].held >= 0:
        drain(state, policies)
    admitted = schedule(state, policies, i)
    if admitted > 0 and state.cluster[0].held >= 0:
        drain(state, policies)
    if state.cluster[0].special:
        wake_ranks(state, policies, i)


@inlined
def next_arrival(state):
    """Return the row that arrives next or whose prediction ends, by (time, row), -1 if none does."""
    cluster = state.cluster[0]
    while cluster.cursor < cluster.num_requests and state.jobs[cluster.cursor].parent >= 0:
        cluster.cursor += 1
    r = NONE
    if cluster.cursor < cluster.num_requests:
        r = cluster.cursor
    turn = cluster.turns
    if turn >= 0:
        if r < 0:
            return turn
        turn_ps = state.jobs[turn].think_ps
        open_ps = state.requests[r].arrival_ps
        if turn_ps < open_ps or (turn_ps == open_ps and turn < r):
            return turn
    return r


@kernel
def advance(state, policies, max_events):
    """Run at most `max_events` events of a replay, modified in place.

    state   : State; policies: Policies
    returns : DONE (nothing is left to happen), PAUSED, or FAULT (cluster.fault, fault_at and fault_value say which)
    cost    : O(log instances + batch) per event
    """
    cluster = state.cluster[0]
    for _ in range(max_events):
        if cluster.special and is_full(state):
            return PAUSED
        time_ps, leaf = first_event(state.tree)
        r = next_arrival(state)
        arrival_ps = NEVER_PS
        if r >= 0:
            arrival_ps = state.jobs[r].think_ps if r == cluster.turns else state.requests[r].arrival_ps
        arrives = r >= 0 and arrival_ps <= time_ps
        if arrives:
            time_ps = arrival_ps
        if time_ps == NEVER_PS:
            return DONE
        if arrives and cluster.arrived == cluster.stop_at:
            return PAUSED
        if time_ps < cluster.now_ps:
            fault(state, BROKEN_LAW, leaf, cluster.now_ps - time_ps)
            return FAULT
        if cluster.special and cluster.signals and time_ps >= cluster.signal_ps:
            take_signals(state, time_ps)
        if time_ps > cluster.now_ps:
            cluster.now_ps = time_ps
            cluster.passed = -1
        cluster.events += 1
        if arrives:
            if r == cluster.turns:
                cluster.turns = pop(state.jobs, r)
            else:
                cluster.cursor += 1
                bring_arrivals(state, cluster.cursor)
            arrive(state, policies, r)
        elif leaf < cluster.num_instances:
            deliver(state, policies, leaf)
        elif leaf < 2 * cluster.num_instances:
            cluster.passed = leaf - cluster.num_instances
            end_iteration(state, policies, leaf - cluster.num_instances)
        else:
            cluster.passed = cluster.num_instances
            if leaf == 2 * cluster.num_instances:
                tier_event(state, policies)
            elif leaf == 2 * cluster.num_instances + 1:
                fabric_event(state, policies)
            elif leaf == 3 * cluster.num_instances + 3:
                life_event(state, policies)
            elif leaf == 3 * cluster.num_instances + 4:
                stage_event(state, policies)
            else:
                state.policies.moves(address_of(state), OP_MOVE, 0, leaf - 2 * cluster.num_instances - 2)
        if cluster.special:
            follow_up(state, policies)
        if cluster.fault != 0:
            return FAULT
    return PAUSED

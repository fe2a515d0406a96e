"""Live migration: a running request's KV is copied in rounds while it decodes; it pauses for the last one only.

source : Llumnix (Sun et al., OSDI 2024)
"""

from replay.engine.going_on import goes_on
from replay.engine.jit import kernel
from replay.engine.links import send, transfer_ps
from replay.engine.notes import fault, note
from replay.engine.observing import show_counts
from replay.engine.phases import change_count, cut, leave_decode, settle
from replay.engine.preemption import end_spell
from replay.engine.request_schema import OP_MOVE
from replay.engine.schema import BAD_MIGRATE, DECODING, HANDOFF, LOG_HANDOFF, NEVER_PS, NONE, RUNNING
from replay.engine.slots import blocks_for, generated_now
from replay.engine.tree import set_event


@kernel
def kv_now(state, i, r):
    """Return the tokens of KV of decoding request r on instance i: its context but for its last token."""
    return state.requests[r].prompt_tokens + generated_now(state, i, state.jobs[r].slot) - 1


@kernel
def choose_mover(state, i):
    """Return the request to move from instance i: of the least urgent tier the shortest, then the lowest row; or -1."""
    chosen = NONE
    for slot in range(state.views[i].decoding):
        r = state.batch[i, RUNNING, slot]
        tier = state.requests[r].tier
        if chosen < 0 or tier > state.requests[chosen].tier:
            chosen = r
        elif tier == state.requests[chosen].tier:
            here, there = kv_now(state, i, r), kv_now(state, i, chosen)
            if here < there or here == there and r < chosen:
                chosen = r
    return chosen


@kernel
def copy(state, i, tokens):
    """Let the card of instance i carry so many tokens of KV; the round ends when they came. Modified in place."""
    instance = state.instances[i]
    move = state.asking.moving[i]
    profile = state.cost.profiles[instance.profile]
    instance.nic_free_ps = max(state.cluster[0].now_ps, instance.nic_free_ps) + transfer_ps(state, i, tokens)
    move.copied += tokens
    move.rounds += 1
    move.copied_tokens += tokens
    end_ps = instance.nic_free_ps + profile.transfer_latency_ps
    set_event(state.tree, 2 * state.cluster[0].num_instances + 2 + i, end_ps)


@kernel
def give_up(state, i):
    """End the migration from instance i without result, modified in place."""
    move = state.asking.moving[i]
    move.request = NONE
    state.instances[i].gives = 0
    move.given_up += 1


@kernel
def still_moves(state, i):
    """Whether the request that migrates from instance i still decodes there, as it did when it began."""
    move = state.asking.moving[i]
    job = state.jobs[move.request]
    return job.stage == DECODING and job.decode_instance == i and job.preemptions == move.preemptions


@kernel
def begin_move(state, i, j):
    """Begin to move a request from instance i to j if one decodes there that j can hold, modified in place."""
    move = state.asking.moving[i]
    if move.request >= 0 or i == j:
        return
    settle(state, i)
    r = choose_mover(state, i)
    if r < 0:
        return
    most = state.requests[r].prompt_tokens + state.jobs[r].output_tokens - 1 + state.cluster[0].draft_tokens
    if blocks_for(most, state.views[j].block_tokens) > state.views[j].total_blocks:
        return
    move.request = r
    move.target = j
    move.preemptions = state.jobs[r].preemptions
    move.copied = 0
    copy(state, i, kv_now(state, i, r))


@kernel
def end_round(state, i):
    """Handle the end of a copy from instance i: another round, the last one to come, or nothing more. In place."""
    set_event(state.tree, 2 * state.cluster[0].num_instances + 2 + i, NEVER_PS)
    if not still_moves(state, i):
        give_up(state, i)
        return
    settle(state, i)
    move = state.asking.moving[i]
    new = kv_now(state, i, move.request) - move.copied
    if new > state.views[i].block_tokens:
        copy(state, i, new)
        return
    state.instances[i].gives = 1
    cut(state, i)


@kernel
def go(state, i):
    """Take the request that migrates from instance i out of its batch if its target has room; returns 1 if it left."""
    move = state.asking.moving[i]
    if not still_moves(state, i):
        give_up(state, i)
        return 0
    r = move.request
    j = move.target
    job = state.jobs[r]
    kv_tokens = kv_now(state, i, r)
    settle(state, j)
    view = state.views[j]
    room = view.free_blocks + view.cached_blocks
    if view.running + view.waiting >= view.max_batch or blocks_for(kv_tokens, view.block_tokens) + 1 > room:
        give_up(state, i)
        return 0
    leave_decode(state, i, job.slot)
    change_count(state, i)
    state.views[i].running -= 1
    if state.cluster[0].spelled:
        end_spell(state, r)
    change_count(state, j)
    view.waiting += 1
    view.sent += 1
    view.waiting_tokens += kv_tokens + 1
    job.decode_instance = j
    job.stage = HANDOFF
    tokens = kv_tokens - move.copied
    move.copied_tokens += tokens
    move.moved += 1
    move.request = NONE
    state.instances[i].gives = 0
    note(state, LOG_HANDOFF, r, i, tokens)
    send(state, i, r, max(state.cluster[0].now_ps, state.instances[i].nic_free_ps) + transfer_ps(state, i, tokens))
    return 1


@kernel
def ask(state):
    """Ask the migrate policy for a pair of instances, and when to ask again. Modified in place. faults: BAD_MIGRATE."""
    cluster = state.cluster[0]
    first = cluster.first_decode
    count = cluster.num_instances - first
    leaf = 3 * cluster.num_instances + 2
    set_event(state.tree, leaf, cluster.now_ps + cluster.migrate_ps if goes_on(state) else NEVER_PS)
    for k in range(first, cluster.num_instances):
        show_counts(state, k)
    source, target = state.policies.migrate(state.views[first : cluster.num_instances], cluster.now_ps, state.tunables)
    if source < -1 or source >= count or target < -1 or target >= count:
        fault(state, BAD_MIGRATE, source, target)
        return
    if source >= 0 and target >= 0:
        begin_move(state, first + source, first + target)


@kernel
def operate_moves(state, operation, what, i):
    """Do one operation of live migration for the event loop, modified in place; of OP_GO returns whether r left."""
    if operation == OP_MOVE:
        if i < state.cluster[0].num_instances:
            end_round(state, i)
        else:
            ask(state)
        return 0
    return go(state, i)

"""What an instance runs next: room for decodes, prefill chunks, admission, preemption; steps 1-7 of MODEL.md."""

import math

import numpy as np

from replay.engine.accounts import charge_prompt, leave_waiting
from replay.engine.beginning import begin_phase
from replay.engine.foresight import foresee
from replay.engine.jit import inlined, kernel
from replay.engine.kvcache import (
    count_reuse,
    pin_path,
    resident_blocks,
    take_private,
    unpinned_blocks,
    usable_tokens,
    visible,
)
from replay.engine.notes import fault, note
from replay.engine.observing import show_pace
from replay.engine.outputs import leaf_of, own_part
from replay.engine.phases import change_count, growth_now, join_decode
from replay.engine.preemption import head_preempts, make_room, preempt, spare
from replay.engine.queues import append_prefill, pop
from replay.engine.schema import (
    BAD_BATCH,
    DECODE,
    DECODING,
    LOG_ADMIT,
    NEVER_PS,
    NONE,
    PREFILLING,
)
from replay.engine.slots import whole_blocks
from replay.engine.stalls import begin_stall, counted_blocks, credit_tiers, may_load
from replay.engine.state import address_of
from replay.engine.tier_schema import OP_CONCLUDE
from replay.engine.traffic import start_traffic
from replay.engine.waiting import rekey, rekey_queue


@inlined
def demand(state, i, r):
    """Return what admitting request r to instance i takes, without changing anything.

    returns : (blocks to take, tokens to prefill, deepest resident node, its end in blocks, cached blocks it would pin,
              blocks it adds to the growth need)
    """
    request = state.requests[r]
    job = state.jobs[r]
    block_tokens = state.views[i].block_tokens
    context = request.prompt_tokens + request.generated_tokens
    if job.prefill_left == 0:  # handed off: all but the last token's KV is here
        need = whole_blocks(state, context - 1)
        grows = 1 if need * block_tokens == context - 1 else 0
        if state.cluster[0].draft_tokens > 0:
            grows = whole_blocks(state, context + state.cluster[0].draft_tokens) - need
        return need, 0, NONE, 0, 0, grows
    node, resident, cached = NONE, 0, 0
    leaf = leaf_of(state, r)
    if state.cluster[0].cache and state.views[i].role != DECODE and leaf >= 0:
        node, resident = visible(state, leaf, i)
        if state.cluster[0].outputs:
            node, resident = own_part(state, node, resident, context // block_tokens)
        cached = unpinned_blocks(state.cache, node, i)
    left = context - usable_tokens(state, max(resident, counted_blocks(state, r)), context, block_tokens)
    return whole_blocks(state, context) - resident, left, node, resident, cached, 0


@inlined
def has_room(state, i, need, cached, grows):
    """Whether a request with this demand fits beside what the decodes of instance i need for their next iteration."""
    view = state.views[i]
    growth = growth_now(state, i)
    return need + grows + growth <= view.free_blocks + view.cached_blocks - cached


@kernel
def preempt_by_order(state, policies, i, left):
    """Let the head of the queue push out less urgent running requests while it lacks room, modified in place."""
    view = state.views[i]
    for _ in range(view.running):
        head = state.instances[i].queue
        if head < 0:
            return
        if left <= 0 and state.jobs[head].prefill_left > 0:
            return
        need, _, _, _, cached, grows = demand(state, i, head)
        if view.running < view.max_batch and has_room(state, i, need, cached, grows):
            return
        victim = head_preempts(state, i)
        if victim < 0:
            return
        preempt(state, policies, i, victim)


@inlined
def give_chunk(state, r, left, given, whole):
    """Return the tokens of request r to prefill in this iteration, 0 to stop; sets its chunk. Modified in place."""
    job = state.jobs[r]
    chunk = min(left, job.prefill_left)
    if whole:
        chunk = job.prefill_left if given == 0 or job.prefill_left <= left else 0
    job.chunk = chunk
    return chunk


@inlined
def chunk_squares(job):
    """Return b^2 - a^2 for the chunk [a, b) of a request: its share of quadratic attention work."""
    return job.chunk * (2 * job.prefilled + job.chunk)


@kernel
def continue_prefills(state, i, left, whole):
    """Give chunks to the running prefills of instance i in order; returns (tokens given, sum of squares)."""
    given = 0
    squares = 0
    r = state.instances[i].prefill_head
    stop = False
    while r >= 0:
        if stop:
            state.jobs[r].chunk = 0
        else:
            chunk = give_chunk(state, r, left - given, given, whole)
            stop = chunk <= 0
            given += chunk
            squares += chunk_squares(state.jobs[r])
        r = state.jobs[r].next
    return given, squares


@kernel
def begin_spell(state, i, r, left):
    """Note that request r runs on instance i as of now, modified in place."""
    spell = state.asking.spells[r]
    spell.waited_ps = state.cluster[0].now_ps - spell.since_ps
    spell.since_ps = state.cluster[0].now_ps
    if state.cluster[0].fair:
        leave_waiting(state, i, r)
        if left > 0:
            charge_prompt(state, i, r)


@inlined
def admit_waiting(state, policies, i, tokens, whole, given):
    """Admit requests from the queue of instance i while they fit; returns (tokens given to them, squares, how many)."""
    view = state.views[i]
    instance = state.instances[i]
    before = given
    squares = 0
    admitted = 0
    special = state.cluster[0].special
    most = view.max_batch
    late_blocks = np.int64(0)
    if special:
        most -= instance.late_places
        late_blocks = instance.late_blocks
    while instance.queue >= 0 and view.running < most:
        r = instance.queue
        job = state.jobs[r]
        handed = job.prefill_left == 0
        if special and state.cluster[0].plans_ahead and job.queued_ps > instance.seen_ps:
            break
        if not handed and tokens - given <= 0:
            break
        if special and state.cluster[0].tiered and not handed and may_load(state, r):
            state.policies.tiers(address_of(state), OP_CONCLUDE, r, i)
        need, left, node, resident, cached, grows = demand(state, i, r)
        if whole and not handed and given > 0 and left > tokens - given:
            break
        if not has_room(state, i, need, cached + late_blocks, grows):
            break
        instance.queue = pop(state.jobs, r)
        if instance.queue < 0:
            instance.empty_since_ps = state.cluster[0].now_ps
        admit_one(state, i, r, need, left, node)
        job.pinned_blocks = resident
        if special and state.cluster[0].spelled:
            begin_spell(state, i, r, left)
        admitted += 1
        if handed:
            job.stage = DECODING
            join_decode(state, i, r)
        else:
            given += give_chunk(state, r, tokens - given, given, whole)
            squares += chunk_squares(job)
            append_prefill(state.jobs, instance, r)
        if special and state.cluster[0].fair and instance.queue >= 0:
            instance.queue = rekey_queue(state, policies, i, instance.queue)
    return given - before, squares, admitted


@kernel
def make_up(state, i, r, context, left, node):
    """Note how request r, lost before and admitted to instance i, makes up for the KV that it lost. Modified in place.

    node : deepest node of its prompt that is cached there, -1 for none
    """
    loss = state.lives.losses[r]
    own = usable_tokens(state, resident_blocks(state.cache, node, i), context, state.views[i].block_tokens)
    came = usable_tokens(state, loss.restored_blocks, context, state.views[i].block_tokens)
    loss.restored_tokens += max(0, came - own)
    loss.recomputed_tokens += max(0, min(loss.kv_tokens, context) - (context - left))
    loss.kv_tokens = 0
    loss.restored_blocks = 0
    loss.begun_ps = state.cluster[0].now_ps


@kernel
def look_back(state, i, r, left, node):
    """Note what the admission of request r to instance i says of prefixes and their users, modified in place."""
    cluster = state.cluster[0]
    if cluster.foresees and state.jobs[r].scheduled_ps < 0:
        foresee(state, r)
    if cluster.lookahead and left > 0:
        spare(state, i, r, -1)
    if node >= 0 and cluster.classes:
        count_reuse(state, i, r, leaf_of(state, r))


@kernel
def settle_debts(state, i, r, context, left, node):
    """Note what the admission of request r to instance i, with `left` tokens to prefill, waits for or makes up for."""
    if state.cluster[0].tiered:
        begin_stall(state, i, r)
    if state.cluster[0].lives and state.lives.losses[r].losses > 0:
        make_up(state, i, r, context, left, node)


@inlined
def admit_one(state, i, r, need, left, node):
    """Give request r its blocks on instance i and move it from waiting to running, modified in place."""
    view = state.views[i]
    job = state.jobs[r]
    request = state.requests[r]
    context = request.prompt_tokens + request.generated_tokens
    special = state.cluster[0].special
    if special:
        look_back(state, i, r, left, node)
    if node >= 0:
        pin_path(state, i, node)
    take_private(state, i, need)
    job.pinned = node
    job.private_blocks = need
    change_count(state, i)
    view.waiting -= 1
    view.running += 1
    view.waiting_tokens -= context
    view.queued_tokens += left - job.charged_tokens
    job.charged_tokens = left
    if special and left > 0:
        settle_debts(state, i, r, context, left, node)
    if left > 0:
        job.prefill_left = left
        job.prefilled = context - left
        job.stage = PREFILLING
        if job.scheduled_ps < 0:
            job.scheduled_ps = state.cluster[0].now_ps
            job.hit_tokens = context - left
            if special and state.cluster[0].tiered:
                credit_tiers(state, i, r)
        if special and state.cluster[0].fabric:
            state.wires.transits[r].cached = context - left
    note(state, LOG_ADMIT, r, i, context - left)


@inlined
def see_all(state, i):
    """Let instance i form its batch now: it was idle, or had nothing to form one of before. Modified in place."""
    instance = state.instances[i]
    instance.seen_ps = NEVER_PS
    instance.late_blocks = 0
    instance.late_places = 0


@kernel
def schedule(state, policies, i):
    """Decide the next phase of instance i, which is idle or at the end of an iteration. Modified in place.

    returns : int, requests admitted
    faults  : BAD_BATCH, BAD_ORDER, TIME_RANGE
    """
    view = state.views[i]
    pressed = False
    full = growth_now(state, i) > view.free_blocks + view.cached_blocks
    special = state.cluster[0].special
    if special and state.cluster[0].rekeys and (full or state.instances[i].queue >= 0):
        rekey(state, policies, i)
    if full:
        pressed = make_room(state, policies, i)
    if special and state.cluster[0].batch_reads_pace:
        show_pace(state, i)
    tokens, decode, whole = policies.batch(view, state.cluster[0].now_ps, state.tunables)
    if tokens < 0:
        fault(state, BAD_BATCH, i, tokens)
        tokens = 0
    instance = state.instances[i]
    if instance.queue >= 0 and not pressed and state.jobs[instance.queue].margin != math.inf:
        preempt_by_order(state, policies, i, tokens)
    given, squares, admitted = 0, 0, 0
    if instance.prefill_head >= 0:
        given, squares = continue_prefills(state, i, tokens, whole)
    if special and state.cluster[0].plans_ahead and (instance.left == 0 or (given == 0 and view.decoding == 0)):
        see_all(state, i)
    if instance.queue >= 0 and not pressed:
        more, more_squares, admitted = admit_waiting(state, policies, i, tokens, whole, given)
        given += more
        squares += more_squares
    decodes = view.decoding > 0 and (decode != 0 or given == 0)
    begin_phase(state, i, given, squares, decodes, pressed)
    if special and state.cluster[0].fabric and (given > 0 or instance.awaited_loads > 0):
        start_traffic(state, policies, i, given)
    return admitted

"""Speculative decoding: requests propose tokens, an iteration verifies them, those accepted come with its own token.

source : Leviathan, Kalman, Matias, Fast inference from transformers via speculative decoding, ICML 2023;
         lookahead slots as in vLLM
"""

from replay.engine.accounts import charge_output
from replay.engine.drafting_schema import OP_COST, OP_JOIN, OP_LEAVE, STREAM
from replay.engine.draws import uniform
from replay.engine.jit import inlined, kernel
from replay.engine.schema import FINISH_AT, NEVER_PS, RUNNING
from replay.engine.slots import blocks_for, due_at, generated_now
from replay.engine.timing import iteration_cost, segment_at


@inlined
def table_ps(segments, first, count, tokens):
    """Return the value of a table of costs at so many tokens, in ps."""
    s = segment_at(segments, first, count, tokens)
    return segments[s].base_ps + segments[s].slope_ps * (tokens - segments[s].start)


@kernel
def drafts_ps(state, i, given):
    """Return what drafting and verifying add to the iteration that begins on instance i, in ps.

    given : prefill tokens of the iteration
    """
    setting = state.speculation.drafting[0]
    instance = state.instances[i]
    profile = state.cost.profiles[instance.profile]
    decoding = state.views[i].decoding
    drafted = state.cluster[0].draft_tokens * decoding
    first, count = profile.token_first, profile.token_count
    if given == 0:
        first, count = profile.decode_first, profile.decode_count
    tokens = given + decoding
    segments = state.cost.segments
    verified_ps = table_ps(segments, first, count, tokens + drafted) - table_ps(segments, first, count, tokens)
    plain_ps, _, _ = iteration_cost(state.cost, instance.profile, 0, decoding, instance.kv_tokens, 0)
    drafted_ps = setting.draft_ps + setting.draft_request_ps * decoding + plain_ps * setting.share_ppm // 1000000
    return verified_ps + profile.prefill_token_ps * drafted + state.cluster[0].draft_tokens * drafted_ps


@inlined
def blocks_ahead(state, r, i, context):
    """Return the KV blocks that decoding request r lacks for its next iteration on instance i, proposals included."""
    needed = blocks_for(context + state.cluster[0].draft_tokens, state.views[i].block_tokens)
    return needed - state.speculation.drafts[r].blocks


@kernel
def join(state, r, i):
    """Count what request r, which begins to decode on instance i, needs for its first iteration. In place."""
    context = state.requests[r].prompt_tokens + state.requests[r].generated_tokens
    state.speculation.drafts[r].blocks = blocks_for(context - 1, state.views[i].block_tokens)
    state.growth[i, 0] += blocks_ahead(state, r, i, context)


@kernel
def leave(state, r, i):
    """Count what request r, which decodes on instance i no more, needed no longer. Returns the blocks it holds."""
    context = state.requests[r].prompt_tokens + state.requests[r].generated_tokens
    state.growth[i, 0] -= blocks_ahead(state, r, i, context)
    return state.speculation.drafts[r].blocks


@inlined
def accepted_now(state, r):
    """Return how many proposed tokens of request r its next verification accepts: drawn by seed, request, number."""
    u = uniform(state.requests[r].random_key, STREAM + state.speculation.drafts[r].iterations)
    accepted = 0
    while accepted < state.cluster[0].draft_tokens and u < state.speculation.reach[accepted]:
        accepted += 1
    return accepted


@kernel
def verify(state, i):
    """Give the decoding requests of instance i, each of which just got a token, the proposed ones accepted. In place.

    cost : O(batch)
    """
    instance = state.instances[i]
    batch = state.batch
    growth = 0
    next_finish = NEVER_PS
    for slot in range(state.views[i].decoding):
        r = batch[i, RUNNING, slot]
        draft = state.speculation.drafts[r]
        context = state.requests[r].prompt_tokens + generated_now(state, i, slot)
        draft.blocks = blocks_for(context - 1 + state.cluster[0].draft_tokens, state.views[i].block_tokens)
        more = min(accepted_now(state, r), batch[i, FINISH_AT, slot] - instance.iteration)
        draft.iterations += 1
        draft.accepted_tokens += more
        if more > 0:
            batch[i, FINISH_AT, slot] -= more
            state.histogram[state.requests[r].tier, 0] += more  # gaps of no time
            instance.kv_tokens += more
            instance.tokens_out += more
            if state.cluster[0].fair:
                charge_output(state, i, r, more)
        growth += blocks_ahead(state, r, i, context + more)
        next_finish = min(next_finish, due_at(state, r, batch[i, FINISH_AT, slot]))
    instance.residue = 0
    state.growth[i, 0] = growth
    instance.next_finish = next_finish


@kernel
def operate_drafting(state, operation, what, i):
    """Do one operation of speculative decoding for the event loop, modified in place.

    what    : of OP_JOIN and OP_LEAVE the request, of OP_COST the prefill tokens of the iteration
    returns : of OP_LEAVE the KV blocks that the request holds, of OP_COST picoseconds, else 0
    """
    if operation == OP_COST:
        return drafts_ps(state, i, what)
    if operation == OP_JOIN:
        join(state, what, i)
    elif operation == OP_LEAVE:
        return leave(state, what, i)
    else:
        verify(state, i)
    return 0

"""Ranks in step: instances whose iterations begin and end together, as MODEL.md says under *Ranks*."""

from replay.engine.jit import inlined, kernel
from replay.engine.kvcache import take_private
from replay.engine.notes import fault
from replay.engine.phases import growth_now
from replay.engine.schema import MAX_TIME_PS, NEVER_PS, TIME_RANGE
from replay.engine.timing import iteration_cost, shared_cost
from replay.engine.tree import set_event


@kernel
def plan(state, i, given, squares, decodes):
    """Note what rank i runs next; the last of its group to do so begins the iteration of all. Modified in place.

    given, squares : prefill tokens and their squares, as `begin_phase`
    """
    instance = state.instances[i]
    instance.phase_prefill_tokens = given
    instance.phase_squares = squares
    instance.decodes = 1 if decodes else 0
    instance.left = -1
    set_event(state.tree, state.cluster[0].num_instances + i, NEVER_PS)
    if decodes:
        instance.gap_ps = state.cluster[0].now_ps - instance.last_decode_ps
        blocks = growth_now(state, i)
        if blocks > 0:
            take_private(state, i, blocks)
    first = instance.first_rank
    for k in range(first, first + instance.ranks):
        if state.instances[k].left > 0:  # its iteration ends now too, and is still to be looked at
            return
    begin_together(state, first, instance.ranks)


@kernel
def begin_together(state, first, ranks):
    """Begin an iteration on all ranks of a group, or let them all be idle. Modified in place."""
    tokens = 0
    fullest = 0
    prefills = 0
    slowest_ps = 0
    for k in range(first, first + ranks):
        instance = state.instances[k]
        if instance.left == 0:
            instance.phase_prefill_tokens = 0
            instance.decodes = 0
        own = runs(state, k)
        if own > 0:
            decoding = own - instance.phase_prefill_tokens
            kv_tokens = instance.kv_tokens if decoding > 0 else 0
            cost_ps, _, _ = iteration_cost(state.cost, instance.profile, instance.phase_prefill_tokens, decoding,
                                           kv_tokens, instance.phase_squares)  # fmt: skip
            slowest_ps = max(slowest_ps, cost_ps)
        prefills += instance.phase_prefill_tokens
        tokens += max(1, own)  # one that has nothing computes a token that nobody asked for
        fullest = max(fullest, own)
    now_ps = state.cluster[0].now_ps
    base_ps = max(1, slowest_ps + shared_cost(state.cost, state.instances[first].profile, tokens, fullest, prefills))
    end_ps = now_ps + base_ps if fullest > 0 else NEVER_PS
    if fullest > 0 and base_ps > MAX_TIME_PS - now_ps:
        fault(state, TIME_RANGE, first, 0)
    for k in range(first, first + ranks):
        instance = state.instances[k]
        instance.start_ps = now_ps
        instance.base_ps = base_ps
        instance.growth_ps = 0
        instance.may_evict = 0
        instance.left = 1 if fullest > 0 else 0
        instance.end_ps = end_ps
        set_event(state.tree, state.cluster[0].num_instances + k, end_ps)


@inlined
def runs(state, k):
    """Return the tokens of the iteration that instance k is to run: of prompts, and one for each decoding request."""
    instance = state.instances[k]
    return instance.phase_prefill_tokens + (state.views[k].decoding if instance.decodes else 0)

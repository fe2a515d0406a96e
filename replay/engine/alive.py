"""Which instances are there for routers: policies see these only, numbered from 0."""

from replay.engine.jit import inlined, kernel
from replay.engine.life_schema import DOWN, DRAINING, UP
from replay.engine.notes import fault
from replay.engine.schema import BAD_DECODE, BAD_ROUTE, BAD_SOURCE, NONE

HOLD = -1
REFUSE = -1


@inlined
def serves(state, i):
    """Whether instance i runs what is sent to it: it is up, or drains."""
    doing = state.lives.life[i].state
    return doing == UP or doing == DRAINING


@inlined
def is_offered(state, i):
    """Whether routers take instance i to be there; of one that failed they do until that is noticed."""
    life = state.lives.life[i]
    return life.trusted != 0 and life.suspected == 0 and (life.state == UP or life.state == DOWN)


@kernel
def offer(state):
    """Copy the views of the prefill-capable instances that are there to `offered`, in place; returns how many."""
    count = 0
    for i in range(state.cluster[0].num_prefill):
        if is_offered(state, i):
            state.lives.offered[count] = state.prefill_views[i]
            state.lives.offered_ids[count] = i
            count += 1
    return count


@kernel
def offer_decodes(state):
    """Copy the views of the decode-capable instances that are there to `offered_decodes`; returns how many."""
    first = state.cluster[0].first_decode
    count = 0
    for i in range(first, state.cluster[0].num_instances):
        if is_offered(state, i):
            state.lives.offered_decodes[count] = state.decode_views[i - first]
            state.lives.decode_ids[count] = i
            count += 1
    return count


@kernel
def lacks_decodes(state):
    """Whether no decode instance can be chosen now: none is there, or the control plane is away."""
    if state.lives.setting[0].paused > 0:
        return True
    for i in range(state.cluster[0].first_decode, state.cluster[0].num_instances):
        if is_offered(state, i):
            return False
    return True


@kernel
def admit_there(state, policies, asker):
    """Ask the admit policy about the instances that are there; where none is, the request waits until one comes."""
    count = offer(state)
    decodes = offer_decodes(state)
    if count == 0 or decodes == 0:
        return 1
    return policies.admit(asker, state.lives.offered[:count], state.lives.offered_decodes[:decodes],
                          state.cluster[0].now_ps, state.tunables)  # fmt: skip


@kernel
def route_there(state, policies, r, asker):
    """Ask the route policy about the instances that are there; returns (instance or HOLD, source). In place.

    faults : BAD_ROUTE, BAD_SOURCE
    """
    if state.lives.setting[0].paused > 0:
        return HOLD, NONE
    count = offer(state)
    if count == 0:
        return HOLD, NONE
    i, source = policies.route(asker, state.lives.offered[:count], state.cluster[0].now_ps, state.tunables)
    if i == HOLD:
        return HOLD, NONE
    if i < 0 or i >= count:
        fault(state, BAD_ROUTE, r, i)
        return HOLD, NONE
    if source < -1 or source >= count:
        fault(state, BAD_SOURCE, r, source)
        return HOLD, NONE
    return state.lives.offered_ids[i], NONE if source < 0 else state.lives.offered_ids[source]


@kernel
def decode_there(state, policies, r, asker):
    """Ask the decode policy about the instances that are there; returns its place among all, or REFUSE. In place.

    faults : BAD_DECODE
    """
    count = offer_decodes(state)
    chosen, _ = policies.decode(asker, state.lives.offered_decodes[:count], state.cluster[0].now_ps, state.tunables)
    if chosen == REFUSE:
        return REFUSE
    if chosen < 0 or chosen >= count:
        fault(state, BAD_DECODE, r, chosen)
        return REFUSE
    return state.lives.decode_ids[chosen] - state.cluster[0].first_decode


@inlined
def note_arrival(state, r):
    """Count a request that came, for scale policies, modified in place."""
    totals = state.lives.totals[0]
    totals.arrivals += 1
    totals.arrived_tokens += state.requests[r].prompt_tokens


@inlined
def note_first_token(state, r):
    """Count the first token of a request, for scale policies, modified in place."""
    totals = state.lives.totals[0]
    totals.first_tokens += 1
    totals.ttft_ps += state.cluster[0].now_ps - state.requests[r].arrival_ps


@inlined
def note_finish(state, r):
    """Count a request that finished, for scale policies, modified in place."""
    totals = state.lives.totals[0]
    job = state.jobs[r]
    totals.finished += 1
    totals.output_tokens += job.output_tokens
    totals.decode_tokens += job.output_tokens - 1
    totals.decode_ps += state.cluster[0].now_ps - job.first_token_ps

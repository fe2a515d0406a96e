"""What several policies share: what they expect of an instance, and a draw."""

import numba

from replay.engine.draws import uniform


@numba.njit(nogil=True)
def first_token_s(request, view):
    """Return the time until a request sent to an instance has its first token: queue, then what its prompt lacks."""
    squares = float(request.prompt_tokens) * request.prompt_tokens - float(view.hit_tokens) * view.hit_tokens
    own_s = (request.prompt_tokens - view.hit_tokens) * view.prefill_token_s + squares * view.prefill_token_sq_s
    return view.iteration_s + view.queued_tokens / view.prefill_tokens_per_s + own_s


@numba.njit(nogil=True)
def step_s(view, requests, tokens):
    """Return the time of an iteration that decodes so many requests with so many tokens of context."""
    return view.iteration_s + requests * view.decode_request_s + tokens * view.kv_token_s


@numba.njit(nogil=True)
def decode_load(request, view, stays, coming):
    """Return the load of a decode instance with a request more: step by target, batch and memory by what there is.

    stays  : share of the requests there now that will still be there
    coming : requests that will have come, each with as much context as this one
    """
    requests = 1.0 + coming + stays * (view.running + view.waiting)
    tokens = (1.0 + coming) * request.prompt_tokens + stays * (view.kv_tokens + view.waiting_tokens)
    target_s = min(request.itl_s, request.tpot_s)
    room_tokens = float(view.total_blocks) * view.block_tokens
    return max(step_s(view, requests, tokens) / target_s, requests / view.max_batch, tokens / room_tokens)


@numba.njit(nogil=True)
def emptier_of_two(random_key, instances, stream):
    """Return the one with fewer requests of two different instances, drawn from two streams of a request's key."""
    count = len(instances)
    first = int(uniform(random_key, stream) * count)
    if count == 1:
        return first
    second = int(uniform(random_key, stream + 1) * (count - 1))
    if second >= first:
        second += 1
    load_first = instances[first].waiting + instances[first].running
    load_second = instances[second].waiting + instances[second].running
    return second if load_second < load_first else first

"""What scale policies share: how many instances a load needs by the engine's coefficients, and what was seen so far."""

import math

import numba

ROOM = 256  # numbers of its memory that a scale policy uses for a pool
DECODE, MIXED = 2, 1


@numba.njit(nogil=True)
def decode_batch(pool, context_tokens, step_target_s):
    """Return the largest batch whose iteration takes at most so long, as places and memory allow; at least 1."""
    each_s = pool.decode_request_s + context_tokens * pool.kv_token_s
    batch = min(float(pool.places), pool.kv_tokens / max(1.0, context_tokens))
    if each_s > 0.0 and step_target_s < math.inf:
        batch = min(batch, (step_target_s - pool.iteration_s) / each_s)
    return max(1.0, math.floor(batch))


@numba.njit(nogil=True)
def prefill_need(pool, rate_per_s, prompt_tokens):
    """Return how many instances are busy with the prompts of a load, not rounded."""
    return rate_per_s * prompt_tokens / pool.prefill_tokens_per_s


@numba.njit(nogil=True)
def decode_need(pool, rate_per_s, prompt_tokens, output_tokens, step_target_s):
    """Return how many instances decode the outputs of a load at the largest batch in time, not rounded."""
    context_tokens = prompt_tokens + output_tokens / 2.0
    batch = decode_batch(pool, context_tokens, step_target_s)
    step_s = pool.iteration_s + batch * (pool.decode_request_s + context_tokens * pool.kv_token_s)
    return rate_per_s * output_tokens * step_s / batch


@numba.njit(nogil=True)
def need(pool, rate_per_s, prompt_tokens, output_tokens):
    """Return how many instances of a pool a load needs by its role: prefill, decode, or the sum of both."""
    prefill = 0.0 if pool.role == DECODE else prefill_need(pool, rate_per_s, prompt_tokens)
    if pool.role == DECODE or pool.role == MIXED:
        return prefill + decode_need(pool, rate_per_s, prompt_tokens, output_tokens, pool.itl_target_s)
    return prefill


@numba.njit(nogil=True)
def need_now(pool, memory, place):
    """Return what the load since the last question needs; an interval without ends takes the outputs before, kept."""
    prompt_tokens = pool.arrived_tokens / pool.arrivals if pool.arrivals > 0 else 0.0
    if pool.finished > 0:
        memory[place] = pool.mean_output_tokens
    return need(pool, pool.arrivals / max(1e-9, pool.interval_s), prompt_tokens, memory[place])


@numba.njit(nogil=True)
def smoothed(memory, place, value, share):
    """Keep and return a mean that forgets: `share` of the new value; memory has it, and whether there is one."""
    memory[place] = share * value + (1.0 - share) * memory[place] if memory[place + 1] > 0.0 else value
    memory[place + 1] = 1.0
    return memory[place]


@numba.njit(nogil=True)
def line_ahead(memory, first, size, seen, window, ahead):
    """Return where the line through the last `window` values of a ring goes `ahead` steps on, at least 0.

    memory : values in a ring of `size` from `first` on, the last of `seen` ones
    ahead  : below 0 for their mean
    """
    count = min(window, min(seen, size))
    middle, mean, slope, square = (count - 1) / 2.0, 0.0, 0.0, 0.0
    for k in range(count):
        mean += memory[first + (seen - count + k) % size] / count
    for k in range(count):
        slope += (k - middle) * (memory[first + (seen - count + k) % size] - mean)
        square += (k - middle) * (k - middle)
    if ahead < 0.0:
        return mean
    slope = slope / square if square > 0.0 else 0.0
    return max(0.0, mean + slope * (count - 1 + ahead - middle))


@numba.njit(nogil=True)
def whole(count, most):
    """Round a count up, between 0 and `most`."""
    return int(math.ceil(min(max(count, 0.0), float(most))))

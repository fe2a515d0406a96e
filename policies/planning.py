"""What scale policies share: how many instances a load needs by the engine's coefficients, and what was seen so far."""

import math

import numba

from replay.policy import DECODE, DRAM_NODES, MIXED, STORAGE_SERVERS

ROOM = 256  # numbers of its memory that a scale policy uses for a pool
FULL = 0.9  # share of its blocks from which on a pool of DRAM nodes counts as full
MOST_BUSY, KEEP_S, BAND = 0.8, 600.0, 0.5


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
def corrections(pool, prompt_tokens, output_tokens, most):
    """Return TTFT observed over expected, at most 1, and ITL likewise; 1 where nothing was observed, within `most`."""
    alone_s = pool.iteration_s + prompt_tokens * pool.prefill_token_s
    faster = min(1.0, pool.ttft_s / alone_s) if pool.first_tokens > 0 and alone_s > 0.0 else 1.0
    batch, context_tokens = pool.running / max(1, pool.up), prompt_tokens + output_tokens / 2.0
    step_s = pool.iteration_s + batch * (pool.decode_request_s + context_tokens * pool.kv_token_s)
    slower = pool.itl_s / step_s if pool.itl_s > 0.0 and step_s > 0.0 else 1.0
    return max(faster, 1.0 / most), min(max(slower, 1.0 / most), most)


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
    """Round a count up, between 0 and `most`; a billionth above a whole number is rounding."""
    return int(math.ceil(min(max(count - 1e-9, 0.0), float(most))))


@numba.njit(nogil=True)
def nodes_needed(pool, keep_s, most_busy):
    """Return how many DRAM nodes or storage servers a pool needs, not rounded; of storage only bandwidth counts.

    keep_s    : DRAM is to keep what was used within this time. Where it is full, its size goes with the time since the
                last use of what leaves next, at most to twice of it; where it is not, what it holds counts, of it as
                much as was used within the time
    most_busy : share of its time that a card or medium is to be busy
    source    : own; the age at the end of the queue decides about cache sizes in CacheLib (Berg et al., OSDI 2020)
    """
    needed = pool.up * pool.busy_share / most_busy
    if pool.role == STORAGE_SERVERS:
        return needed
    used = pool.up * pool.kv_share
    young = keep_s / pool.tail_age_s if pool.tail_age_s > 0.0 else 1.0
    by_age = used * min(young, 2.0) if pool.kv_share >= FULL else used * min(young, 1.0) / FULL
    return max(needed, by_age)


@numba.njit(nogil=True)
def settled(pool, needed, band):
    """Return a need rounded up, one going only if `band` of another could go too; of nodes 1 where anything comes."""
    wanted = max(whole(needed, pool.most), min(pool.up + pool.starting, whole(needed + band, pool.most)))
    return max(wanted, 1) if pool.role >= DRAM_NODES and pool.arrivals > 0 else wanted


@numba.njit(nogil=True)
def nodes_wanted(pool, keep_s, most_busy):
    """Return how many DRAM nodes or storage servers a pool should have: `nodes_needed`, settled."""
    return settled(pool, nodes_needed(pool, keep_s, most_busy), BAND)

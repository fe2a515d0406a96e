"""What an iteration costs, and how many of them fit into a time: all in integer picoseconds."""

import math

from replay.engine.jit import inlined, kernel


@kernel
def segment_at(segments, first, count, x):
    """Return the row of the segment that holds x: the last whose start is <= x. O(log count)."""
    low = first
    high = first + count - 1
    while low < high:
        middle = (low + high + 1) >> 1
        if segments[middle].start <= x:
            low = middle
        else:
            high = middle - 1
    return low


@inlined
def iteration_cost(cost, profile, prefill_tokens, decoding, kv_tokens, squares):
    """Return (cost of an iteration, its increase per further iteration, iterations until the KV table bends).

    prefill_tokens, decoding, kv_tokens [tokens], squares [tokens^2] as in MODEL.md
    returns : int64 ps, int64 ps, int
    """
    p = cost.profiles[profile]
    segments = cost.segments
    tokens = prefill_tokens + decoding
    first = p.token_first
    count = p.token_count
    kv_first = p.mixed_first
    kv_count = p.mixed_count
    if prefill_tokens == 0:
        first = p.decode_first
        count = p.decode_count
        kv_first = p.kv_first
        kv_count = p.kv_count
    s = segment_at(segments, first, count, tokens)
    total = segments[s].base_ps + segments[s].slope_ps * (tokens - segments[s].start)
    total += p.prefill_token_ps * prefill_tokens + p.decode_request_ps * decoding
    if prefill_tokens > 0:
        total += p.mixed_request_ps * decoding
    if squares > 0:
        total += p.prefill_token_sq_fs * squares // 1000
    s = segment_at(segments, kv_first, kv_count, kv_tokens)
    total += segments[s].base_ps + segments[s].slope_ps * (kv_tokens - segments[s].start)
    straight = 1 << 30
    if decoding > 0 and s + 1 < kv_first + kv_count:
        straight = (segments[s + 1].start - 1 - kv_tokens) // decoding + 1
    return total, segments[s].slope_ps * decoding, straight


@inlined
def table_cost(cost, first, count, x):
    """Return the value at x of the table of `count` segments from row `first`, 0 for none [ps]."""
    if count == 0:
        return 0
    s = segment_at(cost.segments, first, count, x)
    return cost.segments[s].base_ps + cost.segments[s].slope_ps * (x - cost.segments[s].start)


@inlined
def shared_cost(cost, profile, tokens, fullest, prefills):
    """Return what an iteration of ranks in step takes beside the slowest of them [ps].

    tokens : of all ranks; fullest : of the rank with the most; prefills : how many of them are of prompts
    """
    p = cost.profiles[profile]
    if prefills == 0:
        return table_cost(cost, p.captured_first, p.captured_count, fullest)
    return (table_cost(cost, p.together_first, p.together_count, tokens)
            + table_cost(cost, p.fullest_first, p.fullest_count, fullest))  # fmt: skip


@inlined
def leap_ps(base_ps, growth_ps, count):
    """Return how long `count` iterations take: the first base_ps, each next growth_ps more."""
    return base_ps * count + growth_ps * (count * (count - 1) // 2)


@kernel
def leap_count(base_ps, growth_ps, elapsed_ps):
    """Return the greatest count of iterations with leap_ps(count) <= elapsed_ps.

    The positive root of the quadratic in floating point, then set right in integers.
    """
    if growth_ps == 0:
        return elapsed_ps // base_ps
    growth = float(growth_ps)
    half = base_ps - 0.5 * growth
    count = int((math.sqrt(max(0.0, half * half + 2.0 * growth * elapsed_ps)) - half) / growth)
    if count < 0:
        count = 0
    while leap_ps(base_ps, growth_ps, count) > elapsed_ps:
        count -= 1
    while leap_ps(base_ps, growth_ps, count + 1) <= elapsed_ps:
        count += 1
    return count

import math

from policies.planning import KEEP_S, ROOM, corrections, decode_need, line_ahead, nodes_wanted, prefill_need, whole
from replay.policy import DECODE, DRAM_NODES, PREFILL, Choice, Span, policy

KEPT = 60  # intervals that forecasts look back at, at most


@policy("scale")
def sla_planner(pool, pools, now_ps, memory, forecast: Choice(0, 1, 2) = 1, window: Span(1, 60) = 10,
                most_busy: Span(0.1, 1.0) = 0.8, most_correction: Span(1.0, 10.0) = 1.5,
                keep_s: Span(0.0, 604800.0) = KEEP_S):
    """Plan for forecast rate and lengths: prefill by throughput, decode by the largest batch in time, mixed by both.

    forecast : 0 the last interval, 1 mean of the last `window`, 2 the line through them, as far ahead as a start takes
    keep_s : of DRAM nodes, with which storage servers go: as planning.nodes_needed
    Prefill is scaled by min(1, observed / expected TTFT), the ITL target by expected / observed ITL, each within
    `most_correction`; counts are for instances busy `most_busy` of the time.
    source : NVIDIA Dynamo's SLA planner, with the engine's coefficients for its profile; most_busy and bounds are own
    """
    if pool.role >= DRAM_NODES:
        return nodes_wanted(pool, keep_s, most_busy)
    place = ROOM * pool.index
    seen = int(memory[place])
    at = place + 1 + seen % KEPT
    before = place + 1 + (seen - 1) % KEPT if seen > 0 else at
    memory[at] = pool.arrivals / max(1e-9, pool.interval_s)
    memory[at + KEPT] = pool.arrived_tokens / pool.arrivals if pool.arrivals > 0 else memory[before + KEPT]
    memory[at + 2 * KEPT] = pool.mean_output_tokens if pool.finished > 0 else memory[before + 2 * KEPT]
    memory[place] += 1
    back = 1 if forecast == 0 else window
    steps = 1.0 + math.ceil(pool.start_s / max(1e-9, pool.interval_s)) if forecast == 2 else -1.0
    rate = line_ahead(memory, place + 1, KEPT, seen + 1, back, steps)
    prompt = line_ahead(memory, place + 1 + KEPT, KEPT, seen + 1, back, steps)
    output = line_ahead(memory, place + 1 + 2 * KEPT, KEPT, seen + 1, back, steps)
    faster, slower = corrections(pool, prompt, output, most_correction)
    wanted = 0.0 if pool.role == DECODE else prefill_need(pool, rate, prompt) * faster
    wanted += 0.0 if pool.role == PREFILL else decode_need(pool, rate, prompt, output, pool.itl_target_s / slower)
    return whole(wanted / most_busy, pool.most)

from policies.planning import KEEP_S, MOST_BUSY, ROOM, need_now, nodes_wanted, smoothed
from replay.policy import DECODE, DRAM_NODES, PREFILL, Span, policy

SPLIT, ROW, LOADS = 0, 1, 2


@policy("scale")
def role_switch(pool, pools, now_ps, memory, patience: Span(1, 1000) = 4, margin: Span(0.5, 8.0) = 0.75,
                smooth_s: Span(0.0, 7200.0) = 120.0, keep_s: Span(0.0, 604800.0) = KEEP_S):
    """Split a fixed number between prefill and decode by what their load needs, one at a time, if it stays out of line.

    The number is `scale.budget`, or what is on. The split moves by one after `patience` questions in a row at which
    the share of the measured need, smoothed over `smooth_s`, is `margin` instances or more from it.
    keep_s : of DRAM nodes, with which storage servers go: as planning.nodes_needed, at most MOST_BUSY busy
    source : own; Mooncake (Qin et al., FAST 2025) keeps the ratio fixed, Splitwise and Dynamo switch roles by load
    """
    if pool.role >= DRAM_NODES:
        return nodes_wanted(pool, keep_s, MOST_BUSY)
    if pool.role != PREFILL and pool.role != DECODE:
        return pool.up + pool.starting
    place, on, loads, there, prefill = ROOM * pool.index, 0, 0.0, 0, 0.0
    for k in range(len(pools)):
        other = pools[k]
        if other.role == PREFILL or other.role == DECODE:
            share = other.interval_s / max(1e-9, other.interval_s + smooth_s)
            load = smoothed(memory, place + LOADS + 3 * k, need_now(other, memory, place + LOADS + 3 * k + 2), share)
            loads += load
            on += other.up + other.starting
            if other.role == PREFILL:
                prefill, there = load, other.up + other.starting
    total = pool.budget if pool.budget > 0 else on
    split = int(memory[place + SPLIT]) if memory[place + SPLIT] > 0.0 else there
    ideal = total * prefill / loads if loads > 0.0 else float(split)
    way = 1.0 if ideal >= split + margin else -1.0 if ideal <= split - margin else 0.0
    memory[place + ROW] = memory[place + ROW] + way if way * memory[place + ROW] >= 0.0 and way != 0.0 else way
    if abs(memory[place + ROW]) >= patience:
        split, memory[place + ROW] = split + int(way), 0.0
    split = max(1, min(split, total - 1))
    memory[place + SPLIT] = float(split)
    return split if pool.role == PREFILL else max(1, total - split)

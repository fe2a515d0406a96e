import math

from policies.planning import KEEP_S, MOST_BUSY, ROOM, nodes_wanted
from replay.policy import DECODE, DRAM_NODES, Choice, Span, policy

KEPT = 100  # recommendations at most


@policy("scale")
def target_tracking(pool, pools, now_ps, memory, metric: Choice(0, 1, 2, 3) = 0, target: Span(0.001, 1e6) = 32.0,
                    decode_target: Span(0.001, 1e6) = 64.0, tolerance: Span(0.0, 1.0) = 0.1,
                    window_s: Span(0.0, 3600.0) = 300.0, keep_s: Span(0.0, 604800.0) = KEEP_S):
    """Keep a metric near its target: ceil(total / target) instances, shrinking to the most that a window asked for.

    metric : for an instance, 0 requests in flight, 1 busy share, 2 share of its KV held, 3 prefill tokens queued
    target : of prefill and mixed pools; decode_target of decode pools
    keep_s : of DRAM nodes, with which storage servers go: as planning.nodes_needed, at most MOST_BUSY busy
    Nothing changes within `tolerance`. Starting instances count as idle if that is why more would start. window_s is
    the scale-down stabilisation (its last 100 answers); limits of the HPA on the rate of change are left out.
    source : Kubernetes HorizontalPodAutoscaler v2, with its defaults of tolerance and stabilisation
    """
    count, up = pool.up + pool.starting, max(1, pool.up)
    total = float(pool.waiting + pool.running + (0 if pool.role == DECODE else pool.held))
    if metric == 1 or metric == 2:
        total = up * (pool.busy_share if metric == 1 else pool.kv_share)
    total = float(pool.queued_tokens) if metric == 3 else total
    goal = decode_target if pool.role == DECODE else target
    ratio = total / (up * goal)
    ratio = max(1.0, total / (max(1, count) * goal)) if ratio > 1.0 else ratio
    wanted = count if abs(ratio - 1.0) <= tolerance else int(min(math.ceil(total / goal), 1e6))
    wanted = nodes_wanted(pool, keep_s, MOST_BUSY) if pool.role >= DRAM_NODES else wanted
    place = ROOM * pool.index
    memory[place] += 1
    row = place + 1 + 2 * (int(memory[place]) % KEPT)
    memory[row], memory[row + 1] = float(wanted), pool.since_s
    for k in range(min(int(memory[place]), KEPT)):
        row = place + 1 + 2 * ((int(memory[place]) - k) % KEPT)
        if wanted < count and pool.since_s - memory[row + 1] <= window_s:
            wanted = int(max(wanted, min(memory[row], float(count))))
    return wanted

"""Bring rows near that are needed soon: most time of a replay goes by waiting for rows that nobody touched for long.

Nothing here changes a result. A row that was asked for some hundred nanoseconds ahead costs nothing when it is needed.
"""

from replay.engine.jit import inlined
from replay.engine.prefetch import bring_near
from replay.engine.state import LINE_BYTES


@inlined
def bring_queue(state, i):
    """Bring near the slots of holder i that leave first and that are given out next."""
    instance = state.instances[i]
    bring_near(state.cache.slots, max(instance.lru_head, 0), 0)
    bring_near(state.cache.slots, max(instance.slot_free, 0), 0)


@inlined
def bring_arrivals(state, r):
    """Bring near what is looked at when row r of the trace, the next to arrive, does, and what leads there of r + 1."""
    cluster = state.cluster[0]
    if r + 1 < cluster.num_requests:
        bring_near(state.requests, r + 1, 0)
        for line in range(3):
            bring_near(state.jobs, r + 1, line * LINE_BYTES)
        if cluster.tiered:
            bring_near(state.hierarchy.loads, r + 1, 0)
            bring_near(state.hierarchy.loads, r + 1, LINE_BYTES)
    if r < cluster.num_requests and cluster.cache:
        leaf = max(state.jobs[r].leaf, 0)
        bring_near(state.cache.nodes, leaf, 0)
        bring_near(state.cache.slot_of, leaf, 0)
        bring_near(state.cache.slot_of, leaf, LINE_BYTES)
        if cluster.tiered:
            bring_near(state.hierarchy.keys, leaf, 0)

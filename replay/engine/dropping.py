"""What failures take of the hierarchy: loads to an instance, and stores that go with their node; stores that come back.

HIERARCHY.md, *Failures*, says what happens when.
"""

from replay.engine.elastic import depart
from replay.engine.jit import kernel
from replay.engine.kvcache import release_path
from replay.engine.schema import NONE
from replay.engine.tier_schema import LOAD_OVER, LOADING, MOST_PARTS


@kernel
def abandon(state, i):
    """End all loads to instance i, whose memory is empty: nothing of them arrives. Modified in place. O(requests)."""
    loads = state.hierarchy.loads
    instance = state.instances[i]
    for r in range(len(loads)):
        if loads[r].under_way and loads[r].instance == i:
            abandon_load(state, r)
    instance.loads = 0
    r = instance.pending_head
    while r >= 0:
        loads[r].state = LOAD_OVER
        loads[r].listed = 0
        r = loads[r].next
    instance.pending_head = NONE
    instance.pending_tail = NONE


@kernel
def abandon_load(state, r):
    """End the load of request r without result: what it holds on stores is released, modified in place."""
    hierarchy = state.hierarchy
    load = hierarchy.loads[r]
    for k in range(load.count):
        part = hierarchy.parts[MOST_PARTS * r + k]
        store = hierarchy.stores[part.store]
        if load.state == LOADING:
            store.cut_blocks += part.upto_blocks - part.from_blocks
        if part.epoch == store.epoch:
            release_path(state, state.cluster[0].num_instances + part.store, part.pin)
    load.load_ps = state.cluster[0].now_ps - load.issued_ps
    load.under_way = 0
    load.counted_blocks = 0
    load.state = LOAD_OVER


@kernel
def drop(state, s):
    """Let nobody read or write store s any more, in place; returns 1 if it was there: its loads are to be cut."""
    if not state.hierarchy.stores[s].present:
        return 0
    depart(state, s)
    return 1

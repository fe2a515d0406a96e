"""How often prompts repeat: exact hit rates of one plain cache over a trace's prefix blocks."""

from collections.abc import Sequence

import numpy as np

from traces.errors import TraceError
from traces.jit import entry
from traces.schema import Trace


def first_hits(trace: Trace) -> np.ndarray:
    """Count each request's blocks that an earlier request had, with a cache of infinite size.

    Ids are chained, so a block seen before has all its predecessors seen before: the hit is a contiguous prefix.

    returns : (requests,) int64 [blocks]
    """
    offsets, ids = trace.prefix()
    dense, count = dense_ids(ids)
    seen = np.zeros(len(ids), bool)
    first = np.full(count, -1, np.int64)
    first[dense[::-1]] = np.arange(len(ids))[::-1]
    seen[:] = first[dense] < np.arange(len(ids))
    total = np.concatenate(([0], np.cumsum(seen)))
    return np.diff(total[offsets])


def hit_tokens(trace: Trace, hits: np.ndarray) -> np.ndarray:
    """Return tokens covered by `hits` (requests,) blocks each; a partial last block counts its own tokens."""
    return np.minimum(hits * (trace.block_tokens or 0), trace.column("prompt_tokens"))


def lru_hit_rate(trace: Trace, capacities: Sequence[int]) -> list[float]:
    """Return the block-weighted hit rate of a strict LRU cache for each capacity.

    One cache, cold at the start; a request touches its blocks front to back, hits its contiguous cached prefix and
    inserts what it misses. Nothing is pinned, so a request can evict its own first blocks.

    capacities : [blocks], at least 1
    returns    : hit blocks / blocks, one a capacity
    cost       : O(blocks) a capacity
    """
    offsets, ids = trace.prefix()
    dense, count = dense_ids(ids)
    for capacity in capacities:
        if capacity < 1:
            raise TraceError(f"a cache capacity must be at least 1 block, but got {capacity}.")
    return [_lru_hits(offsets, dense, count, int(capacity)) / max(len(ids), 1) for capacity in capacities]


def dense_ids(ids: np.ndarray) -> tuple[np.ndarray, int]:
    """Return ids small enough to index an array with, and their bound; equal stays equal."""
    from traces.readers.chain import first_seen

    top = int(ids.max(initial=-1)) + 1
    if top <= 4 * len(ids) + 1024:
        return ids, top
    dense = first_seen(ids)
    return dense, int(dense.max()) + 1


@entry()
def _lru_hits(offsets: np.ndarray, ids: np.ndarray, count: int, capacity: int) -> int:
    older = np.full(count + 1, -1, np.int64)  # neighbours in a ring from newest to oldest, through the head at `count`
    newer = np.full(count + 1, -1, np.int64)
    older[count] = newer[count] = count
    used, hits = 0, 0
    for request in range(len(offsets) - 1):
        prefix = True
        for place in range(offsets[request], offsets[request + 1]):
            block = ids[place]
            if newer[block] >= 0:
                hits += prefix
                older[newer[block]], newer[older[block]] = older[block], newer[block]
            else:
                prefix = False
                if used == capacity:
                    last = newer[count]
                    older[newer[last]], newer[older[last]] = older[last], newer[last]
                    newer[last] = -1
                else:
                    used += 1
            front = older[count]
            older[block], newer[block] = front, count
            newer[front] = block
            older[count] = block
    return hits

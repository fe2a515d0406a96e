"""One plain cache over a trace's prefix blocks: cold at the start, requests in file order, nothing pinned."""

from collections.abc import Sequence

import numpy as np

from traces import reuse_kernels as kernels
from traces.errors import TraceError
from traces.schema import Trace

POLICIES = {"lru": kernels.LRU, "fifo": kernels.FIFO, "lfu": kernels.LFU, "belady": kernels.BELADY}


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


def plain_hits(trace: Trace, policy: str, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Count each request's blocks that a plain cache of one policy holds when it touches them.

    A request touches its blocks front to back, one at a time: a block that is there is a hit, one that is missing is
    inserted at once and, in a full cache, evicts another. Nothing is pinned, so a request may evict its own blocks.
    A partial last block that has an id counts as a block.

    policy   : lru evicts the block touched longest ago;
               fifo the block inserted longest ago, whatever hits it had since;
               lfu the block with the fewest touches since it was inserted (eviction forgets them), among equals the one
               touched longest ago;
               belady the block whose next use is furthest, the new one itself included: a block that would be needed
               later than all those held is not kept. No plain cache finds more blocks, in either way of counting
    capacity : [blocks], at least 1
    returns  : found as a contiguous prefix, what an engine can use, and found anywhere, as caches of unrelated objects
               count; both (requests,) int64 [blocks]. They are equal for lru and belady: along a chain distances do
               not fall, and next uses come later. Under fifo and lfu a chain may lose its front and keep its end
    raises   : TraceError on another policy, a capacity below 1, or a trace without prefix_blocks
    cost     : O(blocks log capacity); 24 bytes a unique block, and for belady 8 a reference
    source   : Belady, IBM Systems Journal 1966, with bypass; LFU without history as in textbooks
    """
    if policy not in POLICIES:
        raise TraceError(f"a plain cache's policy must be one of {', '.join(POLICIES)}, but got '{policy}'.")
    if capacity < 1:
        raise TraceError(f"a cache capacity must be at least 1 block, but got {capacity}.")
    offsets, ids = trace.prefix()
    dense, count = dense_ids(ids)
    coming = kernels.next_uses(dense, count) if policy == "belady" else np.empty(0, np.int64)
    limits = (min(int(capacity), max(count, 1)), count)
    hits = kernels.plain_cache(offsets, dense, coming, POLICIES[policy], limits)
    return hits[:, 0], hits[:, 1]


def hit_rates(trace: Trace, policy: str, capacities: Sequence[int], anywhere: bool = False) -> list[float]:
    """Return the block-weighted hit rate of a plain cache, as `plain_hits` counts, for each capacity.

    anywhere : count blocks found after a missing one too; of the published points only FIFO's need it
    returns  : hit blocks / blocks, one a capacity
    """
    blocks = max(len(trace.prefix()[1]), 1)
    return [float(plain_hits(trace, policy, capacity)[anywhere].sum() / blocks) for capacity in capacities]


def lru_hit_rate(trace: Trace, capacities: Sequence[int]) -> list[float]:
    """Return the block-weighted hit rate of a plain LRU cache for each capacity, as `hit_rates` does."""
    return hit_rates(trace, "lru", capacities)


def dense_ids(ids: np.ndarray) -> tuple[np.ndarray, int]:
    """Return ids small enough to index an array with, and their bound; equal stays equal."""
    from traces.readers.chain import first_seen

    top = int(ids.max(initial=-1)) + 1
    if top <= 4 * len(ids) + 1024:
        return ids, top
    dense = first_seen(ids)
    return dense, int(dense.max()) + 1

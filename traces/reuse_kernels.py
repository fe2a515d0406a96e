"""Numba loops over a trace's block references; `traces.reuse.plain` and `traces.reuse.curve` explain them."""

import numpy as np

from traces.jit import entry, kernel

LRU, FIFO, LFU, BELADY = range(4)
USES = 32  # bits below a use count in an LFU key; a trace has fewer than 2^31 references
NEVER = np.int64(1) << 62  # a distance or a next use that does not come


@kernel
def swap(one, other, heap, place):
    """Exchange two entries of a heap of blocks, modified in place with `place`, each block's index in it."""
    heap[one], heap[other] = heap[other], heap[one]
    place[heap[one]] = one
    place[heap[other]] = other


@kernel
def settle(at, used, heap, place, key):
    """Move the entry at index `at` of a binary heap, smallest key first, to where its key belongs."""
    while at > 0 and key[heap[at]] < key[heap[(at - 1) // 2]]:
        swap(at, (at - 1) // 2, heap, place)
        at = (at - 1) // 2
    while 2 * at + 1 < used:
        child = 2 * at + 1
        if child + 1 < used and key[heap[child + 1]] < key[heap[child]]:
            child += 1
        if key[heap[at]] <= key[heap[child]]:
            break
        swap(at, child, heap, place)
        at = child


@kernel
def key_of(policy, held, old, now, next_use):
    """Return a block's key at its reference number `now`; the smallest key of the cache is evicted."""
    if policy == FIFO:
        return old if held else now
    if policy == LFU:
        uses = (old >> USES) + 1 if held else np.int64(1)
        return (uses << USES) + now
    if policy == BELADY:
        return -next_use
    return now


@entry()
def next_uses(ids, count):
    """Return for each reference the number of the next one to the same id, NEVER without: (references,) int64."""
    later = np.full(count, NEVER, np.int64)
    found = np.empty(len(ids), np.int64)
    for now in range(len(ids) - 1, -1, -1):
        found[now] = later[ids[now]]
        later[ids[now]] = now
    return found


@entry()
def plain_cache(offsets, ids, next_use, policy, limits):
    """Run one plain cache and count each request's hits.

    next_use : (references,) int64 for belady, else (0,)
    limits   : (capacity [blocks], bound of the ids)
    returns  : (requests, 2) int64 [blocks]: found as a contiguous prefix, found anywhere
    """
    capacity, count = limits
    heap = np.empty(min(capacity, count), np.int64)
    place = np.full(count, -1, np.int64)
    key = np.zeros(count, np.int64)
    used = 0
    hits = np.zeros((len(offsets) - 1, 2), np.int64)
    for request in range(len(offsets) - 1):
        prefix = True
        for now in range(offsets[request], offsets[request + 1]):
            block = ids[now]
            held = place[block] >= 0
            prefix = prefix and held
            hits[request, 0] += prefix
            hits[request, 1] += held
            coming = next_use[now] if policy == BELADY else 0
            wanted = key_of(policy, held, key[block], now, coming)
            if not held:
                if used < capacity:
                    place[block] = used
                    used += 1
                elif policy == BELADY and wanted <= key[heap[0]]:
                    continue
                else:
                    place[block] = 0
                    place[heap[0]] = -1
                heap[place[block]] = block
            key[block] = wanted
            settle(place[block], used, heap, place, key)
    return hits


@entry()
def stack_distances(offsets, ids, sizes):
    """Return for each reference the least capacity of an LRU cache at which its prefix up to it is found.

    A Fenwick tree over the references holds each block's size at its latest one; what was used since is a tail sum.

    sizes   : (bound of the ids,) int64, each block's blocks (1) or tokens
    returns : (references,) int64 in the unit of the sizes, not falling along a request; NEVER for a first use
    """
    tree = np.zeros(len(ids) + 1, np.int64)
    latest = np.full(len(sizes), -1, np.int64)
    distances = np.empty(len(ids), np.int64)
    total = np.int64(0)
    for request in range(len(offsets) - 1):
        furthest = np.int64(0)
        for now in range(offsets[request], offsets[request + 1]):
            block = ids[now]
            size = sizes[block]
            if latest[block] < 0:
                furthest = NEVER
                total += size
            else:
                before = np.int64(0)  # sizes of the blocks used before this one's latest use
                at = latest[block]
                while at > 0:
                    before += tree[at]
                    at -= at & -at
                furthest = max(furthest, total - before)
                at = latest[block] + 1
                while at <= len(ids):
                    tree[at] -= size
                    at += at & -at
            distances[now] = furthest
            latest[block] = now
            at = now + 1
            while at <= len(ids):
                tree[at] += size
                at += at & -at
    return distances

"""Numba loops that build the compressed trie; `traces.trie` explains it."""

import numpy as np

from traces.jit import entry, kernel

UNSEEN = -2  # a block whose predecessor is not known yet; -1 is "first of its chain"
MIXER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio (Knuth, TAOCP 3, section 6.4)


@entry()
def number_plain(offsets, counts, ids, numbered, table, references):  # type: ignore[no-untyped-def]
    """Number a chunk by a plain table; `numbered` is (lowest id, how many are known)."""
    low, known = numbered
    at = 0
    for r in range(len(counts)):
        for k in range(offsets[r], offsets[r] + counts[r]):
            slot = ids[k] - low
            number = table[slot]
            if number < 0:
                number = np.int32(known)
                table[slot] = number
                known += 1
            references[at] = number
            at += 1
    return known


@kernel
def find_slot(key, keys, table):  # type: ignore[no-untyped-def]
    """Find the slot of a key, or the empty slot where it belongs (Fibonacci hashing, linear probing)."""
    mask = np.uint64(len(table) - 1)
    mixed = np.uint64(key) * MIXER
    slot = (mixed ^ (mixed >> np.uint64(32))) & mask
    while table[slot] >= 0 and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@entry()
def rehash(old_keys, old_table, keys, table):  # type: ignore[no-untyped-def]
    """Enter what an old hash table holds into a larger one, `keys` and `table`, modified in place."""
    for i in range(len(old_table)):
        if old_table[i] >= 0:
            slot = find_slot(old_keys[i], keys, table)
            keys[slot] = old_keys[i]
            table[slot] = old_table[i]


@entry()
def number_hashed(offsets, counts, ids, known, hashed, references):  # type: ignore[no-untyped-def]
    """Number a chunk by a hash table; `hashed` is (keys, numbers), half empty; `known` are in it."""
    keys, table = hashed
    at = 0
    for r in range(len(counts)):
        for k in range(offsets[r], offsets[r] + counts[r]):
            slot = find_slot(ids[k], keys, table)
            if table[slot] < 0:
                keys[slot] = ids[k]
                table[slot] = known
                known += 1
            references[at] = table[slot]
            at += 1
    return known


@entry()
def link(counts, references, previous, children, last):  # type: ignore[no-untyped-def]
    """Record each block's predecessor and count children; return (request, place) of a contradiction or (-1, -1)."""
    at = 0
    for r in range(len(counts)):
        before = np.int32(-1)
        for place in range(counts[r]):
            block = references[at]
            at += 1
            if previous[block] == before:
                before = block
                continue
            if previous[block] != UNSEEN:
                return r, place
            previous[block] = before
            if before >= 0 and children[before] < 2:
                children[before] += 1
            before = block
        last[r] = before
    return -1, -1


@entry()
def cut(previous, children, ends):  # type: ignore[no-untyped-def]
    """Cut the block tree into maximal runs; a block's number is above its predecessor's, so one pass is enough."""
    starts = 0
    for block in range(len(previous)):
        before = previous[block]
        if before < 0 or children[before] != 1 or ends[before]:
            starts += 1
    node_of = np.empty(len(previous), np.int32)
    parent = np.empty(starts, np.int32)
    blocks = np.zeros(starts, np.int32)
    start_blocks = np.empty(starts, np.int32)
    node = np.int32(0)
    for block in range(len(previous)):
        before = previous[block]
        if before < 0 or children[before] != 1 or ends[before]:
            above = np.int32(-1) if before < 0 else node_of[before]
            parent[node] = above
            start_blocks[node] = 0 if before < 0 else start_blocks[above] + blocks[above]
            node_of[block] = node
            node += 1
        else:
            node_of[block] = node_of[before]
        blocks[node_of[block]] += 1
    return node_of, parent, blocks, start_blocks


@entry()
def preorder(parent):  # type: ignore[no-untyped-def]
    """Return each node's number in a walk from the roots that finishes a branch before the next: int32 (nodes,)."""
    size = np.ones(len(parent), np.int32)
    for n in range(len(parent) - 1, -1, -1):
        if parent[n] >= 0:
            size[parent[n]] += size[n]
    number = np.empty(len(parent), np.int32)
    free = np.empty(len(parent), np.int32)  # number of the next child of each node
    root = np.int32(0)
    for n in range(len(parent)):
        above = parent[n]
        if above < 0:
            number[n] = root
            root += size[n]
        else:
            number[n] = free[above]
            free[above] += size[n]
        free[n] = number[n] + 1
    return number


@entry()
def through(parent, leaf):  # type: ignore[no-untyped-def]
    """Return for each node the first request whose path has it, int64 (nodes,)."""
    first = np.full(len(parent), np.int64(len(leaf)))
    for r in range(len(leaf)):
        if leaf[r] >= 0 and first[leaf[r]] > r:
            first[leaf[r]] = r
    for node in range(len(parent) - 1, -1, -1):
        if parent[node] >= 0 and first[parent[node]] > first[node]:
            first[parent[node]] = first[node]
    return first


@entry()
def depths(parent):  # type: ignore[no-untyped-def]
    """Return how many nodes there are from the root to each node, which comes after its parent, int64 (nodes,)."""
    depth = np.zeros(len(parent), np.int64)
    for node in range(len(parent)):
        depth[node] = 1 if parent[node] < 0 else depth[parent[node]] + 1
    return depth


@entry()
def path_lengths(parent, leaf):  # type: ignore[no-untyped-def]
    """Return how many nodes the path of each request has, int64 (requests,)."""
    depth = depths(parent)
    lengths = np.zeros(len(leaf), np.int64)
    for r in range(len(leaf)):
        if leaf[r] >= 0:
            lengths[r] = depth[leaf[r]]
    return lengths


@entry()
def next_rows(parent, leaf, first):  # type: ignore[no-untyped-def]
    """Return for each node of each path, leaf first, the next request that has it, -1 if none; and the first of each.

    first : where the nodes of a request begin, int64 (requests + 1,)
    """
    following = np.full(len(parent), np.int64(-1))
    rows = np.full(first[-1] + 1, np.int64(-1))
    for r in range(len(leaf) - 1, -1, -1):
        place = first[r]
        node = leaf[r]
        while node >= 0:
            rows[place] = following[node]
            following[node] = r
            place += 1
            node = parent[node]
    return rows, following


@entry()
def previous_rows(parent, leaf, end):  # type: ignore[no-untyped-def]
    """Return the last earlier request that shares the most blocks with each, -1 if none shares any; and how many.

    end     : blocks up to and with each node, int64 (nodes,)
    returns : rows int64 (requests,), shared blocks int64 (requests,)
    """
    last = np.full(len(parent), np.int64(-1))
    rows = np.full(len(leaf), np.int64(-1))
    shared = np.zeros(len(leaf), np.int64)
    for r in range(len(leaf)):
        node = leaf[r]
        while node >= 0:
            if rows[r] < 0 and last[node] >= 0:
                rows[r] = last[node]
                shared[r] = end[node]
            last[node] = r
            node = parent[node]
    return rows, shared

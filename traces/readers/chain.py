"""Prefix ids out of other ids: renumbering hashes, and chaining content ids."""

import numpy as np
import pyarrow as pa

from traces.errors import TraceError


def renumber(lists: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return prefix hashes as ids 0, 1, 2 ... by first appearance; equal stays equal.

    lists   : (requests,) list<int64>
    returns : offsets (requests + 1,) int64, ids (blocks,) int64
    raises  : TraceError on a null list or a null inside one
    """
    offsets, ids = split_lists(lists)
    return offsets, first_seen(ids)


def chain_lists(lists: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return lists of content ids as prefix ids, (offsets, ids) as `renumber`; ids that are chained stay as unique."""
    offsets, ids = split_lists(lists)
    return offsets, chain_ids(offsets, ids)


def split_lists(lists: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return a list column as (offsets (rows + 1,) int64 from 0, values); raise TraceError on nulls."""
    array = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    if array.null_count:
        row = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
        raise TraceError(f"every request must have a list of block ids, but request {row} has none. Mend or drop it.")
    values = array.flatten()
    if values.null_count:
        raise TraceError("block ids must be numbers, but one inside a list is null. Mend or drop its request.")
    offsets = array.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], values.to_numpy(zero_copy_only=False)


def first_seen(keys: np.ndarray) -> np.ndarray:
    """Number equal keys alike, 0, 1, 2 ... by first appearance.  (n,) int64"""
    return pa.array(keys).dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)


def pair_ids(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Number equal pairs alike by first appearance.  left, right (n,) int64 >= 0, dense enough to combine"""
    width = int(right.max()) + 1 if len(right) else 1
    return first_seen(left * width + right)


def chain_ids(offsets: np.ndarray, contents: np.ndarray) -> np.ndarray:
    """Turn content ids into prefix ids: equal prefix id = equal content and equal everything before it.

    offsets  : (requests + 1,) int64
    contents : (ids,) int64
    returns  : (ids,) int64, 0, 1, 2 ... in order of (position, first appearance)
    cost     : O(ids), one pass a position
    """
    dense = first_seen(contents)
    chained = np.empty(len(contents), np.int64)
    starts, counts = offsets[:-1], np.diff(offsets)
    before = np.zeros(len(counts), np.int64)
    used = 0
    for position in range(int(counts.max(initial=0))):
        rows = np.flatnonzero(counts > position)
        places = starts[rows] + position
        ids = pair_ids(before[rows], dense[places])
        chained[places] = ids + used
        before[rows] = ids
        used += int(ids.max()) + 1
    return chained

"""Make replicates of one trace: consecutive windows of it, or its sessions drawn again with replacement."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from traces.errors import TraceError
from traces.schema import STRING, Trace, check, rebuild
from traces.trie import Trie, compress, full_blocks, previous
from traces.window import roots_of, split_time

STREAM = 0x626F6F74


def windows(trace: Trace, count: int) -> list[Trace]:
    """Cut a trace into consecutive windows of equal time, each counting time from its own start.

    A turn whose parent is in an earlier window becomes open loop at its recorded arrival.

    raises : TraceError if a window holds no request
    """
    try:
        return split_time(trace, [1.0 / count] * count)
    except TraceError:
        raise TraceError(
            f"each of {count} equal windows of {trace.name} must hold a request, but one holds none. Take fewer."
        ) from None


def sessions(trace: Trace, trie: Trie | None = None) -> np.ndarray:
    """Number the sessions of a trace: requests that must be drawn together.

    By `session` and `parent` where the trace has them. Else, with prefix_blocks, a session is a chain of requests: one
    belongs to the chain of its `previous` if it is longer, has all the full blocks of that and is the first to extend
    it. A prompt that is only an opening with which other prompts begin as well begins no chain. Else each request is
    alone.

    trie    : of the trace; None builds it
    returns : (requests,) int64, dense
    source  : own; chained ids as in Mooncake's traces (Qin et al., FAST 2025), where a turn's prompt repeats the one
              before
    """
    rows = np.arange(len(trace))
    if "session" in trace or "parent" in trace:
        links = trace.column("parent") if "parent" in trace else np.full(len(trace), -1)
        if "session" not in trace:
            return np.unique(roots_of(links), return_inverse=True)[1]
        owner = len(trace) + trace.codes("session").astype(np.int64)
        one = np.concatenate((rows, rows[links >= 0]))
        other = np.concatenate((owner, links[links >= 0]))
        nodes = len(trace) + len(trace.labels("session"))
        graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(nodes, nodes))
        return np.unique(connected_components(graph, directed=False)[1][: len(trace)], return_inverse=True)[1]
    if "prefix_blocks" in trace:
        return np.unique(roots_of(_extended(trace, compress(trace) if trie is None else trie)), return_inverse=True)[1]
    return rows


def _extended(trace: Trace, trie: Trie) -> np.ndarray:
    """Return the row that each request is the first to extend, (requests,) int64, -1 for none."""
    before, shared = previous(trie)
    parent = np.asarray(trie.parent, np.int64)
    children = np.bincount(parent[parent >= 0], minlength=len(parent))
    there = np.flatnonzero((before >= 0) & (shared > 0))
    earlier = before[there]
    prompts, leaf = trace.column("prompt_tokens"), np.asarray(trie.leaf)[earlier]
    opening = (parent[leaf] < 0) & (children[leaf] > 1)
    extends = (shared[there] == full_blocks(trace)[earlier]) & (prompts[there] > prompts[earlier]) & ~opening
    there, earlier = there[extends], earlier[extends]
    first = np.unique(earlier, return_index=True)[1]
    found = np.full(len(trace), -1, np.int64)
    found[there[first]] = earlier[first]
    return found


def bootstrap(trace: Trace, groups: np.ndarray, seed: Sequence[int], shift_s: float) -> Trace:
    """Draw as many sessions as a trace has, with replacement, each moved in time as a whole.

    Blocks that only one session has get ids of their own in each further copy of it, so that copies do not find each
    other's KV; blocks of several sessions stay shared. Ids are numbered anew, session labels of further copies end in
    ~1, ~2, ... A copy starts up to shift_s earlier or later than its session, taken modulo the room that its length
    leaves in the trace's time span; inside it nothing moves. Requests recorded with one timestamp are thereby spread,
    unless they are of one session or shift_s is 0.

    groups  : (requests,) int64, as `sessions` returns
    seed    : whole numbers; equal ones give equal traces
    shift_s : at least 0
    returns : checked Trace
    source  : Efron 1979; whole sessions as blocks, after the block bootstrap of Kuensch 1989
    """
    random = np.random.default_rng((*seed, STREAM))
    order, sizes = np.argsort(groups, kind="stable"), np.bincount(groups)
    starts = np.cumsum(sizes) - sizes
    drawn = np.sort(random.integers(0, len(sizes), len(sizes)))
    copy = np.arange(len(drawn)) - np.searchsorted(drawn, drawn)
    begins = np.cumsum(sizes[drawn]) - sizes[drawn]
    of = np.repeat(np.arange(len(drawn)), sizes[drawn])  # the draw that each new row belongs to
    rows = order[starts[drawn][of] + np.arange(len(of)) - begins[of]]
    arrivals = trace.column("arrival_s")
    first_s, last_s = arrivals[order[starts]], arrivals[order[starts + sizes - 1]]
    moves = random.uniform(-shift_s, shift_s, len(drawn))
    moved_s = _moved(first_s[drawn], last_s[drawn], (arrivals[0], arrivals[-1]), moves)
    times = moved_s[of] + (arrivals[rows] - first_s[drawn][of])
    sorting = np.argsort(times, kind="stable")
    source, shared = _dense(trace, groups)
    table = _set(source.table.take(pa.array(rows[sorting])), "arrival_s", times[sorting])
    if "parent" in trace:
        place = np.empty(len(trace), np.int64)  # of a request inside its session
        place[order] = np.arange(len(order)) - np.repeat(starts, sizes)
        parents = trace.column("parent")[rows]
        target = np.empty(len(rows), np.int64)
        target[sorting] = np.arange(len(rows))
        has = parents >= 0
        parents[has] = target[begins[of[has]] + place[parents[has]]]
        table = _set(table, "parent", parents[sorting])
    drawn_again = rebuild(trace, table, {"bootstrap": {"seed": [int(part) for part in seed], "shift_s": shift_s}})
    return check(_apart(drawn_again, shared, copy[of][sorting]), chains=False)


def _moved(first_s: np.ndarray, last_s: np.ndarray, span: tuple[float, float], moves: np.ndarray) -> np.ndarray:
    """Return where sessions begin once moved, wrapped so that they end within the span."""
    room = (span[1] - span[0]) - (last_s - first_s)
    offset = first_s - span[0] + moves
    outside = ((offset < 0) | (offset > room)) & (room > 0)
    wrapped = np.mod(offset, np.where(room > 0, room, 1.0))
    return span[0] + np.where(outside, wrapped, np.clip(offset, 0.0, np.maximum(room, 0.0)))


def _dense(trace: Trace, groups: np.ndarray) -> tuple[Trace, np.ndarray]:
    """Return the trace with blocks numbered from 0, and which of them several sessions have, bool (blocks,)."""
    if "prefix_blocks" not in trace:
        return trace, np.zeros(0, bool)
    offsets, ids = trace.prefix()
    known, dense = np.unique(ids, return_inverse=True)
    owner = np.repeat(groups, np.diff(offsets))
    some, shared = np.empty(len(known), np.int64), np.zeros(len(known), bool)
    some[dense] = owner
    shared[dense[some[dense] != owner]] = True
    column = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(dense, pa.int64()))
    return rebuild(trace, _set(trace.table, "prefix_blocks", column)), shared


def _apart(trace: Trace, shared: np.ndarray, copies: np.ndarray) -> Trace:
    """Give further copies of a session blocks and a label of their own.

    shared : bool (blocks,), which blocks stay as they are
    copies : (requests,), 0 for requests of the first copy
    """
    table = trace.table
    if "prefix_blocks" in trace:
        offsets, ids = trace.prefix()
        again = np.where(shared[ids], 0, np.repeat(copies, np.diff(offsets)))
        own = pa.array(ids + again * len(shared), pa.int64())
        table = _set(table, "prefix_blocks", pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), own))
    if "session" in trace:
        names, mark = trace.labels("session"), "~"
        while any(mark in name for name in names):
            mark += "~"
        pairs, codes = np.unique(trace.codes("session").astype(np.int64) * (copies.max() + 1) + copies,
                                 return_inverse=True)  # fmt: skip
        told = [names[pair // (copies.max() + 1)] + (f"{mark}{k}" if (k := pair % (copies.max() + 1)) else "")
                for pair in pairs]  # fmt: skip
        labels = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(told, pa.string()))
        table = _set(table, "session", labels.cast(STRING))
    return rebuild(trace, table)


def _set(table: pa.Table, name: str, values: np.ndarray | pa.Array) -> pa.Table:
    column = values if isinstance(values, pa.Array) else pa.array(values, table.schema.field(name).type)
    return table.set_column(table.column_names.index(name), name, column)

"""The rules that every trace keeps, each checked over whole columns at once."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from traces.errors import TraceError
from traces.schema import COLUMNS, LABELS, REQUIRED, Trace

# Kernel time is int64 picoseconds: 2^63 ps are 106.75 days, and the last request still has to finish.
MAX_SPAN_S = 106 * 86400.0


def check_rules(trace: Trace, chains: bool = True) -> Trace:
    """Return the trace if it keeps every rule, else raise for the first rule broken.

    trace   : Trace, read only
    chains  : False leaves out the one rule that walks over all prefix ids
    returns : the same trace
    raises  : TraceError naming rule, value, row and remedy
    cost    : O(requests + blocks), about 0.1 s a million requests and as much per 10 million blocks
    """
    check_columns(trace)
    _check_arrivals(trace)
    _check_lengths(trace)
    _check_outcomes(trace)
    if "parent" in trace or "think_s" in trace:
        _check_parents(trace)
    if "prefix_blocks" in trace:
        _check_block_counts(trace)
        if chains:
            check_chains(trace)
    elif trace.block_tokens is not None:
        raise TraceError(
            f"block_tokens goes with prefix_blocks, but {trace.name} has block_tokens {trace.block_tokens} and no "
            "prefix_blocks. Leave block_tokens out."
        )
    return trace


def _fail(trace: Trace, bad: np.ndarray, rule: str, column: str, remedy: str) -> None:
    """Raise for the first row where `bad` holds, showing that row's value of `column`."""
    if bad.any():
        row = int(np.argmax(bad))
        value = trace.column(column)[row]
        raise TraceError(f"{rule}, but request {row} has {column} {value!s} ({trace.name}). {remedy}")


def check_columns(trace: Trace) -> None:
    """Raise TraceError unless the trace has the columns, types and at least one row, and no nulls."""
    names = trace.table.column_names
    for name in REQUIRED:
        if name not in names:
            raise TraceError(
                f"a trace must have {', '.join(REQUIRED)}, but {trace.name} has no '{name}'. "
                f"Map the source's own name with columns={{'{name}': '...'}} or --column {name}=..."
            )
    for name, kind in ((field.name, field.type) for field in trace.table.schema):
        if name not in COLUMNS:
            raise TraceError(f"a trace has only the columns {', '.join(COLUMNS)}, but {trace.name} has '{name}'.")
        if not _is_kind(kind, COLUMNS[name]):
            raise TraceError(
                f"column '{name}' must be {COLUMNS[name]}, but {trace.name} holds {kind}. "
                "Convert it, or import the source with `kvreplay traces import`."
            )
    if len(trace) == 0:
        raise TraceError(f"a trace must have at least one request, but {trace.name} has none. Widen the window.")
    for name in names:
        column = trace.table.column(name)
        values = _values(column) if name == "prefix_blocks" else column
        if column.null_count or values.null_count:
            where = int(np.argmax(pc.is_null(column).to_numpy(zero_copy_only=False))) if column.null_count else None
            place = "an entry inside a list" if where is None else f"request {where}"
            raise TraceError(
                f"a trace holds no null values, but {place} has none in '{name}' ({trace.name}). Fill or drop the row."
            )


def _is_kind(found: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_dictionary(wanted):
        return pa.types.is_dictionary(found) and found.index_type == pa.int32() and found.value_type == pa.string()
    if pa.types.is_list(wanted):
        return pa.types.is_list(found) and found.value_type == wanted.value_type
    return bool(found == wanted)


def _values(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([chunk.flatten() for chunk in column.chunks], pa.int64())


def _check_arrivals(trace: Trace) -> None:
    arrivals = trace.column("arrival_s")
    _fail(trace, ~np.isfinite(arrivals), "arrivals must be finite seconds", "arrival_s", "Mend or drop the row.")
    _fail(trace, arrivals < 0, "arrivals must be at or after 0 s", "arrival_s", "Count seconds from the trace's start.")
    late = arrivals[1:] < arrivals[:-1]
    if late.any():
        row = int(np.argmax(late)) + 1
        raise TraceError(
            f"arrivals must be sorted: request {row} arrives at {arrivals[row]:.12g} s, before request {row - 1} at "
            f"{arrivals[row - 1]:.12g} s ({trace.name}). Sort with traces.window.sort_arrivals."
        )
    if arrivals[-1] > MAX_SPAN_S:
        raise TraceError(
            f"a trace must end within 106 days of 0 s (time is counted in int64 picoseconds), but request "
            f"{len(arrivals) - 1} arrives at {arrivals[-1]:.12g} s ({trace.name}). Cut it with `traces window`, "
            "or check the unit of the arrivals."
        )


def _check_lengths(trace: Trace) -> None:
    for name in ("prompt_tokens", "output_tokens"):
        _fail(trace, trace.column(name) < 1, f"{name} must be at least 1", name, "Drop the row or mend its length.")
    if "images" in trace:
        _fail(trace, trace.column("images") < 0, "images must be at least 0", "images", "Drop the row or mend it.")


def _check_outcomes(trace: Trace) -> None:
    for name in ("ttft_s", "e2e_s"):
        if name in trace:
            bad = (trace.column(name) < 0) | np.isinf(trace.column(name))
            _fail(trace, bad, f"{name} must be at least 0, or NaN where not recorded", name, "Mend the value.")
    for name in (label for label in LABELS if label in trace):
        codes = trace.codes(name)
        outside = (codes < 0) | (codes >= len(trace.labels(name)))
        if outside.any():
            row = int(np.argmax(outside))
            raise TraceError(
                f"label codes must point into their dictionary, but request {row} has code {codes[row]} in '{name}' "
                f"({trace.name}). The file is damaged: import it again."
            )


def _check_parents(trace: Trace) -> None:
    for one, other in (("parent", "think_s"), ("think_s", "parent")):
        if one in trace and other not in trace:
            raise TraceError(f"parent and think_s go together, but {trace.name} has '{one}' and no '{other}'. Add it.")
    parents, think = trace.column("parent"), trace.column("think_s")
    bad = (parents < -1) | (parents >= np.arange(len(trace)))
    _fail(trace, bad, "parent must be an earlier row, or -1 for none", "parent", "Sort turns by arrival.")
    bad = ~((think >= 0) & (think <= MAX_SPAN_S))
    _fail(trace, bad, "think_s must be finite, at least 0 and below 106 days", "think_s", "Mend the pause.")


def _check_block_counts(trace: Trace) -> None:
    size = trace.block_tokens
    if size is None or size < 1:
        raise TraceError(
            f"prefix_blocks need block_tokens of at least 1, but {trace.name} has {size}. "
            "Say how many tokens one id covers (block_tokens=...)."
        )
    offsets, ids = trace.prefix()
    counts = np.diff(offsets)
    if (counts < 0).any():
        raise TraceError(f"the offsets of prefix_blocks must not fall, but those of {trace.name} do. Import it again.")
    prompts = trace.column("prompt_tokens").astype(np.int64)
    most = -(-prompts // size)
    bad = counts > most
    if bad.any():
        row = int(np.argmax(bad))
        raise TraceError(
            f"a prompt of n tokens has at most ceil(n / {size}) prefix blocks, but request {row} has {counts[row]} for "
            f"{prompts[row]} tokens ({trace.name}). Check block_tokens, or cut the list."
        )
    if len(ids) and ids.min() < 0:
        place = int(np.argmax(ids < 0))
        row = int(np.searchsorted(offsets, place, "right")) - 1
        raise TraceError(
            f"prefix block ids must be at least 0, but request {row} has {ids[place]} ({trace.name}). Renumber them."
        )


def check_chains(trace: Trace) -> None:
    """Raise if an id follows two different blocks: then it is a content id, not a prefix id.

    An id whose predecessor is always the same has one position and one whole prefix, by induction from the first.

    trace  : Trace that passed the other rules, read only
    raises : TraceError naming the id and both requests
    cost   : O(blocks); ids far apart are renumbered first
    """
    offsets, ids = trace.prefix()
    if len(ids) == 0:
        return
    dense, count = _dense(ids)
    starts = offsets[:-1][offsets[:-1] < offsets[1:]]
    if not _has_broken_link(dense, starts, count):
        return
    before = np.concatenate(([-1], dense[:-1]))
    before[starts] = -1
    first_places, inverse = np.unique(dense, return_index=True, return_inverse=True)[1:]
    place = int(np.argmax(before != before[first_places[inverse]]))
    first = int(first_places[inverse[place]])
    row, earlier = (int(np.searchsorted(offsets, spot, "right")) - 1 for spot in (place, first))
    follows = [_name_before(ids, before, spot) for spot in (place, first)]
    raise TraceError(
        f"prefix block ids must be chained (equal id = equal prefix), but id {ids[place]} {follows[0]} in request "
        f"{row} and {follows[1]} in request {earlier} ({trace.name}). "
        "If its ids name contents, read it with content_ids=true."
    )


def _has_broken_link(dense: np.ndarray, starts: np.ndarray, count: int) -> bool:
    """Say whether some id follows two different ones (or none and one); O(blocks) with one array of them."""
    known = np.full(count, -2, dense.dtype)
    known[dense[1:]] = dense[:-1]  # of several predecessors one stays, and the others differ from it
    known[dense[starts]] = -1
    same = known[dense[1:]] == dense[:-1]
    same[starts[starts > 0] - 1] = True
    return not (same.all() and (known[dense[starts]] == -1).all())


def _dense(ids: np.ndarray) -> tuple[np.ndarray, int]:
    top = int(ids.max()) + 1
    if top <= 4 * len(ids) + 1024:
        return ids, top
    coded = pa.array(ids).dictionary_encode()
    return coded.indices.to_numpy(zero_copy_only=False), len(coded.dictionary)


def _name_before(ids: np.ndarray, before: np.ndarray, spot: int) -> str:
    return "comes first" if before[spot] < 0 else f"follows {ids[spot - 1]}"

"""Cut, scale, thin and sort traces; sessions stay whole where that can be had."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from traces.errors import TraceError
from traces.schema import Trace, check, rebuild


def take(trace: Trace, rows: np.ndarray) -> Trace:
    """Return the given rows in the given order, with `parent` renumbered.

    A turn whose parent is not among the rows becomes open loop: parent -1, think_s 0, its recorded arrival stands.

    rows    : (kept,) int, distinct
    returns : Trace, not checked
    cost    : O(rows + their blocks); a contiguous range is a view
    """
    table = _rows_of(trace.table, rows)
    if "parent" not in trace:
        return rebuild(trace, table)
    place = np.full(len(trace) + 1, -1, np.int64)
    place[rows] = np.arange(len(rows))
    parents = trace.column("parent")[rows]
    inside = (parents >= -1) & (parents < len(trace))
    table = _replace(table, "parent", np.where(inside, place[np.where(inside, parents, -1)], parents))
    if "think_s" in trace:
        orphan = inside & (parents >= 0) & (place[np.where(inside, parents, -1)] < 0)
        table = _replace(table, "think_s", np.where(orphan, 0.0, trace.column("think_s")[rows]))
    return rebuild(trace, table)


def sort_arrivals(trace: Trace) -> Trace:
    """Return the rows in order of arrival_s, ties in their former order; a sorted trace comes back as it is."""
    arrivals = trace.column("arrival_s")
    if not (arrivals[1:] < arrivals[:-1]).any():
        return trace
    sorted_trace = take(trace, np.argsort(arrivals, kind="stable"))
    return rebuild(sorted_trace, sorted_trace.table, {"sorted": True})


def slice_time(trace: Trace, start_s: float, end_s: float) -> Trace:
    """Return the requests with start_s <= arrival_s < end_s, counting time from start_s.

    raises : TraceError if start_s < end_s does not hold or no request is left
    """
    if not 0 <= start_s < end_s:
        raise TraceError(f"0 <= start_s < end_s must hold, but got start_s {start_s} and end_s {end_s}.")
    arrivals = trace.column("arrival_s")
    first, last = np.searchsorted(arrivals, [start_s, end_s])
    return _cut(trace, int(first), int(last), start_s)


def slice_rows(trace: Trace, start: int, end: int) -> Trace:
    """Return the requests start <= row < end, counting time from the first of them.

    raises : TraceError if 0 <= start < end does not hold or no request is left
    """
    if not 0 <= start < end:
        raise TraceError(f"0 <= start < end must hold for rows, but got start {start} and end {end}.")
    first = min(start, len(trace))
    zero_s = float(trace.column("arrival_s")[first]) if first < len(trace) else 0.0
    return _cut(trace, first, min(end, len(trace)), zero_s)


def split_time(trace: Trace, fractions: Sequence[float]) -> list[Trace]:
    """Split the trace's time span into consecutive parts, for example (0.7, 0.3) to train and to test.

    fractions : shares of the span, positive, adding up to 1
    returns   : one Trace a share, each counting time from its own start
    raises    : TraceError if the shares do not add up to 1 or a part holds no request
    """
    shares = np.asarray(fractions, np.float64)
    if len(shares) == 0 or not (shares > 0).all() or abs(shares.sum() - 1.0) > 1e-9:
        raise TraceError(f"fractions must be positive and add up to 1, but got {list(fractions)}.")
    arrivals = trace.column("arrival_s")
    span = arrivals[-1] - arrivals[0]
    edges = arrivals[0] + span * np.concatenate(([0.0], np.cumsum(shares)))
    rows = np.searchsorted(arrivals, edges)
    rows[0], rows[-1] = 0, len(trace)
    parts = zip(rows[:-1], rows[1:], edges[:-1], strict=True)
    return [_cut(trace, int(first), int(last), float(edge)) for first, last, edge in parts]


def scale_rate(trace: Trace, factor: float) -> Trace:
    """Return the trace with its arrival rate multiplied: arrival_s / factor; think_s stays what people need.

    raises : TraceError unless factor is positive and finite
    """
    if not (factor > 0 and np.isfinite(factor)):
        raise TraceError(f"factor must be positive and finite, but got {factor}.")
    scaled = rebuild(trace, _replace(trace.table, "arrival_s", trace.column("arrival_s") / factor))
    return check(rebuild(scaled, scaled.table, {"rate_factor": trace.notes.get("rate_factor", 1.0) * factor}))


def thin(trace: Trace, keep: float, seed: int = 0) -> Trace:
    """Keep a random share of the requests, whole sessions together.

    Requests linked by `session` or by `parent` are one group; each group is kept with probability `keep`, so a
    session-free Poisson stream stays Poisson.

    keep   : probability, 0 < keep <= 1
    seed   : same seed, same rows
    raises : TraceError if keep is outside its range or nothing is left
    """
    if not 0 < keep <= 1:
        raise TraceError(f"0 < keep <= 1 must hold, but got {keep}.")
    groups = _groups(trace)
    chosen = np.random.default_rng(seed).random(int(groups.max()) + 1) < keep
    rows = np.flatnonzero(chosen[groups])
    if len(rows) == 0:
        raise TraceError(f"thinning must leave a request, but keep {keep} leaves none of {len(trace)} ({trace.name}).")
    thinned = take(trace, rows)
    return rebuild(thinned, thinned.table, {"thinned": {"keep": keep, "seed": seed}})


def _groups(trace: Trace) -> np.ndarray:
    """Number the groups that must stay together, (requests,) int64."""
    if "session" in trace:
        return np.unique(trace.codes("session"), return_inverse=True)[1]
    if "parent" not in trace:
        return np.arange(len(trace))
    return np.unique(roots_of(trace.column("parent")), return_inverse=True)[1]


def roots_of(parents: np.ndarray) -> np.ndarray:
    """Return the first row of each row's chain of parents, (requests,) int64.

    parents : (requests,) int64, earlier rows or -1
    cost    : O(requests * log of the longest chain), by pointer jumping
    """
    roots = np.where(parents >= 0, parents, np.arange(len(parents)))
    while not np.array_equal(above := roots[roots], roots):
        roots = above
    return roots


def _cut(trace: Trace, first: int, last: int, zero_s: float) -> Trace:
    if first >= last:
        raise TraceError(
            f"a window must hold a request, but rows {first}..{last} of {trace.name} hold none; its {len(trace)} "
            f"requests arrive from {trace.column('arrival_s')[0]:.12g} to {trace.column('arrival_s')[-1]:.12g} s."
        )
    part = take(trace, np.arange(first, last))
    moved = np.maximum(trace.column("arrival_s")[first:last] - zero_s, 0.0)
    notes = {"window": {"rows": [first, last], "zero_s": zero_s}}
    return rebuild(part, _replace(part.table, "arrival_s", moved), notes)


def _rows_of(table: pa.Table, rows: np.ndarray) -> pa.Table:
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return table.slice(int(rows[0]), len(rows))
    return table.take(pa.array(rows, pa.int64()))


def _replace(table: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values, table.schema.field(name).type))

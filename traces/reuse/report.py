"""Show how a trace reuses its blocks: tables for the terminal, flat numbers, the curve as a file."""

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl
from rich import box
from rich.table import Table
from rich.text import Text

from traces.errors import TraceError
from traces.reuse.curve import Curve, lru_curve
from traces.reuse.plain import POLICIES, plain_hits
from traces.reuse.published import Comparison
from traces.schema import Trace

LADDER = (1, 3, 5)
MOST_CAPACITIES = 7
CURVE_SUFFIXES = (".parquet", ".csv")


class Reuse(NamedTuple):
    """What the plain caches of a trace find.

    capacities : [blocks], infinity allowed
    rates      : policy -> hit blocks / blocks found as a contiguous prefix, one a capacity
    anywhere   : the same counting blocks after a missing one too
    curve      : LRU at every capacity
    """

    capacities: list[float]
    rates: dict[str, list[float]]
    anywhere: dict[str, list[float]]
    curve: Curve


def measure(trace: Trace, capacities: Sequence[float] | None = None) -> Reuse:
    """Run every policy at every capacity.

    capacities : [blocks]; None takes the steps 1, 3, 5, 10, 30, ... below the trace's unique blocks, and infinity
    cost       : O(blocks log blocks) a policy and capacity; LRU costs one pass for all
    """
    curve = lru_curve(trace)
    unique = curve.total - int(curve.hits[-1])
    sizes = default_capacities(unique) if capacities is None else list(capacities)
    rates: dict[str, list[float]] = {"lru": [curve.rate(size) for size in sizes]}
    anywhere = {"lru": rates["lru"]}
    for policy in (name for name in POLICIES if name != "lru"):
        hits = [plain_hits(trace, policy, int(min(size, max(unique, 1)))) for size in sizes]
        sums = [[float(part.sum() / max(curve.total, 1)) for part in both] for both in hits]
        rates[policy], anywhere[policy] = ([pair[which] for pair in sums] for which in (0, 1))
    return Reuse(sizes, rates, anywhere, curve)


def default_capacities(unique: int) -> list[float]:
    """Return capacities that show a cache's range for so many unique blocks: at most seven, and infinity."""
    steps = [float(digit * 10**power) for power in range(len(str(unique))) for digit in LADDER]
    return [step for step in steps if step < unique][-MOST_CAPACITIES:] + [float("inf")]


def numbers(reuse: Reuse) -> dict[str, float]:
    """Return the hit rates flat, as `describe` names its numbers; counted anywhere only where that is more."""
    flat: dict[str, float] = {}
    for policy, rates in reuse.rates.items():
        flat |= {
            f"{policy}_hit_rate_blocks_{size:.0f}": rate for size, rate in zip(reuse.capacities, rates, strict=True)
        }
        if reuse.anywhere[policy] != rates:
            pairs = zip(reuse.capacities, reuse.anywhere[policy], strict=True)
            flat |= {f"{policy}_any_block_hit_rate_blocks_{size:.0f}": rate for size, rate in pairs}
    return flat


def render(name: str, reuse: Reuse) -> Table:
    """Return the table of hit rates: a row a capacity, a column a policy.

    A policy that keeps blocks behind missing ones has a second column, which counts those too.
    """
    table = _table(f"{name}\nshare of blocks found by one plain cache")
    table.add_column("capacity\n(blocks)", justify="right")
    columns = []
    for policy, rates in reuse.rates.items():
        table.add_column(policy, justify="right")
        columns.append(rates)
        if reuse.anywhere[policy] != rates:
            table.add_column(f"{policy},\nany block", justify="right")
            columns.append(reuse.anywhere[policy])
            table.caption = "any block: counting blocks behind a missing one too"
    for size, *row in zip(reuse.capacities, *columns, strict=True):
        table.add_row(_size(size), *(f"{rate:.4f}" for rate in row))
    return table


def render_comparison(name: str, comparison: Comparison) -> Table:
    """Return the table of published points: published, plain and corrected hit rates and their differences."""
    unit, column = comparison.published.unit, comparison.published.column
    table = _table(f"{name}\nshare of {unit} found: published '{column}', and one plain LRU cache")
    for heading in (f"capacity\n({unit})", "published", "plain", "difference"):
        table.add_column(heading, justify="right")
    for heading in ("corrected", "difference") if comparison.corrected else ():
        table.add_column(heading, justify="right")
    for size, published, plain, corrected in comparison.rows():
        cells = [f"{published:.4f}", f"{plain:.4f}", f"{plain - published:+.4f}"]
        if corrected is not None:
            cells += [f"{corrected:.4f}", f"{corrected - published:+.4f}"]
        table.add_row(_size(size), *cells)
    plain, fine = comparison.largest_differences()
    also = "" if fine is None else f", corrected {fine:.4f}"
    table.caption = f"largest difference: plain {plain:.4f}{also}"
    return table


def comparison_numbers(comparison: Comparison) -> dict[str, float]:
    """Return the comparison's numbers flat."""
    unit = comparison.published.unit
    flat: dict[str, float] = {}
    for size, published, plain, corrected in comparison.rows():
        flat[f"published_hit_rate_at_{size:.0f}_{unit}"] = published
        flat[f"lru_hit_rate_at_{size:.0f}_{unit}"] = plain
        if corrected is not None:
            flat[f"corrected_hit_rate_at_{size:.0f}_{unit}"] = corrected
    plain, fine = comparison.largest_differences()
    flat["published_largest_difference_plain"] = plain
    return flat if fine is None else flat | {"published_largest_difference_corrected": fine}


def curve_bytes(trace: Trace, suffix: str) -> bytes:
    """Return the LRU curve as the bytes of a .parquet or .csv file.

    A row holds from its capacity_blocks up to the next row's: hit_blocks, hit_rate_blocks, hit_tokens, hit_rate_tokens.
    """
    blocks, tokens = lru_curve(trace), lru_curve(trace, count_tokens=True)
    columns = {
        "capacity_blocks": blocks.capacity,
        "hit_blocks": blocks.hits,
        "hit_rate_blocks": blocks.hits / max(blocks.total, 1),
        "hit_tokens": tokens.hits,
        "hit_rate_tokens": tokens.hits / max(tokens.total, 1),
    }
    data = io.BytesIO()
    frame = pl.DataFrame(columns)
    if suffix == ".csv":
        frame.write_csv(data)
    else:
        frame.write_parquet(data)
    return data.getvalue()


def check_target(path: str, suffixes: Sequence[str], flag: str) -> Path:
    """Return a file to write as a path; raise TraceError unless it ends as the flag wants and its folder is there."""
    target = Path(path)
    if target.suffix not in suffixes:
        raise TraceError(f"{flag} writes {' or '.join(suffixes)}, but got '{path}'. Rename the file.")
    if target.is_dir() or not target.parent.is_dir():
        what = "it is a folder" if target.is_dir() else f"there is no folder {target.parent}"
        raise TraceError(f"{flag} cannot write to '{path}': {what}. Choose another file.")
    return target


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write files under temporary names, and rename them when all are whole.

    raises : TraceError if one cannot be written; then no temporary file is left, and no target is half-written
    """
    temporary = {target: target.with_name(f".{target.name}.{os.getpid()}.tmp") for target in files}
    target = Path()
    try:
        for target, data in files.items():
            temporary[target].write_bytes(data)
        for target, whole in temporary.items():
            os.replace(whole, target)
    except OSError as error:
        raise TraceError(
            f"the results cannot be written to {target}: {error.strerror or error}. Nothing half-written was left "
            "there; free some space or choose another place."
        ) from None
    finally:
        for whole in temporary.values():
            with contextlib.suppress(OSError):
                whole.unlink(missing_ok=True)


def _table(title: str) -> Table:
    return Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left")


def _size(size: float) -> str:
    return "infinite" if size == float("inf") else f"{size:,.0f}"

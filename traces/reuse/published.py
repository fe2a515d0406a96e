"""Hit rates that somebody published against capacity, beside the plain LRU cache of the same trace."""

import csv
import re
from pathlib import Path
from typing import NamedTuple

from traces.errors import TraceError
from traces.reuse.curve import Curve, lru_curve, lru_token_curve
from traces.schema import Trace

UNITS = {"capacity_tokens": "tokens", "capacity_blocks": "blocks"}


class Published(NamedTuple):
    """Published points.

    unit     : of the capacities, "tokens" or "blocks"
    column   : what the file calls the hit rates
    capacity : ascending or not, as in the file; infinity is allowed
    rate     : hit rates in [0, 1]
    """

    unit: str
    column: str
    capacity: list[float]
    rate: list[float]


class Comparison(NamedTuple):
    """Published points and what the caches of a trace find.

    plain     : LRU curve of the trace in the unit of the points
    corrected : the same with the sub-block correction; None without
    """

    published: Published
    plain: Curve
    corrected: Curve | None

    def rows(self) -> list[tuple[float, float, float, float | None]]:
        """List (capacity, published, plain, corrected) hit rates, a row a published point."""
        points = zip(self.published.capacity, self.published.rate, strict=True)
        fine = self.corrected
        return [(size, rate, self.plain.rate(size), None if fine is None else fine.rate(size)) for size, rate in points]

    def largest_differences(self) -> tuple[float, float | None]:
        """Return the largest distances from the published points, of the plain and of the corrected rates."""
        rows = self.rows()
        plain = max(abs(found - published) for _, published, found, _ in rows)
        corrected = [abs(found - published) for _, published, _, found in rows if found is not None]
        return plain, max(corrected, default=None)


def compare(trace: Trace, published: Published, sub_block: tuple[int, int] | None = None) -> Comparison:
    """Put a trace's plain LRU cache beside published points.

    Points over tokens are hit tokens / prompt tokens of a cache that counts tokens (Mooncake, FAST 2025, Figure 9);
    points over blocks are hit blocks / blocks (Mooncake, arXiv 2407.00079, Table 1).

    sub_block : (first_block_tokens, partial_tokens) of `lru_token_curve`, for points over tokens only
    raises    : TraceError if the trace has no prefix_blocks, or a correction meets points over blocks
    """
    if published.unit == "blocks":
        if sub_block:
            raise TraceError("a sub-block correction counts tokens, but the published capacities are in blocks.")
        return Comparison(published, lru_curve(trace), None)
    corrected = lru_token_curve(trace, *sub_block) if sub_block else None
    return Comparison(published, lru_token_curve(trace), corrected)


def read_published(path: str | Path, column: str | None = None, trace_name: str = "") -> Published:
    """Read published points from a CSV file with a column capacity_tokens or capacity_blocks and columns of hit rates.

    column     : which hit rates; None takes the only column, else the one whose name is a word of `trace_name`
    returns    : Published
    raises     : TraceError if the file cannot be read, or a column, a capacity or a rate is not what it must be
    """
    header, rows = _read(Path(path))
    unit = next((name for name in header if name in UNITS), None)
    if unit is None:
        raise TraceError(
            f"published points need a column {' or '.join(UNITS)}, but {path} has {', '.join(header)}. Rename it."
        )
    chosen = _choose(path, [name for name in header if name != unit], column, trace_name)
    points = Published(UNITS[unit], chosen, [], [])
    for line, row in enumerate(rows, 1):
        cells = dict(zip(header, row, strict=False))
        points.capacity.append(_number(path, line, unit, cells, float("inf")))
        points.rate.append(_number(path, line, chosen, cells, 1.0))
    return points


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is no CSV text"
        raise TraceError(f"the published points cannot be read from {path}: {reason}. Check the path.") from None
    if len(lines) < 2:
        raise TraceError(f"published points need a header and at least one row, but {path} has {len(lines)} lines.")
    return lines[0], lines[1:]


def _choose(path: str | Path, names: list[str], column: str | None, trace_name: str) -> str:
    words = re.split(r"[^a-z0-9]+", trace_name.lower())
    if column is not None:
        fitting = [name for name in names if name == column]
    else:
        fitting = names if len(names) == 1 else [name for name in names if name.lower() in words]
    if len(fitting) != 1:
        asked = f"there is no '{column}'" if column else f"none is named like the trace {trace_name}"
        raise TraceError(
            f"the hit rates of {path} are one of {', '.join(names) or 'no column'}, but {asked}. "
            "Choose with --published-column."
        )
    return fitting[0]


def _number(path: str | Path, line: int, column: str, cells: dict[str, str], most: float) -> float:
    text = cells.get(column, "")
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= most:
        rule = "a number from 0 to 1" if most == 1 else "a number of at least 0, or inf"
        raise TraceError(f"'{column}' must be {rule}, but row {line} of {path} has '{text}'. Mend the row.")
    return value

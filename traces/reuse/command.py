"""The part of `kvreplay traces describe` that is about reuse: its flags, files and tables."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from traces.errors import TraceError
from traces.schema import Trace

SCALES = {"k": 1_000, "m": 1_000_000}


class Told(NamedTuple):
    """What the command has to say: tables for the terminal, and the same as flat numbers."""

    tables: list[Table]
    numbers: dict[str, float]


def add_flags(parser: Any) -> None:
    """Add the flags; each of them but --lru stands for --reuse too."""
    parser.add_argument("--lru", metavar="BLOCKS", help="also LRU hit rates at these capacities, e.g. 1000,10000")
    group = parser.add_argument_group("hit rates of one plain cache against its capacity")
    group.add_argument("--reuse", action="store_true", help="print a table: lru, fifo, lfu, belady")
    group.add_argument("--capacities", metavar="BLOCKS", help="of the table, e.g. 1000,50k,inf")
    group.add_argument("--out", metavar="FILE", help="write the LRU curve at every capacity, .parquet or .csv")
    group.add_argument("--plot", metavar="FILE.html", help="draw a picture of it all")
    group.add_argument("--published", metavar="FILE.csv", help="compare with hit rates by capacity_tokens or _blocks")
    group.add_argument("--published-column", metavar="NAME", help="of its hit rates; default: named like the trace")
    group.add_argument(
        "--sub-block",
        metavar="FIRST,MORE",
        help="correct the comparison: a hit of block 0 only counts FIRST tokens, a longer partial one MORE tokens more",
    )


def asked(options: argparse.Namespace) -> bool:
    """Say whether any flag asks for reuse."""
    flags = ("reuse", "capacities", "out", "plot", "published", "published_column", "sub_block")
    return any(getattr(options, flag) not in (None, False) for flag in flags)


def reuse(trace: Trace, options: argparse.Namespace) -> Told:
    """Measure what the flags ask for, write the files, and return what to print.

    raises : TraceError on a wrong flag, a trace without prefix_blocks or a file that cannot be written; no file is
             then written
    """
    from traces.reuse import report
    from traces.reuse.picture import check_plotly, picture

    out = report.check_target(options.out, report.CURVE_SUFFIXES, "--out") if options.out is not None else None
    plot = report.check_target(options.plot, (".html",), "--plot") if options.plot is not None else None
    sizes = None if options.capacities is None else capacities(options.capacities, "--capacities")
    if plot:
        check_plotly()
    comparison = _comparison(trace, options)
    measured = report.measure(trace, sizes)
    files: dict[Path, bytes] = {}
    if out:
        files[out] = report.curve_bytes(trace, out.suffix)
    if plot:
        files[plot] = picture(trace.name, measured, comparison).encode()
    report.write_together(files)
    told = Told([report.render(trace.name, measured)], report.numbers(measured))
    if comparison is None:
        return told
    table = report.render_comparison(trace.name, comparison)
    return Told([*told.tables, table], told.numbers | report.comparison_numbers(comparison))


def capacities(text: str, flag: str) -> list[float]:
    """Read capacities in blocks: 1000,50k,2M,inf; raise TraceError, naming the flag, on anything else."""
    sizes = [_capacity(part.strip().lower()) for part in text.split(",")]
    if any(size is None for size in sizes):
        raise TraceError(f"{flag} takes capacities in blocks like 1000,10000, but got '{text}'.")
    small = [size for size in sizes if size is not None and size < 1]
    if small:
        raise TraceError(f"a cache capacity must be at least 1 block, but got {small[0]:.0f} ({flag}).")
    return [size for size in sizes if size is not None]


def _capacity(text: str) -> float | None:
    if text in ("inf", "infinite"):
        return float("inf")
    scale = SCALES.get(text[-1:], 1)
    digits = text[:-1] if scale > 1 else text
    try:
        return float(int(digits) * scale)
    except (ValueError, OverflowError):
        return None


def _comparison(trace: Trace, options: argparse.Namespace) -> Any:
    from traces.reuse.published import compare, read_published

    if options.published is None:
        for flag, value in (("--published-column", options.published_column), ("--sub-block", options.sub_block)):
            if value is not None:
                raise TraceError(f"{flag} belongs to a comparison, but there is none. Name a file with --published.")
        return None
    sub_block = None
    if options.sub_block is not None:
        parts = options.sub_block.split(",")
        if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
            raise TraceError(f"--sub-block takes two numbers of tokens like 880,256, but got '{options.sub_block}'.")
        sub_block = (int(parts[0]), int(parts[1]))
    return compare(trace, read_published(options.published, options.published_column, trace.name), sub_block)

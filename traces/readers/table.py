"""Any CSV, Parquet, Arrow or JSON-lines table, its columns mapped to those of a trace."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from traces.errors import TraceError
from traces.readers.azure import parse_clock
from traces.readers.chain import chain_lists
from traces.readers.json_lines import json_keys, read_any_json
from traces.readers.source import (
    csv_header,
    first_line,
    parquet_columns,
    read_bytes,
    read_parquet,
    unchecked,
)
from traces.schema import COLUMNS, REQUIRED, Trace

PRIORITY = 1
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def sniff(head: bytes, path: Path) -> bool:
    names = parquet_columns(path) if head.startswith(b"PAR1") else {*csv_header(head), *json_keys(head)}
    return names >= set(REQUIRED) or head.startswith(b"ARROW1")


def read(
    path: Path,
    columns: dict[str, str] | None = None,
    arrival_unit: str = "s",
    block_tokens: int | None = None,
    content_ids: bool = False,
) -> Trace:
    """Read a generic table.

    columns      : trace column -> the source's column; those not named are taken if the source has the trace's name
    arrival_unit : unit of numeric arrivals: s, ms, us, ns; times of day (ISO) count from the earliest
    block_tokens : tokens of one id of prefix_blocks
    content_ids  : prefix_blocks name each block's content only, so chain them
    raises       : TraceError if a mapped column is missing or does not convert
    """
    columns = columns or {}
    unknown = sorted(set(columns) - set(COLUMNS))
    if unknown:
        raise TraceError(f"a column map's keys are {', '.join(COLUMNS)}, but got '{unknown[0]}'.")
    if arrival_unit not in UNITS:
        raise TraceError(f"arrival_unit must be one of {', '.join(UNITS)}, but got '{arrival_unit}'.")
    table = _read_any(path)
    if table.num_rows == 0:
        raise TraceError(f"a trace must have at least one request, but {path.name} has none. Check the file.")
    found = {}
    for name in COLUMNS:
        wanted = columns.get(name, name)
        if table.column_names.count(wanted) > 1:
            raise TraceError(f"a column's name must be unique, but {path.name} has '{wanted}' more than once. Rename.")
        if wanted in table.column_names:
            found[name] = table[wanted]
        elif name in columns or name in REQUIRED:
            raise TraceError(
                f"column '{wanted}' (for {name}) must be in the file, but {path.name} has "
                f"{', '.join(table.column_names)[:200]}. Name it with --column {name}=..."
            )
    found["arrival_s"] = _arrivals(found["arrival_s"], UNITS[arrival_unit], path.name)
    if content_ids and "prefix_blocks" in found:
        found["prefix_blocks"] = chain_lists(found["prefix_blocks"].cast(pa.list_(pa.int64())))
    return unchecked(path, found, block_tokens if "prefix_blocks" in found else None, {"format": "table"})


def _read_any(path: Path) -> pa.Table:
    data = read_bytes(path)
    try:
        if data.startswith(b"PAR1"):
            return read_parquet(path)
        if data.startswith(b"ARROW1"):
            return pa.ipc.open_file(io.BytesIO(data)).read_all()
        if data.lstrip().startswith(b"{"):
            return read_any_json(path)
        return pa.csv.read_csv(io.BytesIO(data), read_options=pa.csv.ReadOptions(use_threads=False))
    except (pa.ArrowException, UnicodeError, OSError) as error:
        raise TraceError(
            f"the file must be CSV, Parquet, Arrow or JSON lines, but {path.name} does not read: {first_line(error)}."
        ) from None


def _arrivals(column: pa.ChunkedArray, unit_s: float, name: str) -> np.ndarray:
    kind = column.type
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise TraceError(f"every request must have an arrival, but request {row} of {name} has none. Drop the row.")
    if pa.types.is_timestamp(kind):
        clock_ns = column.cast(pa.timestamp("ns", kind.tz)).cast(pa.int64()).to_numpy()
        return (clock_ns - clock_ns.min()) / 1e9
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        clock_ns = parse_clock(pc.cast(column, pa.string()), name)
        return (clock_ns - clock_ns.min()) / 1e9
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise TraceError(f"arrivals must be numbers or times, but {name} holds {kind}. Map another column.")
    return column.to_numpy().astype(np.float64) * unit_s

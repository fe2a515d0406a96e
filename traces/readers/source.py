"""What all readers share: opening compressed files, parsing rows, and finishing a trace."""

import gzip
import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import zstandard

from traces.errors import TraceError
from traces.schema import Trace, assemble, rebuild
from traces.window import take

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
HEAD_BYTES = 1 << 16
ZERO_TOKENS = ("refuse", "drop", "one")


def open_source(path: Path) -> io.BufferedIOBase:
    """Open a file for reading bytes, decompressed if its first bytes say gzip or zstd."""
    raw = path.open("rb")
    magic = raw.read(4)
    raw.seek(0)
    if magic[:2] == GZIP_MAGIC:
        return gzip.GzipFile(fileobj=raw)
    if magic == ZSTD_MAGIC:
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True))
    return raw


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file, decompressed; empty for a folder.  Damage shows later, in the reader."""
    if path.is_dir():
        return b""
    with open_source(path) as stream:
        try:
            return stream.read(HEAD_BYTES)
        except (EOFError, OSError, zlib.error, zstandard.ZstdError):
            pass
    with open_source(path) as stream:  # a zstd stream cannot be wound back
        return _read_what_is_whole(stream)


def _read_what_is_whole(stream: io.BufferedIOBase) -> bytes:
    head = bytearray()
    try:
        while len(head) < HEAD_BYTES and (part := stream.read(64)):
            head += part
    except (EOFError, OSError, zlib.error, zstandard.ZstdError):
        pass
    return bytes(head)


def read_bytes(path: Path) -> bytes:
    """Return a file's whole content, decompressed; raise TraceError if the compressed stream is damaged."""
    try:
        with open_source(path) as stream:
            data = stream.read()
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise TraceError(
            f"a compressed trace must be whole, but {path.name} is damaged ({first_line(error)}). Fetch it again."
        ) from None
    if not data.strip():
        raise TraceError(f"a trace must have at least one request, but {path.name} is empty. Fetch it again.")
    return data


def read_csv(path: Path, schema: Mapping[str, pa.DataType], optional: tuple[str, ...] = ()) -> pa.Table:
    """Parse CSV with a header row, keeping the columns of `schema` in its order.

    optional : columns that may be missing from the file and then are left out
    raises   : TraceError naming the missing column, or the row that does not parse
    """
    data = read_bytes(path)
    header = csv_header(data)
    missing = [name for name in schema if name not in header and name not in optional]
    if missing:
        raise TraceError(
            f"the file must have the columns {', '.join(n for n in schema if n not in optional)}, but {path.name} has "
            f"no '{missing[0]}' among {', '.join(header)[:200]}. Map other names with columns=."
        )
    present = {name: kind for name, kind in schema.items() if name in header}
    try:
        table = pa.csv.read_csv(
            io.BytesIO(data),
            read_options=pa.csv.ReadOptions(use_threads=False),
            convert_options=pa.csv.ConvertOptions(column_types=present, include_columns=list(present)),
        )
    except (pa.ArrowException, UnicodeError) as error:
        raise unreadable(path, "a CSV record a line", first_line(error)) from None
    return refuse_nulls(path, table, optional)


def read_parquet(path: Path, names: tuple[str, ...] | None = None) -> pa.Table:
    """Read the named columns of a Parquet file (None: all); raise TraceError if it is damaged or lacks one."""
    try:
        return pa.parquet.read_table(io.BytesIO(read_bytes(path)), columns=None if names is None else list(names))
    except (pa.ArrowException, UnicodeError, OSError) as error:
        raise unreadable(path, "whole Parquet", first_line(error)) from None


def parquet_columns(path: Path) -> set[str]:
    """Return the column names of a Parquet file, empty if it is none or is damaged."""
    try:
        with path.open("rb") as raw:
            plain = raw.read(4) == b"PAR1"
        return set(pa.parquet.read_schema(path if plain else io.BytesIO(read_bytes(path))).names)
    except (pa.ArrowException, UnicodeError, OSError, TraceError):
        return set()


def csv_header(data: bytes) -> list[str]:
    """Return the column names of CSV bytes, without a byte order mark."""
    line = data.removeprefix(b"\xef\xbb\xbf").splitlines()[:1]
    return [name.strip('"') for name in line[0].decode(errors="replace").split(",")] if line else []


def unchecked(
    path: Path, columns: dict[str, Any], block_tokens: int | None = None, notes: Mapping[str, Any] | None = None
) -> Trace:
    """Make a reader's trace, named after its file; `traces.readers.load` settles, sorts and checks it.

    columns : arrays (requests,) by schema name, as `traces.schema.build` takes them
    """
    return assemble(path.name, columns, block_tokens, {"source": path.name, **(notes or {})})


def settle_zeros(trace: Trace, rule: str) -> Trace:
    """Return the trace without rows of 0 tokens, which did no work that can be replayed.

    rule    : "refuse" raises, "drop" leaves the rows out, "one" counts one token in place of none
    returns : Trace whose notes say rule, number of rows and the first one
    raises  : TraceError naming the first such row
    """
    if rule not in ZERO_TOKENS:
        raise TraceError(f"zero_tokens must be one of {', '.join(ZERO_TOKENS)}, but got '{rule}'.")
    prompts, outputs = trace.column("prompt_tokens"), trace.column("output_tokens")
    zero = (prompts == 0) | (outputs == 0)
    if not zero.any():
        return trace
    row, count = int(np.argmax(zero)), int(zero.sum())
    notes = {"zero_tokens": {"rule": rule, "rows": count, "first_row": row}}
    if rule == "refuse":
        raise TraceError(
            f"prompt_tokens and output_tokens must be at least 1, but request {row} has {prompts[row]} and "
            f"{outputs[row]}; {count} request(s) in all have a 0 ({trace.name}). "
            "Read with zero_tokens=drop to leave them out, or zero_tokens=one to count 1."
        )
    if rule == "drop":
        return rebuild(trace, take(trace, np.flatnonzero(~zero)).table, notes)
    table = trace.table
    for name, values in (("prompt_tokens", prompts), ("output_tokens", outputs)):
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.array(np.maximum(values, values == 0).astype(np.int32)))
    return rebuild(trace, table, notes)


def seconds(values: np.ndarray) -> np.ndarray:
    """Return arrivals counted from the first one, (requests,) float64 [s]."""
    values = np.asarray(values, np.float64)
    return values - values.min() if len(values) else values


def refuse_nulls(path: Path, table: pa.Table, optional: tuple[str, ...]) -> pa.Table:
    """Return the table if only `optional` columns hold nulls, else raise TraceError naming column and row."""
    for name in table.column_names:
        if name not in optional and table[name].null_count:
            row = int(np.argmax(table[name].is_null().to_numpy(zero_copy_only=False)))
            raise TraceError(
                f"every request must have '{name}', but request {row} of {path.name} has none. Mend or drop the row."
            )
    return table


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, without its full stop."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def unreadable(path: Path, rule: str, reason: str) -> TraceError:
    """Return the error for a file that is not of its format: rule, what was found, remedy."""
    return TraceError(
        f"the file must hold {rule} with this format's fields, but {path.name} does not: {reason}. "
        "Check --format, or fetch the file again."
    )

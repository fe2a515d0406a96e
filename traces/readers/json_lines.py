"""JSON lines, parsed by the standard library: Arrow's own JSON parser can crash the process on damaged bytes."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from traces.errors import TraceError
from traces.readers.source import first_line, read_bytes, refuse_nulls, unreadable

CHUNK_RECORDS = 4096  # Python objects of this many records are alive at once
RULE = "a JSON record a line"


def read_json_lines(path: Path, schema: Mapping[str, pa.DataType], optional: tuple[str, ...] = ()) -> pa.Table:
    """Parse JSON lines, keeping the fields of `schema`; blank lines do not count.

    optional : fields that a record may lack; they are null there
    raises   : TraceError naming the line that is not such a record
    """
    wanted = pa.schema(schema.items())
    numbered = _records(path, read_bytes(path))
    tables = []
    while chunk := list(islice(numbered, CHUNK_RECORDS)):
        try:
            tables.append(pa.Table.from_pylist([record for _, record in chunk], wanted))
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            raise _first_misfit(path, chunk, wanted) from None
    return refuse_nulls(path, pa.concat_tables(tables).combine_chunks(), optional)


def read_any_json(path: Path) -> pa.Table:
    """Parse JSON lines whose fields are those of the first record, types as found."""
    return pa.Table.from_pylist([record for _, record in _records(path, read_bytes(path))])


def json_keys(head: bytes) -> set[str]:
    """Return the keys of the first JSON record of a file's head, empty if it is none or is cut off."""
    first = head.lstrip().split(b"\n", 1)[0]
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        return set()
    return set(record) if isinstance(record, dict) else set()


def _records(path: Path, data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, record)."""
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise unreadable(path, RULE, f"line {number}: {first_line(error)}") from None
        if not isinstance(record, dict):
            raise unreadable(path, RULE, f"line {number} is no record")
        yield number, record


def _first_misfit(path: Path, chunk: list[tuple[int, dict[str, Any]]], schema: pa.Schema) -> TraceError:
    for number, record in chunk:
        for field in schema:
            try:
                pa.array([record.get(field.name)], field.type)
            except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
                return unreadable(path, RULE, f"line {number}: '{field.name}' is no {field.type} ({first_line(error)})")
    return unreadable(path, RULE, f"lines {chunk[0][0]} to {chunk[-1][0]}")

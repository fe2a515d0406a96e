"""Our own trace files: uncompressed Arrow IPC, memory-mapped."""

from pathlib import Path

import pyarrow as pa

from traces.errors import TraceError
from traces.readers.source import first_line
from traces.schema import LABELS, Trace, check, restore

MAGIC = b"ARROW1"
PRIORITY = -1


def sniff(head: bytes, path: Path) -> bool:
    if not head.startswith(MAGIC):
        return False
    try:
        with pa.memory_map(str(path)) as file:
            return b"kvreplay" in (pa.ipc.open_file(file).schema.metadata or {})
    except (pa.ArrowException, OSError):
        return b"kvreplay" in head


def read(path: Path, verify: bool = False) -> Trace:
    """Map an imported trace into memory: no column is copied, none is read before it is used.

    A file that an import checked and wrote is trusted to have chained ids; all other rules are checked again.

    verify : also recompute the content's digest and compare it with the one written at import
    raises : TraceError if the file is damaged
    """
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        table.validate()
        for name in set(LABELS) & set(table.column_names):
            for chunk in table.column(name).chunks:
                if pa.types.is_dictionary(chunk.type):
                    chunk.dictionary.validate(full=True)  # text that is no UTF-8 would fail much later
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise TraceError(
            f"an Arrow trace must be whole, but {path.name} is damaged ({first_line(error)}). Import it again."
        ) from None
    trace = restore(table, path.name)
    if verify and check(trace).digest(recompute=True) != trace.digest():
        raise TraceError(
            f"the content must have the digest written at import, but {path.name} has not. Import it again."
        )
    return trace


def trusted(trace: Trace) -> bool:
    """Say whether the file was checked when it was written; any change to the table drops the mark."""
    return b"digest" in (trace.table.schema.metadata or {})

"""Import: any trace file in, one memory-mappable Arrow file and its prefix trie out."""

import errno
import os
from pathlib import Path
from typing import Any

import pyarrow as pa

from traces.errors import TraceError
from traces.readers import load
from traces.schema import LABELS, Trace


def import_trace(
    source: str | Path,
    target: str | Path,
    format: str | None = None,
    columns: dict[str, str] | None = None,
    **options: Any,
) -> Trace:
    """Read and check a trace, write it as Arrow IPC with its compressed trie beside it, and return it.

    source, format, columns, options : as `traces.load`
    target  : file to write; the trie goes to `sidecar(target)`
    returns : the trace as written
    raises  : TraceError as `load`, and if the target cannot be written; then nothing is left half-written
    """
    return write_trace(load(source, format, columns, **options), target)


def sidecar(path: str | Path) -> Path:
    """Return the path of a trace file's compressed trie."""
    return Path(f"{path}.trie.arrow")


def write_trace(trace: Trace, target: str | Path) -> Trace:
    """Write a checked trace as uncompressed Arrow IPC, one record batch, and its trie as `sidecar(target)`.

    Both are written under temporary names and renamed when whole, the trie first: a reader compares its digest.
    """
    from traces import trie

    target = Path(target)
    if target.suffix != ".arrow":
        raise TraceError(f"an imported trace must be named *.arrow, but got {target.name}. Rename the target.")
    digest = trace.digest(recompute=True)
    table = _one_batch(trace.table)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"digest": digest.encode()})
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        if "prefix_blocks" in trace:
            trie.save(trie.compress(trace), sidecar(target), digest)
        else:
            sidecar(target).unlink(missing_ok=True)
        os.replace(temporary, target)
    except OSError as error:
        full = error.errno == errno.ENOSPC
        remedy = "Free some space." if full else "Choose another target."
        raise TraceError(
            f"the trace cannot be written to {target}: {error.strerror or error}. Nothing was left behind. {remedy}"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    return Trace(table, target.name, trace.block_tokens)


def _one_batch(table: pa.Table) -> pa.Table:
    """Return the table in one chunk a column, its dictionaries without values that no row uses."""
    for name in LABELS:
        if name in table.column_names:
            place = table.column_names.index(name)
            values = table.column(name).cast(pa.string()).combine_chunks().dictionary_encode()
            table = table.set_column(place, table.schema.field(name), values)
    return table.combine_chunks()

"""The event log of a replay: from the kernel's rows to an Arrow file."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from replay.engine.schema import EVENT, KINDS

SCHEMA = pa.schema(
    [
        ("time_ps", pa.int64()),
        ("kind", pa.dictionary(pa.int8(), pa.string())),
        ("request", pa.int32()),
        ("instance", pa.int32()),  # null where the event concerns none
        ("value", pa.int64()),
    ]
)


def to_table(log: Iterable[np.ndarray]) -> pa.Table:
    """Turn drained pieces of the log into one table, in the order in which the events happened.

    log     : arrays of EVENT rows, read only
    returns : pyarrow.Table with the columns of `SCHEMA`
    """
    return pa.Table.from_batches([_batch(rows) for rows in log], SCHEMA)


def write(table: pa.Table, path: Path) -> None:
    """Write the table as uncompressed Arrow IPC, which a reader can map into memory."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def read(path: Path) -> pa.Table:
    """Return the table of an events.arrow file, memory-mapped."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def _batch(rows: np.ndarray) -> pa.RecordBatch:
    if rows.dtype != EVENT:
        raise TypeError(f"the log must hold EVENT rows, but holds {rows.dtype}")
    kind = pa.DictionaryArray.from_arrays(pa.array(rows["kind"].astype(np.int8)), pa.array(KINDS, pa.string()))
    instance = np.ascontiguousarray(rows["instance"])
    columns = [
        pa.array(np.ascontiguousarray(rows["time_ps"])),
        kind,
        pa.array(np.ascontiguousarray(rows["request"])),
        pa.array(instance, mask=instance < 0),
        pa.array(np.ascontiguousarray(rows["value"])),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)

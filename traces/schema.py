"""The trace: one Arrow table of requests in arrival order, its columns and their types."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from traces.errors import TraceError

VERSION = "1"
STRING = pa.dictionary(pa.int32(), pa.string())

# name -> Arrow type, in the order in which files and digests hold the columns.
COLUMNS: dict[str, pa.DataType] = {
    "arrival_s": pa.float64(),  # seconds from the start of the trace, sorted
    "prompt_tokens": pa.int32(),
    "output_tokens": pa.int32(),
    "prefix_blocks": pa.list_(pa.int64()),  # chained ids: equal id = equal block and equal everything before it
    "tier": STRING,
    "tenant": STRING,
    "session": STRING,
    "kind": STRING,
    "parent": pa.int64(),  # row that must finish first, -1 none
    "think_s": pa.float64(),  # wait after the parent finished; 0 without a parent
    "ttft_s": pa.float64(),  # recorded outcome, NaN where not recorded
    "e2e_s": pa.float64(),  # recorded outcome, NaN where not recorded
    "images": pa.int32(),  # in the prompt, whose tokens they are part of
}
REQUIRED = ("arrival_s", "prompt_tokens", "output_tokens")
LABELS = tuple(name for name, kind in COLUMNS.items() if kind == STRING)


@dataclass(frozen=True, eq=False)
class Trace:
    """A table of requests in arrival order.

    table        : pyarrow.Table with the columns of `COLUMNS` that the source has; rows sorted by arrival_s
    name         : what messages and reports call it
    block_tokens : tokens per prefix block, None without prefix_blocks
    """

    table: pa.Table
    name: str
    block_tokens: int | None = None

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __contains__(self, name: str) -> bool:
        return name in self.table.column_names

    def column(self, name: str) -> np.ndarray:
        """Return one column as numpy, read only and without a copy where Arrow allows it.

        returns : (requests,) float64/int32/int64; label columns as object strings
        raises  : TraceError if the trace has no such column
        """
        array = self._array(name)
        if pa.types.is_dictionary(array.type):
            return array.dictionary.to_numpy(zero_copy_only=False)[self.codes(name)]
        return array.to_numpy(zero_copy_only=False)

    def codes(self, name: str) -> np.ndarray:
        """Return a label column's codes into `labels(name)`, (requests,) int32."""
        return self._array(name).indices.to_numpy(zero_copy_only=False)

    def labels(self, name: str) -> list[str]:
        """Return the values that a label column's codes point at, in the order of the codes."""
        return self._array(name).dictionary.to_pylist()

    def prefix(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the prefix blocks as (offsets, ids): request r has ids[offsets[r]:offsets[r + 1]].

        returns : offsets (requests + 1,) int64, starting at 0; ids (blocks,) int64, read only
        raises  : TraceError if the trace has no prefix_blocks
        """
        array = self._array("prefix_blocks")
        offsets = array.offsets.to_numpy().astype(np.int64)
        ids = array.values.slice(offsets[0], offsets[-1] - offsets[0]) if len(array) else array.values
        return offsets - offsets[0], ids.to_numpy(zero_copy_only=False)

    @property
    def notes(self) -> dict[str, Any]:
        """What the reader or generator wrote down about the trace (rows dropped, choices made)."""
        return json.loads((self.table.schema.metadata or {}).get(b"notes", b"{}"))

    def digest(self, recompute: bool = False) -> str:
        """Return a sha256 over the content: equal requests give equal digests, whatever their file's encoding.

        The name and the notes do not count; labels count by value, not by dictionary order. An imported file carries
        its digest, which is returned without reading the columns unless `recompute`.
        """
        stored = (self.table.schema.metadata or {}).get(b"digest")
        if stored and not recompute:
            return stored.decode(errors="replace")
        whole = hashlib.sha256(f"{len(self)} {self.block_tokens}".encode())
        for name in COLUMNS:
            if name not in self:
                continue
            whole.update(f"\n{name}:".encode())
            for part in self._canonical(name):
                whole.update(np.ascontiguousarray(part).data)
        return whole.hexdigest()

    def _canonical(self, name: str) -> list[Any]:
        if name == "prefix_blocks":
            return list(self.prefix())
        if name not in LABELS:
            return [self.column(name)]
        codes = self.codes(name)
        used, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty(len(used), np.int32)
        rank[order] = np.arange(len(used), dtype=np.int32)
        labels = self.labels(name)
        text = json.dumps([labels[used[i]] for i in order]).encode()
        return [np.frombuffer(text, np.uint8), rank[inverse]]

    def _array(self, name: str) -> Any:
        if name not in self:
            raise TraceError(
                f"a column is missing: '{name}' is not in {self.name}, which has "
                f"{', '.join(self.table.column_names)}. Import a trace that records it, or map it with columns=."
            )
        column = self.table.column(name)
        if column.num_chunks == 1:
            return column.chunk(0)
        return pa.chunked_array(column.unify_dictionaries() if name in LABELS else column).combine_chunks()


def build(
    name: str,
    columns: Mapping[str, Any],
    block_tokens: int | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Trace:
    """Make a checked trace from columns of any array type.

    columns : name of `COLUMNS` -> numpy array, list, Arrow array or Polars series, all (requests,);
              prefix_blocks also as the pair (offsets (requests + 1,), ids (blocks,))
    notes   : anything JSON can hold, kept in the schema metadata
    returns : Trace that passed `check`
    raises  : TraceError as `check` does, and for values that do not fit their column's type
    """
    return check(assemble(name, columns, block_tokens, notes))


def assemble(
    name: str,
    columns: Mapping[str, Any],
    block_tokens: int | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Trace:
    """Make a trace as `build` does, without the check (for tools that repair traces)."""
    unknown = sorted(set(columns) - set(COLUMNS))
    if unknown:
        raise TraceError(f"a trace has only the columns {', '.join(COLUMNS)}, but got '{unknown[0]}' ({name}).")
    arrays = {}
    for column, kind in COLUMNS.items():
        if column in columns:
            arrays[column] = _to_arrow(name, column, columns[column], kind)
    lengths = {column: len(array) for column, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise TraceError(f"all columns must have one length, but got {lengths} ({name}).")
    return _with_metadata(pa.table(arrays), name, block_tokens, dict(notes or {}))


def rebuild(trace: Trace, table: pa.Table, notes: Mapping[str, Any] | None = None) -> Trace:
    """Return `trace` with another table and more notes; name, block size and earlier notes stay."""
    return _with_metadata(table, trace.name, trace.block_tokens, {**trace.notes, **(notes or {})})


def restore(table: pa.Table, name: str) -> Trace:
    """Return the trace that a table read from our own file holds, not checked.

    raises : TraceError if the metadata is not what an import wrote
    """
    metadata = table.schema.metadata or {}
    try:
        if metadata[b"kvreplay"].decode() != VERSION or not isinstance(json.loads(metadata[b"notes"]), dict):
            raise KeyError
        block_tokens = int(metadata[b"block_tokens"]) if b"block_tokens" in metadata else None
    except (KeyError, ValueError):
        raise TraceError(
            f"an Arrow trace must carry the metadata of version {VERSION}, but {name} does not. "
            "Import it again from its source, or read it with --format table."
        ) from None
    return Trace(table, name, block_tokens)


def _with_metadata(table: pa.Table, name: str, block_tokens: int | None, notes: dict[str, Any]) -> Trace:
    metadata = {"kvreplay": VERSION, "name": name, "notes": json.dumps(notes, sort_keys=True)}
    if block_tokens is not None:
        metadata["block_tokens"] = str(int(block_tokens))
    return Trace(table.replace_schema_metadata(metadata), name, block_tokens)


def _to_arrow(name: str, column: str, values: Any, kind: pa.DataType) -> pa.Array:
    if column == "prefix_blocks" and isinstance(values, tuple):
        offsets, ids = (np.asarray(part) for part in values)
        if len(ids) >= 2**31:
            raise TraceError(f"a trace holds at most 2^31 - 1 prefix blocks, but got {len(ids)} ({name}). Split it.")
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(ids, pa.int64()))
    if hasattr(values, "to_arrow"):
        values = values.to_arrow()
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if kind in (pa.int32(), pa.int64()):
        _refuse_non_integers(name, column, values, kind)
    try:
        array = values if isinstance(values, pa.Array) else pa.array(values)
        if kind == STRING:
            plain = array if pa.types.is_dictionary(array.type) else array.cast(pa.string()).dictionary_encode()
            return plain.cast(kind)
        return array if array.type == kind else array.cast(kind)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise TraceError(f"column '{column}' must hold {kind} values: {reason} ({name}).") from None


def _refuse_non_integers(name: str, column: str, values: Any, kind: pa.DataType) -> None:
    """Raise TraceError with the row of the first number that is no whole number or does not fit the column."""
    if isinstance(values, pa.Array) and values.null_count:
        return  # the cast keeps nulls, and the rules name their row
    numbers = values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else np.asarray(values)
    if numbers.dtype.kind not in "iuf" or numbers.dtype == kind.to_pandas_dtype():
        return
    top = np.iinfo(kind.to_pandas_dtype()).max
    with np.errstate(invalid="ignore"):
        bad = ~((numbers >= -top) & (numbers <= top))
        if numbers.dtype.kind == "f":
            bad |= numbers != np.floor(numbers)
    if bad.any():
        row = int(np.argmax(bad))
        raise TraceError(
            f"{column} must be a whole number of at most {top}, but request {row} has {numbers[row]} ({name}). "
            "Mend or drop the row."
        )


def check(trace: Trace, chains: bool = True) -> Trace:
    """Return the trace if it keeps every rule of `traces.rules`, else raise TraceError with one sentence.

    chains : False leaves out the walk over all prefix ids (for files that an import already checked)
    """
    from traces.rules import check_rules

    return check_rules(trace, chains)

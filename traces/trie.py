"""The compressed prefix trie of a trace: built once, stored beside the trace, read by every replay.

A trace's block ids are chained (equal id = equal block and equal everything before it), so the ids alone give the
whole prefix tree. A node is a maximal run of blocks that no request splits; a request is a list of whole nodes.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from traces.errors import TraceError
from traces.schema import Trace, rebuild
from traces.trie_kernels import (
    UNSEEN,
    cut,
    link,
    next_rows,
    number_hashed,
    number_plain,
    path_lengths,
    preorder,
    previous_rows,
    rehash,
)

VERSION = "2"
CHUNK_BLOCKS = 1 << 22
FIELDS = ("parent", "blocks", "start_blocks", "leaf")


class Trie(NamedTuple):
    """A prefix trie whose nodes are runs of blocks.

    parent       : (nodes,) int32, the node before, -1 for a root; parent[n] < n. A chain's nodes stand together
                   (preorder), so that a walk along a prompt stays in a few cache lines
    blocks       : (nodes,) int32 [trace blocks], at least 1
    start_blocks : (nodes,) int32 [trace blocks] before the node on its chain
    leaf         : (requests,) int32, the last node of each request, -1 without a full block
    block_tokens : tokens per block; 0 for a trace without prefix_blocks
    tails        : (requests,) int32, the last node of prompt and output; None where only prompts are there
    """

    parent: np.ndarray
    blocks: np.ndarray
    start_blocks: np.ndarray
    leaf: np.ndarray
    block_tokens: int
    tails: np.ndarray | None = None

    def path(self, request: int) -> list[int]:
        """List the nodes of a request from its root to its leaf."""
        nodes = []
        node = int(self.leaf[request])
        while node >= 0:
            nodes.append(node)
            node = int(self.parent[node])
        return nodes[::-1]


def full_blocks(trace: Trace) -> np.ndarray:
    """Count the cacheable blocks of each request: its full blocks that have an id.

    returns : (requests,) int64; a last, partial block (Mooncake lists one) does not count
    """
    offsets, _ = trace.prefix()
    if not trace.block_tokens or trace.block_tokens < 1:
        raise TraceError(
            f"prefix blocks need a size: block_tokens of {trace.name} is {trace.block_tokens}. "
            "Import the trace with its block_tokens."
        )
    return np.minimum(np.diff(offsets), trace.column("prompt_tokens") // trace.block_tokens)


def compress(trace: Trace) -> Trie:
    """Build the trie of a trace in one pass over its block ids.

    trace   : prefix_blocks may be absent: then no node, every leaf -1
    returns : Trie
    raises  : TraceError if an id follows two different ids, or a request repeats an id: such ids are not chained
    cost    : O(block references), tens of ns each; 12 bytes per unique block while it runs
    source  : own; radix tree as in SGLang's RadixAttention (Zheng et al., NeurIPS 2024), but offline
    """
    if "prefix_blocks" not in trace or len(trace) == 0:
        empty = np.empty(0, np.int32)
        return Trie(empty, empty, empty, np.full(len(trace), -1, np.int32), trace.block_tokens or 0)
    offsets, ids = trace.prefix()
    return Trie(*nodes_of(offsets, full_blocks(trace), ids, trace.name), int(trace.block_tokens or 0))


def nodes_of(
    offsets: np.ndarray, counts: np.ndarray, ids: np.ndarray, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the nodes of the trie of some chains: parent, blocks, start_blocks and leaf of `Trie`.

    offsets, counts : int64 (chains + 1,) and (chains,); chain c has ids[offsets[c] : offsets[c] + counts[c]]
    name            : of the trace, for messages
    raises          : TraceError as `compress`
    """
    last, previous, children, ends = _link_all(name, offsets, counts, ids)
    node_of, parent, blocks, start_blocks = cut(previous, children, ends)
    leaf = np.full(len(counts), -1, np.int32)
    number = preorder(parent)
    leaf[last >= 0] = number[node_of[last[last >= 0]]]
    order = np.argsort(number)
    above = np.where(parent < 0, np.int32(-1), number[parent])
    return above[order], blocks[order], start_blocks[order], leaf


def isolated(trace: Trace) -> Trace:
    """Return the trace with prefix ids that no two tenants share; without tenants, the trace itself.

    returns : Trace whose ids are dense, for `compress`
    """
    if "tenant" not in trace or "prefix_blocks" not in trace or len(trace) == 0:
        return trace
    offsets, ids = trace.prefix()
    dense = np.unique(ids, return_inverse=True)[1].astype(np.int64)
    tenants = np.repeat(trace.codes("tenant").astype(np.int64), np.diff(offsets))
    salted = tenants * (int(dense.max(initial=0)) + 1) + dense
    column = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(salted, pa.int64()))
    place = trace.table.column_names.index("prefix_blocks")
    return rebuild(trace, trace.table.set_column(place, "prefix_blocks", column))


def next_uses(trie: Trie) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what only an oracle may know: when the nodes of each path are used next.

    returns : next_row int64 (all path nodes + 1,), row of the next request that has the node, -1 if none, leaf first;
              path_first int64 (requests,), where a request's nodes begin; first_row int64 (nodes,)
    """
    first = np.concatenate(([0], np.cumsum(path_lengths(np.asarray(trie.parent), np.asarray(trie.leaf)))))
    rows, following = next_rows(np.asarray(trie.parent), np.asarray(trie.leaf), first)
    return rows, first[:-1].copy(), following


def prefix_ids(trie: Trie, depths: Sequence[int]) -> np.ndarray:
    """Return what tells prompts apart in their first blocks, int64 (requests, len(depths)).

    depths  : trace blocks, ascending
    returns : equal for two prompts that agree in so many blocks, whatever other prompts there are; one that is shorter
              has the id of all its blocks, one without blocks -1
    """
    requests = len(trie.leaf)
    ids = np.full((requests, len(depths)), -1, np.int64)
    if not len(trie.parent):
        return ids
    node = np.array(trie.leaf, np.int64)
    parent, start = np.asarray(trie.parent, np.int64), np.asarray(trie.start_blocks, np.int64)
    there = np.flatnonzero(node >= 0)
    end = np.zeros(requests, np.int64)
    end[there] = start[node[there]] + np.asarray(trie.blocks, np.int64)[node[there]]
    for k in reversed(range(len(depths))):
        depth = np.minimum(depths[k], end)
        while len(below := there[start[node[there]] >= depth[there]]):
            node[below] = parent[node[below]]
        ids[there, k] = (node[there] << 32) + depth[there]
    return ids


def previous(trie: Trie) -> tuple[np.ndarray, np.ndarray]:
    """Return the last earlier request that shares the most blocks with each, -1 if none; and how many blocks.

    returns : rows int64 (requests,), blocks int64 (requests,); neither depends on later requests
    """
    end = np.asarray(trie.start_blocks, np.int64) + np.asarray(trie.blocks, np.int64)
    return previous_rows(np.asarray(trie.parent), np.asarray(trie.leaf), end)


def save(trie: Trie, path: str | os.PathLike[str], digest: str) -> None:
    """Write a trie as uncompressed Arrow IPC, under a temporary name that is renamed when complete.

    digest : `trace.digest()` of the trace it was built from; `load` compares it
    raises : TraceError if the folder cannot be written
    """
    arrays = [pa.LargeListArray.from_arrays([0, len(part)], pa.array(part, pa.int32())) for part in trie[:4]]
    metadata = {"kvreplay_trie": VERSION, "block_tokens": str(trie.block_tokens), "trace_digest": digest}
    table = pa.table(dict(zip(FIELDS, arrays, strict=True))).replace_schema_metadata(metadata)
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        os.replace(temporary, target)
    except OSError as error:
        raise TraceError(f"the trie sidecar {target} cannot be written: {error.strerror or error}.") from None
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], digest: str | None = None) -> Trie:
    """Map a saved trie into memory, zero copy.

    digest  : `trace.digest()` of the trace it will be used with; None trusts the file
    returns : Trie of read-only arrays
    raises  : TraceError if the file is missing, is no trie, or belongs to another trace
    """
    remedy = "Import the trace again."
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except FileNotFoundError:
        raise TraceError(f"the trie sidecar {path} does not exist. {remedy}") from None
    except (pa.ArrowException, OSError):
        raise TraceError(f"the trie sidecar {path} is not an Arrow file, or is cut off. {remedy}") from None
    metadata = table.schema.metadata or {}
    if metadata.get(b"kvreplay_trie") != VERSION.encode() or tuple(table.column_names) != FIELDS:
        raise TraceError(f"the trie sidecar {path} is not a version {VERSION} trie. {remedy}")
    stored = metadata[b"trace_digest"].decode()
    if digest is not None and stored != digest:
        raise TraceError(
            f"a trie sidecar must belong to its trace: {path} was built from a trace with digest {stored[:12]}, "
            f"but this one has {digest[:12]}. {remedy}"
        )
    parent, blocks, start_blocks, leaf = (table.column(name).chunk(0).values.to_numpy() for name in FIELDS)
    return Trie(parent, blocks, start_blocks, leaf, int(metadata[b"block_tokens"]))


def _link_all(
    name: str, offsets: np.ndarray, counts: np.ndarray, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Number the blocks by first appearance and find each one's predecessor, chunk by chunk.

    returns : last (requests,) int32 dense block or -1; then per dense block: previous int32, children uint8 (0, 1 or
              2 for more), ends bool (some request stops after it)
    """
    dense = _Numbering(ids)
    previous, children = np.empty(0, np.int32), np.empty(0, np.uint8)
    last = np.full(len(counts), -1, np.int32)
    for first, stop in _chunks(counts):
        total = int(counts[first:stop].sum())
        references = np.empty(total, np.int32)
        known = dense.number(offsets[first : stop + 1], counts[first:stop], ids, references)
        if known > len(previous):
            grown = max(known, 2 * len(previous))
            previous = _grow(previous, grown, UNSEEN)
            children = _grow(children, grown, 0)
        bad = link(counts[first:stop], references, previous, children, last[first:stop])
        if bad[0] >= 0:
            row, place = first + int(bad[0]), int(bad[1])
            raise TraceError(
                f"prefix block ids must be chained: id {ids[offsets[row] + place]} (request {row}, block {place}) "
                f"follows two different blocks ({name}). Give equal ids only to equal prefixes."
            )
    ends = np.zeros(dense.known, np.bool_)
    ends[last[last >= 0]] = True
    return last, previous[: dense.known], children[: dense.known], ends


def _chunks(counts: np.ndarray) -> list[tuple[int, int]]:
    """Split the requests into ranges of about CHUNK_BLOCKS block references, at least one request each."""
    total = np.cumsum(counts)
    marks = np.arange(CHUNK_BLOCKS, total[-1] + CHUNK_BLOCKS, CHUNK_BLOCKS)
    cuts = np.unique(np.minimum(np.searchsorted(total, marks, side="left") + 1, len(counts)))
    edges = [0, *(int(cut) for cut in cuts)]
    if edges[-1] < len(counts):
        edges.append(len(counts))
    return list(zip(edges[:-1], edges[1:], strict=True))


def _grow(array: np.ndarray, size: int, fill: int) -> np.ndarray:
    grown = np.full(size, fill, array.dtype)
    grown[: len(array)] = array
    return grown


class _Numbering:
    """Dense numbers for 64-bit ids by first appearance: a plain table for compact ids, else a hash table."""

    def __init__(self, ids: np.ndarray) -> None:
        self.known = 0
        self.low = int(ids.min()) if len(ids) else 0
        high = int(ids.max()) if len(ids) else 0
        self.plain = high - self.low < max(4 * len(ids), 1024) and high - self.low < 2**31
        self.table = np.full(high - self.low + 1 if self.plain else 1024, -1, np.int32)
        self.keys = np.empty(0 if self.plain else 1024, np.int64)

    def number(self, offsets: np.ndarray, counts: np.ndarray, ids: np.ndarray, references: np.ndarray) -> int:
        """Write the dense numbers of a chunk into `references` (modified in place); return how many are known."""
        if self.plain:
            self.known = number_plain(offsets, counts, ids, (self.low, self.known), self.table, references)
            return self.known
        need = 2 * (self.known + len(references))
        if need > len(self.table):
            size = 1 << (need - 1).bit_length()
            keys, table = np.empty(size, np.int64), np.full(size, -1, np.int32)
            with np.errstate(over="ignore"):
                rehash(self.keys, self.table, keys, table)
            self.keys, self.table = keys, table
        with np.errstate(over="ignore"):  # hashing wraps, which NumPy would warn of where the loops are interpreted
            self.known = number_hashed(offsets, counts, ids, self.known, (self.keys, self.table), references)
        return self.known

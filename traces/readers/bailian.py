"""Qwen Bailian usage traces: JSON lines of chat turns with 16-token block hashes."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from traces.readers.chain import chain_lists
from traces.readers.json_lines import json_keys, read_json_lines
from traces.readers.source import unchecked
from traces.schema import Trace
from traces.window import roots_of

FIELDS = {
    "chat_id": pa.int64(),
    "parent_chat_id": pa.int64(),
    "timestamp": pa.float64(),
    "input_length": pa.int64(),
    "output_length": pa.int64(),
    "type": pa.string(),
    "turn": pa.int64(),
    "hash_ids": pa.list_(pa.int64()),
}


def sniff(head: bytes, path: Path) -> bool:
    return json_keys(head) >= {"chat_id", "parent_chat_id", "timestamp", "hash_ids"}


def read(path: Path, block_tokens: int = 16) -> Trace:
    """Read a Bailian trace.

    A turn's session is the first turn of its chain of parents. The times between turns include the answer's service,
    which the trace does not record, so turns stay open loop at their recorded arrivals (no `parent` column).
    Its hashes are described as per block, not per prefix, so they are chained here; ids chained already stay as unique.

    block_tokens : tokens of one hash id (the files' names say blksz_16)
    source       : Wang et al., USENIX ATC 2025; alibaba-edu/qwen-bailian-usagetraces-anon
    """
    table = read_json_lines(path, FIELDS, optional=("turn",))
    parent = parent_rows(np.asarray(table["chat_id"]), np.asarray(table["parent_chat_id"]))
    first_chat = np.asarray(table["chat_id"])[roots_of(parent)]
    columns = {
        "arrival_s": table["timestamp"],
        "prompt_tokens": table["input_length"],
        "output_tokens": table["output_length"],
        "prefix_blocks": chain_lists(table["hash_ids"]),
        "session": pa.array(first_chat).cast(pa.string()),
        "kind": table["type"],
    }
    return unchecked(path, columns, block_tokens, {"format": "bailian", "closed_loop": False})


def parent_rows(chats: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """Return the row of each chat's parent, -1 without one before it in the file.

    chats   : (requests,) ids; of equal ones the first counts
    parents : (requests,) ids
    returns : (requests,) int64, always an earlier row
    """
    known, first = np.unique(chats, return_index=True)
    place = np.minimum(np.searchsorted(known, parents), len(known) - 1)
    rows = np.where(known[place] == parents, first[place], -1)
    return np.where(rows < np.arange(len(rows)), rows, -1)

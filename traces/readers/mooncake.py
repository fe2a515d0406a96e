"""Mooncake traces (FAST'25 release): JSON lines with 512-token prefix hashes."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from traces.readers.chain import chain_lists
from traces.readers.json_lines import json_keys, read_json_lines
from traces.readers.source import unchecked
from traces.schema import Trace

FIELDS = {
    "timestamp": pa.float64(),
    "input_length": pa.int64(),
    "output_length": pa.int64(),
    "hash_ids": pa.list_(pa.int64()),
}


def sniff(head: bytes, path: Path) -> bool:
    keys = json_keys(head)
    return keys >= set(FIELDS) and not keys & {"chat_id", "session_id"}


def read(path: Path, block_tokens: int = 512, content_ids: bool = False) -> Trace:
    """Read a Mooncake trace.

    Timestamps are milliseconds in batches of about 3 s; arrivals keep them, ties in file order. All ids are kept,
    the one of the last, partial block included.

    block_tokens : tokens of one hash id
    content_ids  : the ids name each block's content only, so chain them (for other files of this shape)
    source       : Qin et al., FAST 2025; kvcache-ai/Mooncake, FAST25-release/traces
    """
    table = read_json_lines(path, FIELDS)
    columns = {
        "arrival_s": np.asarray(table["timestamp"]) / 1e3,
        "prompt_tokens": table["input_length"],
        "output_tokens": table["output_length"],
        "prefix_blocks": chain_lists(table["hash_ids"]) if content_ids else table["hash_ids"],
    }
    return unchecked(path, columns, block_tokens, {"format": "mooncake", "ties": "file order"})

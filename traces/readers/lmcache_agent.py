"""LMCache agent traces: agent runs with wall-clock call times and 64-token prefix hashes."""

from pathlib import Path

import numpy as np

from traces.readers.chain import renumber
from traces.readers.source import parquet_columns, read_parquet, seconds, unchecked
from traces.schema import Trace

COLUMNS = ("suite", "session_id", "timestamp_us", "input_length", "output_length", "hash_ids")
SORT = True
ZERO_TOKENS = "drop"  # calls whose prompt the source did not keep


def sniff(head: bytes, path: Path) -> bool:
    return head.startswith(b"PAR1") and parquet_columns(path) >= set(COLUMNS)


def read(path: Path, block_tokens: int = 64) -> Trace:
    """Read agent runs; arrivals count from the earliest call, open loop, since no service times were recorded.

    source : LMCache/lmcache-agent-trace
    """
    table = read_parquet(path, COLUMNS)
    columns = {
        "arrival_s": seconds(np.asarray(table["timestamp_us"]) / 1e6),
        "prompt_tokens": table["input_length"],
        "output_tokens": table["output_length"],
        "prefix_blocks": renumber(table["hash_ids"]),
        "session": table["session_id"],
        "kind": table["suite"],
    }
    return unchecked(path, columns, block_tokens, {"format": "lmcache_agent", "closed_loop": False})

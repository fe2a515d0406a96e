"""Processed length lists with arrivals, as simulators publish them: one CSV row a request."""

from pathlib import Path

import pyarrow as pa

from traces.readers.source import csv_header, read_csv, unchecked
from traces.schema import Trace

FIELDS = {"arrived_at": pa.float64(), "num_prefill_tokens": pa.int64(), "num_decode_tokens": pa.int64()}


def sniff(head: bytes, path: Path) -> bool:
    return set(csv_header(head)) >= set(FIELDS)


def read(path: Path) -> Trace:
    """Read a length list with arrival seconds.

    source : microsoft/vidur, data/processed_traces
    """
    table = read_csv(path, FIELDS)
    columns = dict(zip(("arrival_s", "prompt_tokens", "output_tokens"), table.columns, strict=True))
    return unchecked(path, columns, notes={"format": "lengths"})

"""BurstGPT traces: CSV of ChatGPT and GPT-4 requests on Azure, some of them failed."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from traces.readers.source import csv_header, read_csv, seconds, unchecked
from traces.schema import Trace

FIELDS = {
    "Timestamp": pa.float64(),
    "Model": pa.string(),
    "Request tokens": pa.int64(),
    "Response tokens": pa.int64(),
    "Log Type": pa.string(),
    "Session ID": pa.string(),
    "Elapsed time": pa.float64(),
}
NEWER = ("Session ID", "Elapsed time")
ZERO_TOKENS = "drop"  # a request with 0 response tokens failed at the source


def sniff(head: bytes, path: Path) -> bool:
    return set(csv_header(head)) >= set(FIELDS) - set(NEWER)


def read(path: Path) -> Trace:
    """Read a BurstGPT trace; arrivals count from the earliest row, since later files start months in.

    `kind` is model and log type ("GPT-4, API log"); newer files give `session` and, as e2e_s, the elapsed time.

    source : Wang et al., BurstGPT (arXiv 2401.17644); HPMLL/BurstGPT releases
    """
    table = read_csv(path, FIELDS, optional=NEWER)
    kinds = pc.binary_join_element_wise(table["Model"], table["Log Type"], ", ")
    columns = {
        "arrival_s": seconds(table["Timestamp"]),
        "prompt_tokens": table["Request tokens"],
        "output_tokens": table["Response tokens"],
        "kind": kinds,
    }
    if "Session ID" in table.column_names:
        names = (name or f"row {row}" for row, name in enumerate(table["Session ID"].to_pylist()))
        columns["session"] = pa.array(list(names), pa.string())
    if "Elapsed time" in table.column_names:
        columns["e2e_s"] = table["Elapsed time"].fill_null(float("nan"))
    return unchecked(path, columns, notes={"format": "burstgpt"})

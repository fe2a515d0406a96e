"""Azure LLM inference traces of 2023 and 2024, multimodal ones of 2025: CSV with wall-clock times and lengths."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from traces.errors import TraceError
from traces.readers.source import csv_header, read_csv, unchecked
from traces.schema import Trace

FIELDS = {"TIMESTAMP": pa.string(), "ContextTokens": pa.int64(), "GeneratedTokens": pa.int64()}
IMAGES = "NumImages"
# 2023: "2023-11-16 18:17:03.9799600"; 2024: "2024-05-10 00:00:00.009930+00:00", whole seconds without a fraction.
CLOCK = r"^(?P<second>\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(?P<fraction>\d{1,9}))?(?P<zone>Z|[+-]\d\d:\d\d)?$"
NS = 1_000_000_000


def sniff(head: bytes, path: Path) -> bool:
    return set(csv_header(head)) >= set(FIELDS)


def read(path: Path) -> Trace:
    """Read an Azure trace; arrivals count from the earliest row, exact to the nanosecond.

    source : Patel et al., ISCA 2024 (2023 traces); Stojkovic et al., HPCA 2025 (2024 traces); Qiu et al., SoCC 2025
             (multimodal trace: images, whose tokens the context has); Azure/AzurePublicDataset
    """
    table = read_csv(path, {**FIELDS, IMAGES: pa.int64()}, (IMAGES,))
    if table.num_rows == 0:
        raise TraceError(f"a trace must have at least one request, but {path.name} has only a header. Fetch it again.")
    clock_ns = parse_clock(table["TIMESTAMP"], path.name)
    columns = {
        "arrival_s": (clock_ns - clock_ns.min()) / NS,
        "prompt_tokens": table["ContextTokens"],
        "output_tokens": table["GeneratedTokens"],
    }
    columns |= {"images": table[IMAGES]} if IMAGES in table.column_names else {}
    return unchecked(path, columns, notes={"format": "azure", "started_at": table["TIMESTAMP"][0].as_py()})


def parse_clock(texts: pa.ChunkedArray, name: str) -> np.ndarray:
    """Turn ISO times with up to 9 fractional digits into nanoseconds since 1970, UTC where a zone is given.

    texts  : (requests,) string
    raises : TraceError naming the first row that is no such time
    """
    parts = pc.extract_regex(texts.combine_chunks(), CLOCK)
    bad = parts.is_null().to_numpy(zero_copy_only=False)
    if not bad.any():
        second = pc.replace_substring(pc.struct_field(parts, "second"), "T", " ")
        whole = pc.strptime(second, format="%Y-%m-%d %H:%M:%S", unit="s", error_is_null=True)
        bad = whole.is_null().to_numpy(zero_copy_only=False)
    if bad.any():
        row = int(np.argmax(bad))
        raise TraceError(
            f"TIMESTAMP must be like 2023-11-16 18:17:03.9799600, but request {row} has "
            f"'{texts[row].as_py()}' ({name}). Mend or drop the row."
        )
    fraction = pc.utf8_rpad(pc.struct_field(parts, "fraction"), 9, "0").cast(pa.int64()).to_numpy(zero_copy_only=False)
    zone = pc.struct_field(parts, "zone")
    offsets = {text: _offset_s(text) for text in zone.unique().to_pylist()}
    codes = zone.dictionary_encode()
    shift_s = np.array([offsets[text] for text in codes.dictionary.to_pylist()])[codes.indices.to_numpy()]
    return (whole.cast(pa.int64()).to_numpy() - shift_s) * NS + fraction


def _offset_s(zone: str) -> int:
    if zone in ("", "Z"):
        return 0
    hours, minutes = int(zone[1:3]), int(zone[4:6])
    return (hours * 3600 + minutes * 60) * (-1 if zone[0] == "-" else 1)

"""What SGLang's `bench_serving` appends to a JSON-lines file with --output-details: a run a line."""

from pathlib import Path

from replay.errors import LogError
from replay.fidelity.formats.bench import has_lists, read_lists
from replay.fidelity.formats.source import Found, json_lines


def sniff(path: Path, head: bytes) -> bool:
    return has_lists(head) and b'"dataset_name"' in head


def read(path: Path) -> Found:
    """Read the one run of a file.

    source : sglang/bench_serving.py
    """
    runs = json_lines(path)
    if len(runs) != 1:
        raise LogError(f"{path.name} must hold one run, but has {len(runs)}, one a line. Keep one line.")
    place, record = runs[0]
    return read_lists(record, place)

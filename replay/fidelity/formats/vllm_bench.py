"""What vLLM's `bench serve` (earlier benchmark_serving.py) saves with --save-result --save-detailed."""

from pathlib import Path

from replay.fidelity.formats.bench import has_lists, read_lists
from replay.fidelity.formats.source import Found, record_of, text_of


def sniff(path: Path, head: bytes) -> bool:
    return has_lists(head) and b'"dataset_name"' not in head


def read(path: Path) -> Found:
    """Read one run; arrivals are its start_times.

    source : vllm/benchmarks/serve.py; its TTFT and E2E count from the moment of sending
    """
    return read_lists(record_of(text_of(path), path.name), path.name)

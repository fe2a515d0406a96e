"""The kernel and the policies run line by line in Python: same results, and every branch taken.

A process with NUMBA_DISABLE_JIT=1 runs `tests/interpreted.py` and the policies' contract under `coverage run --branch`;
the gate is on what Numba compiles (MEASURED). What serves compilation only is left out: state, jit, prefetch,
compile, answers; and, until instances that come and go have their twin, what they do.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
MEASURED = (
    "kernel", "batching", "stalls", "kvcache", "inserting", "evicting", "eviction_queue", "foresight", "phases",
    "queues", "routing", "observing", "handoff", "preemption", "links", "timing", "tree", "load", "hierarchy",
    "tiers", "planning", "movement", "writes", "elastic", "lifetime", "placement", "index", "timers", "disk",
    "disks", "fragments", "compaction", "notes", "ahead", "going_on", "request_rows", "agenda",
    "paths", "crowds", "sharing", "transfers", "fabric", "wires", "traffic", "shipping", "beginning", "side_events",
    "asking", "asking_rows", "accounts", "waiting", "moves", "learning", "ending", "stages", "stage_service",
    "stage_events", "stage_rows", "life", "alive", "lifecycle", "life_timers", "life_rows", "failing", "lost", "losing",
    "scaling", "cache_rows", "outputs", "dropping", "drafting", "drafting_rows",
    "slots", "ranks", "rows_left", "rare", "pool_nodes",
)  # fmt: skip
LEFT_OUT = (
    "__init__", "adapters", "answers", "compile", "draws", "fabric_schema", "jit", "prefetch", "schema", "state",
    "tier_schema", "request_schema", "learning_schema", "stage_schema", "cache_schema", "life_schema",
    "drafting_schema", "cost_schema",
)  # fmt: skip
LEAST_SHARE = 0.95


def test_the_suite_passes_interpreted(tmp_path: Path) -> None:
    """Twin, slices, steps, faults and golden digests: in one process, with branch coverage of the kernel."""
    data, report = tmp_path / "coverage", tmp_path / "coverage.json"
    coverage = [sys.executable, "-m", "coverage"]
    if subprocess.run([*coverage, "--version"], capture_output=True).returncode:
        pytest.skip("coverage is not installed: pip install 'kvreplay[test]'")
    options = ["--branch", "--source=replay/engine,policies", f"--data-file={data}"]
    files = ["tests/interpreted.py", "tests/test_disk.py", "tests/test_policies.py", "tests/test_lives_by_hand.py",
             "tests/test_pool_nodes.py"]  # fmt: skip
    suite = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [*coverage, "run", *options, *suite], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=700
    )
    assert done.returncode == 0, done.stdout[-3000:]
    made = [*coverage, "json", f"--data-file={data}", "-o", str(report)]
    assert subprocess.run(made, cwd=ROOT, capture_output=True).returncode == 0
    check_coverage(json.loads(report.read_text())["files"])


def check_coverage(files: dict[str, Any]) -> None:
    """Check the share of lines and branches taken: in all of the kernel, and in each policy."""
    kernel = {name.stem for name in (ROOT / "replay" / "engine").glob("*.py")}
    assert kernel - set(MEASURED) == set(LEFT_OUT), "a module of the engine is in neither list"
    taken = there = 0
    missed = []
    for name in MEASURED:
        one = files[f"replay/engine/{name}.py"]
        taken += one["summary"]["covered_lines"] + one["summary"]["covered_branches"]
        there += one["summary"]["num_statements"] + one["summary"]["num_branches"]
        missed.append(f"{name}: lines {one['missing_lines']}, branches {one['missing_branches']}")
    share = taken / there
    assert there > 3500 and share >= LEAST_SHARE, (share, *missed)
    shares = {name: one["summary"]["percent_covered"] for name, one in files.items()}
    of_policies = {name: share for name, share in shares.items() if name.startswith("policies/")}
    assert len(of_policies) > 16 and all(share == 100 for share in of_policies.values()), of_policies

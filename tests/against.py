"""What the comparisons of the engine with its twins share: fields that differ, one history in every way of running."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tests.scenarios import Scenario
from tests.sessions import SLICES, finished, session_of
from traces.jit import INTERPRETED

Rows = Mapping[str, Sequence[Any]]


def unlike(names: Iterable[str], found: Rows, expected: Rows) -> list[str]:
    """Return a line for each field in which engine and twin differ, with the first rows that do."""
    lines = []
    for name in names:
        rows = zip(found[name], expected[name], strict=True)
        wrong = [(row, engine, twin) for row, (engine, twin) in enumerate(rows) if engine != twin]
        if wrong:
            lines.append(f"{name}: (row, engine, twin) {wrong[:4]}")
    return lines


def check_ways(case: Scenario, seed: int, history: Callable[[Any], list[Any]]) -> None:
    """Check for one history with leaps and without, in slices of 1, 7 and 10,000 events, and from a copy on the way."""
    whole = history(finished(session_of(case)))
    assert history(finished(session_of(case, leap=False))) == whole, seed
    for events in SLICES:
        assert history(finished(session_of(case), events)) == whole, (seed, events)
    parent = session_of(case)
    parent.advance(20 + seed % 50)
    child = parent.fork()
    assert history(finished(child)) == whole == history(finished(parent)), seed


def check_interpreted(module: str, cases: Iterable[Scenario]) -> None:
    """Check that a test module run as a program with `--digests` prints, interpreted, the digests of its cases."""
    compiled = [finished(session_of(case)).result().digest for case in cases]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-m", module, "--digests"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == compiled


def main(cases: Iterable[Scenario], lines_of: Callable[[int], list[str]]) -> int:
    """Print what `check_interpreted` compares, or compare so many seeds from a first; returns the exit status.

    lines_of : seed -> lines on what differs
    """
    if "--digests" in sys.argv:
        assert INTERPRETED, "set NUMBA_DISABLE_JIT=1"
        for case in cases:
            print(finished(session_of(case)).result().digest)
        return 0
    count, first = [*map(int, sys.argv[1:3]), 0][:2]
    wrong = 0
    for seed in range(first, first + count):
        if lines := lines_of(seed):
            wrong += 1
            print(f"seed {seed}", *lines, sep="\n  ", flush=True)
    print(f"{count} scenarios, {wrong} differ")
    return min(1, wrong)

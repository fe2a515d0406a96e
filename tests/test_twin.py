"""The engine against its naive twin, field by field; against itself without leaps, in slices, and interpreted.

`python -m tests.test_twin 2000 [first seed]` compares that many scenarios and prints the seeds that differ.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.odd_policies import registered
from tests.scenarios import TIERS, Scenario, scenario, scenarios
from tests.sessions import SLICES, binned, engine_rows, engine_run
from tests.twin import run
from tests.twin.model import FIELDS
from traces.jit import INTERPRETED

QUICK = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
SEEDS, BATCH = 400, 40
INTERPRETED_SEEDS, INTERPRETED_REQUESTS = 16, 10


@pytest.fixture(autouse=True)
def odd() -> Iterator[None]:
    """Offer the odd policies to the scenarios."""
    with registered():
        yield


def differences(case: Scenario) -> list[str]:
    """Compare the engine with the twin; returns one line a field that differs."""
    found = engine_rows(case)
    expected = run(case.trace, case.cluster, case.policies, case.seed, TIERS)
    expected["bins"], expected["counts"] = binned(expected["gaps"])
    lines = []
    for name in (*FIELDS, "bins", "counts"):
        rows = zip(found[name], expected[name], strict=True)
        wrong = [(row, engine, twin) for row, (engine, twin) in enumerate(rows) if engine != twin]
        if wrong:
            lines.append(f"{name}: (row, engine, twin) {wrong[:4]}")
    return lines


def digests(case: Scenario) -> dict[str, str]:
    """Replay with and without leaps and in slices; returns the digest of each."""
    by_leap = {f"leap={leap}": engine_run(case, leap=leap).digest for leap in (True, False)}
    by_slice = {f"slices of {events}": engine_run(case, events).digest for events in SLICES}
    return by_leap | by_slice


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_engine_equals_twin_on_many_scenarios(first: int) -> None:
    """Scenarios of up to 60 requests, by seed: every field of every request, and the gaps."""
    for seed in range(first, first + BATCH):
        case = scenario(Random(seed))
        assert not differences(case), f"seed {seed}: {differences(case)}"


@QUICK
@given(scenarios(most_requests=12))
def test_engine_equals_twin(case: Scenario) -> None:
    """The same with examples that shrink."""
    assert not differences(case)


@QUICK
@given(st.integers(10_000, 1_000_000))
def test_leaps_and_slices_change_nothing(seed: int) -> None:
    """One digest with leaps and without, whole and in slices of 1, 7 and 10,000 events."""
    found = digests(scenario(Random(seed), 30))
    assert len(set(found.values())) == 1, found


def test_stepping_takes_the_twins_events() -> None:
    """Without leaps the engine handles exactly one event for each of the twin's; with them, never more."""
    for seed in range(40):
        case = scenario(Random(seed), 20)
        stepped, leapt = (engine_rows(case, leap=leap)["events"] for leap in (False, True))
        assert stepped == run(case.trace, case.cluster, case.policies, case.seed, TIERS)["events"], seed
        assert leapt <= stepped


def test_interpreted_equals_compiled() -> None:
    """The kernel's source gives the same digests when Python runs it line by line."""
    compiled = [engine_run(scenario(Random(seed), INTERPRETED_REQUESTS)).digest for seed in range(INTERPRETED_SEEDS)]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-m", "tests.test_twin", "--digests"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == compiled


def print_digests() -> None:
    """Print the digests that `test_interpreted_equals_compiled` compares."""
    assert INTERPRETED, "set NUMBA_DISABLE_JIT=1"
    for seed in range(INTERPRETED_SEEDS):
        print(engine_run(scenario(Random(seed), INTERPRETED_REQUESTS)).digest)


def fuzz(count: int, first: int = 0) -> int:
    """Compare many scenarios and print those that differ; returns how many did."""
    wrong = 0
    for seed in range(first, first + count):
        case = scenario(Random(seed))
        lines = differences(case)
        found = digests(case)
        if len(set(found.values())) > 1:
            lines.append(f"digests: {found}")
        if lines:
            wrong += 1
            print(f"seed {seed}", *lines, sep="\n  ", flush=True)
    print(f"{count} scenarios, {wrong} differ")
    return wrong


if __name__ == "__main__":
    with registered():
        if "--digests" in sys.argv:
            print_digests()
        else:
            sys.exit(min(1, fuzz(*(int(argument) for argument in sys.argv[1:3]))))

"""The engine's KV hierarchy against its naive twin, request by request and store by store; in leaps, slices and forks.

`python -m tests.test_twin_hierarchy 2000 [first seed]` compares that many scenarios and prints the seeds that differ.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from replay.session import Session
from tests.hierarchy_cases import CASES, Case
from tests.odd_policies import registered
from tests.scenarios import TIERS, Scenario, hierarchical, scenario
from tests.sessions import SLICES, binned, engine_rows, engine_stores, engine_tiers, finished, session_of
from tests.test_twin_hierarchy_by_hand import agree
from tests.twin import run
from tests.twin.model import FIELDS, HIERARCHY_FIELDS
from traces.jit import INTERPRETED

SEEDS, BATCH = 400, 50
SLICED_SEEDS = 60
INTERPRETED_SEEDS, INTERPRETED_REQUESTS = 24, 14


@pytest.fixture(autouse=True)
def odd() -> Iterator[None]:
    """Offer the odd policies to the scenarios."""
    with registered():
        yield


def case_of(seed: int, most_requests: int = 40) -> Scenario:
    """Return the hierarchical scenario of a seed."""
    return hierarchical(scenario(Random(seed), most_requests), Random(f"hierarchy {seed}"))


def differences(case: Scenario) -> list[str]:
    """Compare the engine with the twin; returns one line a field of the requests or of the stores that differs."""
    session = finished(session_of(case))
    found = engine_rows(case) | engine_tiers(session)
    expected = run(case.trace, case.cluster, case.policies, case.seed, TIERS)
    expected["bins"], expected["counts"] = binned(expected["gaps"])
    lines = []
    for name in (*FIELDS, *HIERARCHY_FIELDS, "bins", "counts"):
        rows = zip(found[name], expected[name], strict=True)
        wrong = [(row, engine, twin) for row, (engine, twin) in enumerate(rows) if engine != twin]
        if wrong:
            lines.append(f"{name}: (row, engine, twin) {wrong[:4]}")
    stores = engine_stores(session) if expected["stores"] else {}
    for name, values in expected["stores"].items():
        if stores[name] != plain_lists(values):
            lines.append(f"{name}: engine {stores[name]}, twin {values}")
    return lines


def plain_lists(value: Any) -> Any:
    """Return nested lists and tuples as lists."""
    return [plain_lists(part) for part in value] if isinstance(value, list | tuple) else value


def traces_of(session: Session) -> list[Any]:
    """Return all that happened in a session: the digest, the loads, the stores."""
    return [session.result().digest, engine_tiers(session), engine_stores(session)]


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_engine_equals_twin(first: int) -> None:
    """Tiny stores, links, memtables and lifetimes; nodes that leave and drain; lookups, beliefs, every policy."""
    for seed in range(first, first + BATCH):
        case = case_of(seed)
        assert not differences(case), f"seed {seed}: {differences(case)}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases_by_hand(case: Case) -> None:
    """What was worked out by hand holds in the engine too."""
    session = finished(Session(case.trace, case.cluster, case.policies, slo="none"))
    scenario_like = Scenario(case.trace, case.cluster, case.policies, 0)
    rows = {name: value for name, value in engine_rows(scenario_like).items() if name in case.expected}
    agree(rows | engine_tiers(session), case.expected)
    agree(engine_stores(session), case.stores)


def test_leaps_slices_and_forks_change_nothing() -> None:
    """The same with leaps and without, in slices of 1, 7 and 10,000 events, and from a copy made on the way."""
    for seed in range(10_000, 10_000 + SLICED_SEEDS):
        case = case_of(seed, 30)
        whole = traces_of(finished(session_of(case)))
        assert traces_of(finished(session_of(case, leap=False))) == whole, seed
        for events in SLICES:
            assert traces_of(finished(session_of(case), events)) == whole, (seed, events)
        parent = session_of(case)
        parent.advance(20 + seed % 50)
        child = parent.fork()
        assert traces_of(finished(child)) == whole == traces_of(finished(parent)), seed


def test_interpreted_equals_compiled() -> None:
    """The hierarchy's source gives the same digests when Python runs it line by line."""
    compiled = [finished(session_of(case_of(seed, INTERPRETED_REQUESTS))).result().digest
                for seed in range(INTERPRETED_SEEDS)]  # fmt: skip
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-m", "tests.test_twin_hierarchy", "--digests"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == compiled


def print_digests() -> None:
    """Print the digests that `test_interpreted_equals_compiled` compares."""
    assert INTERPRETED, "set NUMBA_DISABLE_JIT=1"
    for seed in range(INTERPRETED_SEEDS):
        print(finished(session_of(case_of(seed, INTERPRETED_REQUESTS))).result().digest)


def fuzz(count: int, first: int = 0) -> int:
    """Compare many scenarios and print those that differ; returns how many did."""
    wrong = 0
    for seed in range(first, first + count):
        lines = differences(case_of(seed))
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

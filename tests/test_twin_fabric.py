"""The engine's fabric against its naive twin: requests, stores, links and kinds of traffic; in leaps, slices and forks.

`python -m tests.test_twin_fabric 2000 [first seed]` compares that many scenarios and prints the seeds that differ.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from replay.session import Session
from tests.fabrics import with_fabric
from tests.odd_policies import registered
from tests.scenarios import TIERS, Scenario, hierarchical, scenario
from tests.sessions import SLICES, binned, engine_rows, engine_stores, engine_tiers, finished, session_of
from tests.test_twin_hierarchy import plain_lists
from tests.twin import run
from tests.twin.model import FIELDS, HIERARCHY_FIELDS
from traces.jit import INTERPRETED

SEEDS, BATCH = 80, 40
SLICED_SEEDS = 20
INTERPRETED_SEEDS, INTERPRETED_REQUESTS = 24, 12
LINK_FIELDS, KIND_FIELDS = ("bytes", "wait_ps", "busy_ps"), ("transfers", "delivered", "time_ps", "alone_ps")


@pytest.fixture(autouse=True)
def odd() -> Iterator[None]:
    """Offer the odd policies to the scenarios."""
    with registered():
        yield


def case_of(seed: int, most_requests: int = 40) -> Scenario:
    """Return the scenario of a seed: with a fabric, every second one with a KV hierarchy too."""
    case = scenario(Random(seed), most_requests)
    if seed % 2:
        case = hierarchical(case, Random(f"hierarchy {seed}"))
    return replace(case, cluster=with_fabric(Random(f"fabric {seed}"), case.cluster))


def engine_network(session: Session) -> dict[str, list[int]]:
    """Return what the links and kinds of traffic did, by the names of the twin."""
    wires = session.state.wires
    found = {name: np.asarray(wires.links[name]).tolist() for name in LINK_FIELDS}
    found |= {name: np.asarray(wires.kinds[name]).tolist() for name in KIND_FIELDS}
    return found | {"collisions": [int(wires.net["inter"][0]), int(wires.net["collided"][0])]}


def differences(case: Scenario) -> list[str]:
    """Compare the engine with the twin; returns one line for each field that differs."""
    session = finished(session_of(case))
    found = engine_rows(case)
    expected = run(case.trace, case.cluster, case.policies, case.seed, TIERS)
    expected["bins"], expected["counts"] = binned(expected["gaps"])
    names: tuple[str, ...] = (*FIELDS, "bins", "counts")
    if case.cluster.kv is not None:
        names, found = (*names, *HIERARCHY_FIELDS), found | engine_tiers(session)
    lines = []
    for name in names:
        rows = zip(found[name], expected[name], strict=True)
        wrong = [(row, engine, twin) for row, (engine, twin) in enumerate(rows) if engine != twin]
        if wrong:
            lines.append(f"{name}: (row, engine, twin) {wrong[:4]}")
    parts = (engine_stores(session) if expected["stores"] else {}) | engine_network(session)
    for name, values in (expected["stores"] | expected["network"]).items():
        if parts[name] != plain_lists(values):
            lines.append(f"{name}: engine {parts[name]}, twin {values}")
    return lines


def traces_of(session: Session) -> list[Any]:
    """Return all that happened in a session."""
    tiers = [engine_tiers(session), engine_stores(session)] if session.cluster.kv else []
    return [session.result().digest, engine_network(session), *tiers]


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_engine_equals_twin(first: int) -> None:
    """Both ways of sharing, every balance, rails, spines, domains, parts, exchanges, requests, background, tiers."""
    for seed in range(first, first + BATCH):
        case = case_of(seed)
        assert not differences(case), f"seed {seed}: {differences(case)}"


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
    """The fabric's source gives the same digests when Python runs it line by line."""
    compiled = [finished(session_of(case_of(seed, INTERPRETED_REQUESTS))).result().digest
                for seed in range(INTERPRETED_SEEDS)]  # fmt: skip
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-m", "tests.test_twin_fabric", "--digests"]
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

"""The engine's fabric against its naive twin: requests, stores, links and kinds of traffic; in leaps, slices and forks.

`python -m tests.test_twin_fabric 2000 [first seed]` compares that many scenarios and prints the seeds that differ.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from replay.session import Session
from tests.against import check_interpreted, check_ways, main, unlike
from tests.fabrics import with_fabric
from tests.odd_policies import registered
from tests.scenarios import Scenario, hierarchical, scenario
from tests.sessions import binned, engine_rows, engine_stores, engine_tiers, finished, session_of, twin_run
from tests.test_twin_hierarchy import plain_lists
from tests.twin.model import FIELDS, HIERARCHY_FIELDS

SEEDS, BATCH = 40, 20
SLICED_SEEDS = 7
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
    expected = twin_run(case)
    expected["bins"], expected["counts"] = binned(expected["gaps"])
    names: tuple[str, ...] = (*FIELDS, "bins", "counts")
    if case.cluster.kv is not None:
        names, found = (*names, *HIERARCHY_FIELDS), found | engine_tiers(session)
    lines = unlike(names, found, expected)
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
        check_ways(case_of(seed, 30), seed, traces_of)


def interpreted_cases() -> list[Scenario]:
    """Return the cases that are run interpreted too."""
    return [case_of(seed, INTERPRETED_REQUESTS) for seed in range(INTERPRETED_SEEDS)]


def test_interpreted_equals_compiled() -> None:
    """The fabric's source gives the same digests when Python runs it line by line."""
    check_interpreted("tests.test_twin_fabric", interpreted_cases())


if __name__ == "__main__":
    with registered():
        sys.exit(main(interpreted_cases(), lambda seed: differences(case_of(seed))))

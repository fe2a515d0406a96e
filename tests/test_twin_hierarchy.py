"""The engine's KV hierarchy against its naive twin, request by request and store by store; in leaps, slices and forks.

`python -m tests.test_twin_hierarchy 2000 [first seed]` compares that many scenarios and prints the seeds that differ.
"""

import sys
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from replay.session import Session
from tests.against import check_interpreted, check_ways, main, unlike
from tests.hierarchy_cases import CASES, Case
from tests.odd_policies import registered
from tests.scenarios import Scenario, hierarchical, scenario
from tests.sessions import binned, engine_rows, engine_stores, engine_tiers, finished, session_of, twin_run
from tests.test_twin_hierarchy_by_hand import agree
from tests.twin.model import FIELDS, HIERARCHY_FIELDS

SEEDS, BATCH = 140, 35
SLICED_SEEDS = 30
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
    expected = twin_run(case)
    expected["bins"], expected["counts"] = binned(expected["gaps"])
    lines = unlike((*FIELDS, *HIERARCHY_FIELDS, "bins", "counts"), found, expected)
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
        check_ways(case_of(seed, 30), seed, traces_of)


def interpreted_cases() -> list[Scenario]:
    """Return the cases that are run interpreted too."""
    return [case_of(seed, INTERPRETED_REQUESTS) for seed in range(INTERPRETED_SEEDS)]


def test_interpreted_equals_compiled() -> None:
    """The hierarchy's source gives the same digests when Python runs it line by line."""
    check_interpreted("tests.test_twin_hierarchy", interpreted_cases())


if __name__ == "__main__":
    with registered():
        sys.exit(main(interpreted_cases(), lambda seed: differences(case_of(seed))))

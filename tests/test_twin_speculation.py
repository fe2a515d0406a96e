"""Speculative decoding against the naive twin: requests, gaps, drafts; in slices and forks, interpreted.

`python -m tests.test_twin_speculation 2000 [first seed]` compares that many scenarios and prints the seeds that differ.
"""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from replay.session import Session
from tests.against import check_interpreted, check_ways, main, unlike
from tests.drafted import case_of
from tests.odd_policies import registered
from tests.scenarios import Scenario
from tests.sessions import binned, engine_rows, finished, session_of, twin_run
from tests.twin.model import FIELDS

SEEDS, BATCH = 80, 40
SLICED_SEEDS = 10
INTERPRETED_SEEDS, INTERPRETED_REQUESTS = 10, 10


@pytest.fixture(autouse=True)
def odd() -> Iterator[None]:
    """Offer the odd policies to the scenarios."""
    with registered():
        yield


def engine_drafts(session: Session) -> list[tuple[int, int]]:
    """Return in how many iterations each request proposed tokens, and how many it kept."""
    drafts = session.state.speculation.drafts
    return list(zip(drafts["iterations"].tolist(), drafts["accepted_tokens"].tolist(), strict=True))


def differences(case: Scenario) -> list[str]:
    """Compare the engine with the twin; returns one line for each field that differs."""
    session = finished(session_of(case))
    found = engine_rows(case) | {"drafts": engine_drafts(session)}
    expected = twin_run(case)
    expected["bins"], expected["counts"] = binned(expected["gaps"])
    return unlike((*FIELDS, "bins", "counts", "drafts"), found, expected)


def traces_of(session: Session) -> list[Any]:
    """Return all that happened in a session."""
    return [session.result().digest, engine_drafts(session), session.state.histogram.tolist()]


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_engine_equals_twin(first: int) -> None:
    """Blocks ahead, preemption, pauses, handoffs, migration, mixed pools; beside hierarchies, stages and fabrics."""
    for seed in range(first, first + BATCH):
        assert not differences(case_of(seed)), f"seed {seed}: {differences(case_of(seed))}"


def test_slices_and_forks_change_nothing() -> None:
    """The same in slices of 1, 7 and 10,000 events, and from a copy made on the way."""
    for seed in range(10_000, 10_000 + SLICED_SEEDS):
        check_ways(case_of(seed, 30), seed, traces_of)


def interpreted_cases() -> list[Scenario]:
    """Return the cases that are run interpreted too."""
    return [case_of(seed, INTERPRETED_REQUESTS) for seed in range(INTERPRETED_SEEDS)]


def test_interpreted_equals_compiled() -> None:
    """The source gives the same digests when Python runs it line by line."""
    check_interpreted("tests.test_twin_speculation", interpreted_cases())


if __name__ == "__main__":
    with registered():
        sys.exit(main(interpreted_cases(), lambda seed: differences(case_of(seed))))

"""Stages beside the transformer against the naive twin: requests, calls, batches; in leaps, slices, forks, interpreted.

`python -m tests.test_twin_stages 2000 [first seed]` compares that many scenarios and prints the seeds that differ.
"""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from replay.pipeline import BINDS, BINDS_FIRST
from replay.session import Session
from tests.against import check_interpreted, check_ways, main, unlike
from tests.odd_policies import registered
from tests.scenarios import Scenario
from tests.sessions import binned, engine_rows, finished, session_of, twin_run
from tests.staged import case_of
from tests.twin.model import FIELDS

SEEDS, BATCH = 60, 30
SLICED_SEEDS = 8
INTERPRETED_SEEDS, INTERPRETED_REQUESTS = 16, 10
TASK_FIELDS = ("ready_ps", "end_ps", "queue_ps", "service_ps", "ended")


@pytest.fixture(autouse=True)
def odd() -> Iterator[None]:
    """Offer the odd policies to the scenarios."""
    with registered():
        yield


def engine_stages(session: Session) -> dict[str, Any]:
    """Return of a finished session what its stages did: the twin's `stages`."""
    stages, pipeline = session.cluster.stages, session.state.pipeline
    tasks = np.asarray(pipeline.tasks).reshape(len(session.trace), len(stages))
    requests = session.result().requests
    found: dict[str, Any] = {name: requests[name].to_list() for name in (BINDS, BINDS_FIRST)}
    for s, stage in enumerate(stages):
        found |= {f"{stage.name} {name}": tasks[name][:, s].tolist() for name in TASK_FIELDS}
    return found | {"batches": np.asarray(pipeline.stations["batches"]).tolist()}


def differences(case: Scenario) -> list[str]:
    """Compare the engine with the twin; returns one line for each field that differs."""
    session = finished(session_of(case))
    found = engine_rows(case, leap=False)
    expected = twin_run(case)
    expected["bins"], expected["counts"] = binned(expected["gaps"])
    lines = unlike((*FIELDS, "bins", "counts", "events"), found, expected)
    return lines + unlike(expected["stages"], engine_stages(session), expected["stages"])


def traces_of(session: Session) -> list[Any]:
    """Return all that happened in a session."""
    return [session.result().digest, engine_stages(session)]


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_engine_equals_twin(first: int) -> None:
    """Every place, edges between stages, batches, waits, tiers, links, laws, gates; closed loops, hierarchies."""
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
    """The stages' source gives the same digests when Python runs it line by line."""
    check_interpreted("tests.test_twin_stages", interpreted_cases())


if __name__ == "__main__":
    with registered():
        sys.exit(main(interpreted_cases(), lambda seed: differences(case_of(seed))))

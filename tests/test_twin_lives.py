"""The life of instances against the naive twin: requests, losses, times, changes; in leaps, slices, forks, interpreted.

`python -m tests.test_twin_lives 2000 [first seed]` compares that many scenarios and prints the seeds that differ.
"""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from replay.engine.life_schema import LIVES
from replay.life import node_times, settled
from replay.session import Session
from tests.against import check_interpreted, check_ways, main, unlike
from tests.lives import case_of, tiered_case_of
from tests.odd_life import registered
from tests.scenarios import Scenario
from tests.sessions import binned, engine_rows, engine_stores, engine_tiers, finished, session_of, twin_run
from tests.test_twin_hierarchy import plain_lists
from tests.twin.lives import OF_A_REQUEST, OF_AN_INSTANCE
from tests.twin.model import FIELDS, HIERARCHY_FIELDS
from tests.twin.nodes import OF_A_NODE

SEEDS, BATCH = 120, 60
SLICED_SEEDS = 12
TIERED_SEEDS = 30
INTERPRETED_SEEDS, INTERPRETED_REQUESTS = 16, 10
COUNTS = ("lost", "retries", "restarts", "given_up", "wasted_tokens", "most_lost")


@pytest.fixture(autouse=True)
def odd() -> Iterator[None]:
    """Offer the odd policies to the scenarios."""
    with registered():
        yield


def engine_lives(session: Session) -> dict[str, Any]:
    """Return of a finished session what its instances did: the twin's `lives`."""
    lives = session.state.lives
    moments = lives.moments[: int(lives.setting["moments"][0])]
    found: dict[str, Any] = {name: np.asarray(lives.life[name]).tolist() for name in OF_AN_INSTANCE}
    found |= {name: value.tolist() for name, value in settled(session).items()}
    found |= {name: np.asarray(lives.losses[name]).tolist() for name in OF_A_REQUEST}
    if session.cluster.kv is not None:
        times, count = node_times(session), sum(session.cluster.kv.nodes.values())
        found |= {f"nodes.{name}": times.get(name, lives.node_lives[name])[:count].tolist() for name in OF_A_NODE}
        found["nodes.state"] = [LIVES[code] for code in lives.node_lives["state"][:count]]
    found["state"] = [LIVES[code] for code in lives.life["state"]]
    found["moments"] = [(int(row["time_ps"]), int(row["instance"]), LIVES[row["state"]]) for row in moments]
    return found | {name: [int(lives.setting[name][0])] for name in COUNTS}


def differences(case: Scenario) -> list[str]:
    """Compare the engine with the twin; returns one line for each field that differs."""
    session = finished(session_of(case))
    found = engine_rows(case, leap=False)
    expected = twin_run(case)
    expected["bins"], expected["counts"] = binned(expected["gaps"])
    lines = unlike((*FIELDS, "bins", "counts", "events"), found, expected)
    if case.cluster.kv is not None:
        lines += unlike(HIERARCHY_FIELDS, engine_tiers(session), expected)
        stores = engine_stores(session)
        lines += [f"{name}: engine {stores[name]}, twin {values}" for name, values in expected["stores"].items()
                  if stores[name] != plain_lists(values)]
    found, expected = engine_lives(session), expected["lives"]
    if len(found["moments"]) != len(expected["moments"]):
        lines.append(f"moments: {len(found['moments'])} of the engine, {len(expected['moments'])} of the twin")
        expected.pop("moments")
    return lines + unlike(expected, found, expected)


def traces_of(session: Session) -> list[Any]:
    """Return all that happened in a session."""
    return [session.result().digest, engine_lives(session)]


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_engine_equals_twin(first: int) -> None:
    """Every failure, at the same instant as others too; every recovery; scaling; split and mixed clusters."""
    for seed in range(first, first + BATCH):
        case = case_of(seed)
        assert not differences(case), f"seed {seed}: {differences(case)}"


def test_over_a_hierarchy() -> None:
    """Nodes that take their stores along, pool nodes, the store that all share, index shards."""
    for seed in range(TIERED_SEEDS):
        case = tiered_case_of(seed)
        assert not differences(case), f"seed {seed}: {differences(case)}"
    for seed in range(TIERED_SEEDS, TIERED_SEEDS + SLICED_SEEDS // 2):
        check_ways(tiered_case_of(seed), seed, traces_of)


def test_leaps_slices_and_forks_change_nothing() -> None:
    """The same with leaps and without, in slices of 1, 7 and 10,000 events, and from a copy made on the way."""
    for seed in range(10_000, 10_000 + SLICED_SEEDS):
        check_ways(case_of(seed, 30), seed, traces_of)


def interpreted_cases() -> list[Scenario]:
    """Return the cases that are run interpreted too."""
    return [case_of(seed, INTERPRETED_REQUESTS) for seed in range(INTERPRETED_SEEDS)]


def test_interpreted_equals_compiled() -> None:
    """The source of the lives gives the same digests when Python runs it line by line."""
    check_interpreted("tests.test_twin_lives", interpreted_cases())


if __name__ == "__main__":
    with registered():
        sys.exit(main(interpreted_cases(), lambda seed: differences(case_of(seed))))

"""The engine against its naive twin, field by field; against itself without leaps, in slices, and interpreted.

`python -m tests.test_twin 2000 [first seed]` compares that many scenarios and prints the seeds that differ.
"""

import sys
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.against import check_interpreted, main, unlike
from tests.odd_policies import registered
from tests.scenarios import Scenario, scenario, scenarios
from tests.sessions import SLICES, binned, engine_rows, engine_run, twin_run
from tests.twin.model import FIELDS

QUICK = settings(max_examples=35, deadline=None, suppress_health_check=list(HealthCheck))
SEEDS, BATCH = 100, 25
INTERPRETED_SEEDS, INTERPRETED_REQUESTS = 16, 10


@pytest.fixture(autouse=True)
def odd() -> Iterator[None]:
    """Offer the odd policies to the scenarios."""
    with registered():
        yield


def differences(case: Scenario) -> list[str]:
    """Compare the engine with the twin; returns one line a field that differs."""
    found = engine_rows(case)
    expected = twin_run(case)
    expected["bins"], expected["counts"] = binned(expected["gaps"])
    return unlike((*FIELDS, "bins", "counts"), found, expected)


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
    for seed in range(24):
        case = scenario(Random(seed), 20)
        stepped, leapt = (engine_rows(case, leap=leap)["events"] for leap in (False, True))
        assert stepped == twin_run(case)["events"], seed
        assert leapt <= stepped


def interpreted_cases() -> list[Scenario]:
    """Return the cases that are run interpreted too."""
    return [scenario(Random(seed), INTERPRETED_REQUESTS) for seed in range(INTERPRETED_SEEDS)]


def test_interpreted_equals_compiled() -> None:
    """The kernel's source gives the same digests when Python runs it line by line."""
    check_interpreted("tests.test_twin", interpreted_cases())


def unlike_anyhow(seed: int) -> list[str]:
    """Return what differs from the twin, or between ways of running."""
    case = scenario(Random(seed))
    found = digests(case)
    return differences(case) + ([f"digests: {found}"] if len(set(found.values())) > 1 else [])


if __name__ == "__main__":
    with registered():
        sys.exit(main(interpreted_cases(), unlike_anyhow))

"""The twin against small hierarchies worked out by hand, so that it is right for a reason of its own."""

from random import Random
from typing import Any

import pytest

from tests.hierarchy_cases import CASES, Case
from tests.odd_policies import registered
from tests.scenarios import TIERS, hierarchical, scenario
from tests.twin import run


def agree(found: dict[str, Any], expected: dict[str, list]) -> None:
    """Compare the fields that a case works out; `...` stands for any value."""
    for name, values in expected.items():
        pairs = list(zip(found[name], values, strict=True))
        assert not [pair for pair in pairs if pair[1] is not ... and pair[0] != pair[1]], (name, pairs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_twin(case: Case) -> None:
    found = run(case.trace, case.cluster, case.policies)
    agree(found, case.expected)
    agree(found["stores"], case.stores)


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_laws_on_random_hierarchies(first: int) -> None:
    """The twin checks its laws after every event; every token that was not computed came from some tier."""
    with registered():
        for seed in range(first, first + 20):
            case = hierarchical(scenario(Random(seed), 20), Random(f"laws {seed}"))
            found = run(case.trace, case.cluster, case.policies, case.seed, TIERS)
            by_tier = zip(found["hbm_tokens"], found["dram_tokens"], found["disk_tokens"], strict=True)
            assert [sum(tokens) for tokens in by_tier] == found["hit_tokens"], seed
            assert min(found["hbm_tokens"] + found["dram_tokens"] + found["disk_tokens"]) >= 0, seed

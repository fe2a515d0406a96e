"""Ranks in step and batches formed ahead: the engine against its twin, in every way of running, and by hand.

`python -m tests.test_twin_ranks 2000 [first seed]` compares that many scenarios and prints the seeds that differ.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from replay.errors import ConfigError
from replay.hardware.profile import Profile, table
from replay.session import replay
from tests.against import check_ways, main
from tests.odd_policies import registered
from tests.scenarios import Scenario, hierarchical, random_segments, scenario
from tests.small import small_cluster, small_instance, small_policies, small_profile, small_trace
from tests.test_twin import differences

SEEDS, WAYS_SEEDS = 30, 6


@pytest.fixture(autouse=True)
def odd() -> Iterator[None]:
    """Offer the odd policies to the scenarios."""
    with registered():
        yield


def case_of(seed: int, most_requests: int = 40) -> Scenario:
    """Draw a scenario: ranks in step, some of which plan ahead; planning ahead alone; the same over a hierarchy."""
    case, random = scenario(Random(seed), most_requests), Random(f"ranks {seed}")
    if seed % 3 == 1:
        return replace(case, cluster=replace(case.cluster, plan_ahead=True))
    if seed % 3 == 2:
        tiered = hierarchical(case, Random(f"hierarchy {seed}"))
        return replace(tiered, cluster=replace(tiered.cluster, plan_ahead=True))
    ranks, ahead, instances = random.choice([2, 2, 3]), random.random() < 0.5, []
    for instance in case.cluster.instances[:3]:
        profile = in_step(random, instance.profile, ranks)
        instances += [replace(instance, profile=profile, home=None, role=instance.home or instance.role)] * ranks
    if not any(one.role != "prefill" for one in instances):  # of the first three none decodes
        instances = [replace(one, role="mixed") for one in instances]
    roles = ("prefill", "mixed", "decode")
    instances.sort(key=lambda one: roles.index(one.role))
    return replace(case, cluster=replace(case.cluster, instances=tuple(instances), ranks=ranks, plan_ahead=ahead,
                                         migrate_ps=0, mixed_pool=False))  # fmt: skip


def in_step(random: Random, profile: Profile, ranks: int) -> Profile:
    """Give a profile what its ranks share, or nothing."""
    if random.random() < 0.3:
        return profile
    shared = {name: table(random_segments(random, 0, 20)) for name in ("together_table", "fullest_table",
                                                                      "captured_table")}  # fmt: skip
    return replace(profile, ranks=ranks, **shared)


def history(session: Any) -> list[Any]:
    """Return what is to be the same in every way of running."""
    return [session.result().digest]


def test_engine_equals_twin() -> None:
    for seed in range(SEEDS):
        assert not differences(case_of(seed)), f"seed {seed}: {differences(case_of(seed))}"


def test_leaps_slices_and_copies_change_nothing() -> None:
    for seed in range(1000, 1000 + WAYS_SEEDS):
        check_ways(case_of(seed, 24), seed, history)


def test_ranks_end_together() -> None:
    """A prompt on one rank holds up the answer on the other, which waits for the slowest and for what they share."""
    shared = {"together_table": table([(0, 7, 2)]), "fullest_table": table([(0, 0, 3)]),
              "captured_table": table([(0, 5, 1)])}  # fmt: skip
    profile = replace(small_profile(iteration_ps=10, prefill_token_ps=1), ranks=2, **shared)
    cluster = replace(small_cluster([small_instance("mixed", profile)] * 2), ranks=2)
    rows = replay(small_trace([(0, 4, 3), (40, 8, 1)]), cluster, small_policies(route="round_robin")).requests
    first = 10 + 4 + (7 + 2 * (4 + 1)) + 3 * 4  # four tokens and one that nobody asked for
    alone = 10 + 5 + 1
    begun = first  # 43: the second request arrived at 40, on the idle rank, which computes along until now
    both = 10 + 8 + (7 + 2 * (8 + 1)) + 3 * 8
    assert first == 43 and alone == 16
    assert rows["ttft_s"].to_list() == [pytest.approx(first * 1e-12), pytest.approx((begun + both - 40) * 1e-12)]
    assert rows["e2e_s"].to_list()[0] == pytest.approx((first + both + alone) * 1e-12)


def test_a_batch_formed_ahead_misses_who_comes_during_the_iteration_before() -> None:
    """The second request comes during the first iteration, when the next is planned already: it runs in the third."""
    instance = small_instance("mixed", small_profile(iteration_ps=10, prefill_token_ps=1), max_batch=2)
    trace = small_trace([(0, 5, 4), (3, 5, 1), (3, 5, 1)])
    plain, ahead = (replay(trace, replace(small_cluster([instance]), plan_ahead=flag), small_policies()).requests
                    for flag in (False, True))  # fmt: skip
    prefill, decode = 15, 10
    second, third = prefill + prefill, prefill + 2 * prefill  # one place beside the first request
    assert plain["ttft_s"].to_list() == pytest.approx([prefill * 1e-12, (second - 3) * 1e-12, (third - 3) * 1e-12])
    second = prefill + decode + prefill
    third = second + decode + prefill  # its place comes free at the end of an iteration, one too late for the next;
    # the first has ended by then: nothing else would run, so that it is admitted there
    assert ahead["ttft_s"].to_list()[:2] == pytest.approx([prefill * 1e-12, (second - 3) * 1e-12])
    assert ahead["ttft_s"].to_list()[2] == pytest.approx((third - 3) * 1e-12)
    assert ahead["e2e_s"].to_list()[0] == pytest.approx((prefill + decode + prefill + decode) * 1e-12)


@pytest.mark.parametrize(("changes", "told"), [
    ({"ranks": 2, "mixed": 3}, "multiples of cluster.ranks=2"),
    ({"ranks": 2, "mixed": 2, "mixed_pool": True}, "together with cluster.mixed_pool"),
    ({"ranks": 0}, "whole number from 1"),
    ({"plan_ahead": "yes"}, "one of true, false"),
    ({"ranks": 2, "speculation": "mtp"}, "not modelled together with speculation"),
])  # fmt: skip
def test_what_cannot_step_together_is_told(changes: dict[str, Any], told: str) -> None:
    from replay.cluster import cluster

    with pytest.raises(ConfigError, match=told):
        cluster("mixed_4", **changes)


if __name__ == "__main__":
    with registered():
        sys.exit(main([], lambda seed: differences(case_of(seed))))

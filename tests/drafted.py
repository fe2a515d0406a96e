"""Random speculative decoding on the scale of the scenarios, where an iteration takes picoseconds."""

from dataclasses import replace
from random import Random

import numpy as np

from replay.speculation import Speculation
from tests.fabrics import with_fabric
from tests.scenarios import Scenario, hierarchical, scenario
from tests.staged import staged


def random_speculation(random: Random) -> Speculation:
    """Draw how many tokens are proposed, how likely each is kept, and what that costs."""
    drafted = random.choice([1, 1, 2, 3, 5, 17])
    one = random.choice([0.0, 0.3, 0.7, 0.9, 1.0])
    alike = random.random() < 0.5
    return Speculation(
        acceptance=np.array([one if alike else random.random() for _ in range(drafted)]),
        draft_ps=random.choice([0, 0, 1, 40]),
        draft_request_ps=random.choice([0, 0, 3]),
        share_ppm=random.choice([0, 0, 17_000, 333_333]),
    )


def drafted(case: Scenario, random: Random) -> Scenario:
    """Return a scenario whose decoding requests propose tokens, most often with room for the longest beside them."""
    cluster, speculation = case.cluster, random_speculation(random)
    more = -(-speculation.draft_tokens // cluster.block_tokens) if random.random() < 0.8 else 0
    instances = tuple(replace(instance, kv_blocks=instance.kv_blocks + more) for instance in cluster.instances)
    return replace(case, cluster=replace(cluster, instances=instances, speculation=speculation))


def case_of(seed: int, most_requests: int = 40) -> Scenario:
    """Return the scenario of a seed with proposed tokens: alone, or with a hierarchy, stages or a fabric beside it."""
    case, beside = scenario(Random(seed), most_requests), seed % 5
    if beside in (1, 3):
        case = hierarchical(case, Random(f"hierarchy {seed}"))
    if beside in (2, 3):
        case = staged(case, Random(f"stages {seed}"))
    if beside == 4:
        case = replace(case, cluster=with_fabric(Random(f"fabric {seed}"), case.cluster))
    return drafted(case, Random(f"drafts {seed}"))

"""Random stages on the scale of the scenarios, where an iteration takes picoseconds."""

from dataclasses import replace
from random import Random

from replay.stages import BESIDE, SEGMENT, Law, Stage
from tests.scenarios import Scenario, hierarchical, scenario
from tests.small import PS


def random_stages(random: Random) -> tuple[Stage, ...]:
    """Draw one to five stages, each possibly behind earlier ones of its place."""
    stages: list[Stage] = []
    for s in range(random.choice([1, 1, 2, 3, 5])):
        place = random.randrange(4)
        earlier = [other for other, stage in enumerate(stages) if stage.place == place and place != SEGMENT]
        needs = tuple(other for other in earlier if random.random() < 0.5)
        stages.append(random_stage(random, f"s{s}", place, needs))
    return tuple(stages)


def random_stage(random: Random, name: str, place: int, needs: tuple[int, ...]) -> Stage:
    """Draw a stage: often short of servers, at times without work, with ties."""
    columns = ["prompt_tokens", "output_tokens"] if place >= SEGMENT else ["prompt_tokens"]
    item_s = random.choice([0.0, PS, 7 * PS, Law("exponential", 90 * PS), Law("lognormal", 40 * PS, 2.0)])
    return Stage(
        name=name,
        place=place,
        needs=needs,
        gate=random.randrange(2) if place == BESIDE else 0,
        every_tokens=random.choice([1, 2, 7, 30]) if place == SEGMENT else 0,
        share=random.choice([1.0, 1.0, 0.5, 0.0]),
        items=random.choice([1.0, 3.0, Law("geometric", 2.5), *columns]),
        split=place != SEGMENT and random.random() < 0.3,
        servers=random.choice([1, 1, 2, 5]),
        max_batch=random.choice([1, 2, 4, 30]),
        wait_ps=random.choice([0, 0, 1, 300]),
        by_tier=random.random() < 0.3,
        base_ps=random.choice([0, 1, 100, 2500]),
        item_s=item_s,
        item_fs=random.choice([0, 0, 1500, 100_000]),
        latency_ps=random.choice([0, 0, 1, 700]),
    )


def staged(case: Scenario, random: Random) -> Scenario:
    """Return a scenario whose requests pass stages."""
    return replace(case, cluster=replace(case.cluster, stages=random_stages(random)))


def case_of(seed: int, most_requests: int = 40) -> Scenario:
    """Return the scenario of a seed with stages, every third one with a KV hierarchy too."""
    case = scenario(Random(seed), most_requests)
    if seed % 3 == 2:
        case = hierarchical(case, Random(f"hierarchy {seed}"))
    return staged(case, Random(f"stages {seed}"))

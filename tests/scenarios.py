"""Random scenarios: a small trace, a cluster that it strains, policies and a seed.

Everything is drawn from a `random.Random`. Hypothesis supplies one that it can shrink, a fuzz loop a seeded one.
"""

from dataclasses import dataclass, replace
from math import log
from random import Random
from typing import Any

from hypothesis import strategies as st

from replay.cluster import Cluster, Instance
from replay.hardware.profile import Profile
from replay.kv import Kv
from replay.policy import Choice, Chosen, Span, choose, load_all, registry
from tests.hierarchies import random_kv as kv_for
from tests.hierarchies import random_movement
from tests.small import PS, small_cluster, small_instance, small_profile
from traces.schema import Trace, build

TIERS = ("gold", "silver", "bronze")
SHAPES = (
    ("mixed",),
    ("mixed", "mixed"),
    ("mixed", "mixed", "mixed"),
    ("prefill", "decode"),
    ("prefill", "prefill", "decode", "decode"),
    ("prefill", "mixed"),
    ("prefill", "mixed", "decode"),
)


@dataclass(frozen=True)
class Scenario:
    """One case for the engine and the twin."""

    trace: Trace
    cluster: Cluster
    policies: dict[str, Chosen]
    seed: int

    def __repr__(self) -> str:
        columns = {name: self.trace.table.column(name).to_pylist() for name in self.trace.table.column_names}
        chosen = {slot: (choice.policy.name, choice.values) for slot, choice in self.policies.items()}
        return f"Scenario(seed={self.seed},\n trace={columns},\n cluster={self.cluster},\n policies={chosen})"


def scenarios(most_requests: int = 20) -> st.SearchStrategy[Scenario]:
    """Return a strategy whose examples shrink."""
    return st.builds(scenario, st.randoms(use_true_random=False), st.just(most_requests))


def scenario(random: Random, most_requests: int = 60) -> Scenario:
    """Draw a scenario.

    random        : any Random; the same state gives the same scenario
    most_requests : the trace has 1 to so many
    """
    block_tokens = random.choice([4, 5, 8, 16])
    trace = random_trace(random, random.randint(1, most_requests), block_tokens * random.choice([1, 1, 2, 3]))
    cluster = random_cluster(random, trace, block_tokens)
    return Scenario(trace, cluster, random_policies(random), random.randint(0, 1000))


def scenario_of(seed: int, most_requests: int = 60) -> Scenario:
    """Draw the scenario of a seed; every second one gets a hierarchy, from draws of its own."""
    case = scenario(Random(seed), most_requests)
    return hierarchical(case, Random(f"hierarchy {seed}")) if seed % 2 else case


def hierarchical(case: Scenario, random: Random) -> Scenario:
    """Return a scenario with a hierarchy below its instances, and policies for what moves.

    Most often its prompts come from a few families and its instances are short of blocks: much is to move.
    """
    cluster, trace = case.cluster, case.trace
    if random.random() < 0.8:
        trace = family_trace(random, len(trace), cluster.block_tokens * random.choice([1, 1, 2, 3]))
        longest = -(-int((trace.column("prompt_tokens") + trace.column("output_tokens")).max()) // cluster.block_tokens)
        roomy = random.choice([0, 0, 0, 1, 2, longest])
        instances = tuple(
            replace(instance, kv_blocks=longest + roomy if random.random() < 0.9 else instance.kv_blocks)
            for instance in cluster.instances
        )
        cluster = replace(cluster, instances=instances, prefix_cache=random.random() < 0.97)
    cluster = replace(cluster, kv=random_kv(random, cluster, trace), migrate_ps=0)
    return replace(case, trace=trace, cluster=cluster, policies=case.policies | random_movement(random))


def family_trace(random: Random, requests: int, trace_block_tokens: int) -> Trace:
    """Draw requests whose prompts are cuts of a few long ones, with an answer's blocks behind, spread over time."""
    gaps = random.choice([(0, 900), (0, 0, 9000), (3000,), (100, 20_000), (20_000,), (60_000,)])
    count = random.choice([3, 6, 12])
    families = [[100 * family + place for place in range(random.randint(1, 6))] for family in range(count)]
    arrival_ps, next_id = 0, 10_000
    columns: dict[str, list[Any]] = {name: [] for name in ("arrival_s", "prompt_tokens", "output_tokens")}
    columns |= {"prefix_blocks": [], "tier": []}
    for _ in range(requests):
        family = random.choice(families)
        chain = family[: random.choice([len(family), len(family), random.randint(0, len(family))])]
        if random.random() < 0.3:
            chain = [*chain, *range(next_id, next_id + random.randint(1, 3))]
            next_id += 10
        if random.random() < 0.2:
            families[families.index(family)] = chain or family
        columns["arrival_s"].append(arrival_ps * PS)
        columns["prompt_tokens"].append(max(1, len(chain) * trace_block_tokens + random.choice([0, 0, 1, 3])))
        columns["output_tokens"].append(random.choice([1, 1, 2, 5]))
        columns["prefix_blocks"].append(chain)
        columns["tier"].append(random.choice(TIERS))
        arrival_ps += random.choice(gaps)
    return build("families", columns, trace_block_tokens)


def random_kv(random: Random, cluster: Cluster, trace: Trace) -> Kv:
    """Draw a hierarchy on the scale of a trace."""
    return kv_for(random, cluster, round(float(trace.column("arrival_s").max()) / PS))


def random_trace(random: Random, requests: int, trace_block_tokens: int) -> Trace:
    """Draw requests with tied arrivals, shared prefixes, turns, tiers, and many edge lengths."""
    rows = range(requests)
    gaps = random.choice([(0,), (0, 0, 1, 100), (0, 7, 500, 3000), (1, 20_000), (0, 0, 0, 1_000_000)])
    arrival_ps, arrivals = 0, []
    for _ in rows:
        arrivals.append(arrival_ps * PS)
        arrival_ps += random.choice(gaps)
    shared = random.random() < 0.8
    chains, prompts = random_prefixes(random, requests, trace_block_tokens, shared)
    most_output = random.choice([1, 3, 12, 40, 40, 40, 300])
    columns: dict[str, Any] = {
        "arrival_s": arrivals,
        "prompt_tokens": prompts,
        "output_tokens": [random.choice([1, most_output, random.randint(1, most_output)]) for _ in rows],
        "tier": [random.choice(TIERS) for _ in rows],
    }
    if shared:
        columns["prefix_blocks"] = chains
    if random.random() < 0.5:
        columns["parent"] = [random.randint(0, row - 1) if row and random.random() < 0.5 else -1 for row in rows]
        columns["think_s"] = [
            random.choice([0, 0, 1, 150, 4000]) * PS if parent >= 0 else 0.0 for parent in columns["parent"]
        ]
    if random.random() < 0.5:
        columns["tenant"] = [random.choice("ab") for _ in rows]
    return build("scenario", columns, trace_block_tokens if shared else None)


def random_prefixes(
    random: Random, requests: int, block_tokens: int, shared: bool
) -> tuple[list[list[int]], list[int]]:
    """Draw chained ids, each chain a cut of an earlier one with new ids behind it, and prompts that they fit.

    returns : chains, prompt tokens; the last id may stand for a partial block, and ids may stop before the prompt
    """
    chains: list[list[int]] = []
    prompts = []
    next_id = 0
    for row in range(requests):
        chain: list[int] = []
        if shared and row and random.random() < 0.7:
            earlier = chains[random.randint(0, row - 1)]
            chain = earlier[: random.choice([len(earlier), random.randint(0, len(earlier))])]
        fresh = random.choice([0, 0, 1, random.randint(1, 5)])
        chain = chain + list(range(next_id, next_id + fresh))
        next_id += fresh
        extra = random.choice([0, 0, 1, random.randint(1, block_tokens), -random.randint(0, block_tokens - 1)])
        chains.append(chain)
        prompts.append(max(1, len(chain) * block_tokens + extra))
    return chains, prompts


def random_cluster(random: Random, trace: Trace, block_tokens: int) -> Cluster:
    """Draw a cluster whose instances may differ, often with hardly more blocks than the longest request needs."""
    contexts = trace.column("prompt_tokens") + trace.column("output_tokens") - 1
    longest = int(-(-contexts.max() // block_tokens))
    alike = random.random() < 0.5
    first = random_instance(random, "mixed", longest, block_tokens)
    instances = []
    for role in random.choice(SHAPES):
        instance = random_instance(random, role, longest, block_tokens) if not alike else first
        instances.append(Instance(**{**instance.__dict__, "role": role}))
    layers = random.choice([None, 1, 3, 7])
    lag_ps = random.choice([0, 0, 0, 0, 70, 1000, 50_000])
    pooled = random.random() < 0.15
    if pooled:
        instances = [replace(instance, role="mixed", home=instance.role) for instance in instances]
    cached = random.random() < 0.8
    migrate_ps = random.choice([0, 0, 0, 300, 5000, 40_000])
    return small_cluster(instances, cached, None if pooled else layers, signal_lag_ps=lag_ps, mixed_pool=pooled,
                         migrate_ps=migrate_ps)  # fmt: skip


def random_instance(random: Random, role: str, longest_blocks: int, block_tokens: int) -> Instance:
    """Draw the limits of an instance; a few cannot hold the longest request."""
    roomy = random.choice([0, 0, 0, 1, 1, 2, 4, longest_blocks, 5 * longest_blocks, 100_000])
    kv_blocks = longest_blocks + roomy if random.random() < 0.9 else max(1, longest_blocks - 1)
    return small_instance(
        role,
        random_profile(random),
        token_fs=random.choice([1, 777, 12_345, 3_000_000]),
        latency_ps=random.choice([0, 0, 1, 900]),
        max_batch=random.choice([1, 2, 3, 8, 8, 64]),
        token_budget=random.choice([1, 3, 8, 17, 64, 512]),
        block_tokens=block_tokens,
        kv_blocks=kv_blocks,
    )


def random_profile(random: Random) -> Profile:
    """Draw integer costs: odd, zero but for the constant, or piecewise with many breaks."""
    kind = random.choice(["constant", "linear", "linear", "piecewise"])
    if kind == "constant":
        return small_profile(iteration_ps=random.choice([1, 100]))
    coefficients: dict[str, Any] = {
        "prefill_token_ps": random.choice([0, 3, 11]),
        "prefill_token_sq_fs": random.choice([0, 17, 2001]),
        "decode_request_ps": random.choice([0, 5]),
    }
    if kind == "linear":
        return small_profile(
            iteration_ps=random.choice([1, 13, 997]), kv_token_ps=random.choice([0, 1, 7]), **coefficients
        )
    tokens, kv = random_segments(random, 1, 6), random_segments(random, 0, 40)
    own = Random(repr((tokens, kv)))  # drawn apart: the scenarios before stay what they were
    decode = random_segments(own, 1, 6) if own.random() < 0.5 else None
    mixed = random_segments(own, 0, 40) if own.random() < 0.5 else None
    return small_profile(token_segments=tokens, kv_segments=kv, decode_segments=decode, mixed_kv_segments=mixed,
                         mixed_request_ps=own.choice([0, 4]), **coefficients)  # fmt: skip


def random_segments(random: Random, lowest_ps: int, widest: int) -> list[tuple[int, int, int]]:
    """Draw a table that never falls, with steps and changes of slope."""
    start, value = 0, lowest_ps + random.choice([0, 90])
    segments = []
    for _ in range(random.randint(1, 6)):
        slope, width = random.choice([0, 1, 3, 10]), random.randint(1, widest)
        segments.append((start, value, slope))
        start, value = start + width, value + slope * width + random.choice([0, 0, 25])
    return segments


def random_policies(random: Random) -> dict[str, Chosen]:
    """Draw a registered policy for every slot, with tunables inside their ranges."""
    load_all()
    chosen = {}
    for slot, group in registry().items():
        if slot in ("fetch", "write"):
            continue  # `hierarchical` draws them
        # Most scenarios take every request, or there would be little to see; the twin knows nothing of oracles.
        names = sorted(name for name in group if not name.startswith("oracle_"))
        name = "always" if slot == "admit" and random.random() < 0.6 else random.choice(names)
        tunables = group[name].tunables
        values = {key: random_value(random, tunable, group[name].defaults[key]) for key, tunable in tunables.items()}
        chosen[slot] = choose(slot, name, values)
    return chosen


def random_value(random: Random, tunable: Span | Choice, default: Any) -> Any:
    """Draw a tunable: its default, its ends, or something between on the scale of a small trace."""
    if isinstance(tunable, Choice):
        return random.choice(tunable.values)
    if tunable.whole:
        few = min(int(tunable.high), int(tunable.low) + 6)
        return random.choice([int(default), int(tunable.low), random.randint(int(tunable.low), few)])
    if random.random() < 0.3:
        return default
    width = tunable.high - tunable.low
    tiny = 10.0 ** random.uniform(-10, log(width, 10)) if width > 0 else 0.0
    return min(float(tunable.high), tunable.low + random.choice([0.0, tiny, width * random.random()]))

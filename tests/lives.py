"""Random lives of instances on the scale of the scenarios: failures of every kind, scaling, and all that they meet."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

from replay.cluster import Cluster
from replay.engine.life_schema import FAILURES
from replay.kv import Kv
from replay.life import Failures, Life, Pool
from replay.policy import choose
from tests.scenarios import Scenario, hierarchical, random_kv, random_value, scenario
from tests.small import PS

SHAPES = (
    ("mixed", "mixed"),
    ("mixed", "mixed", "mixed"),
    ("prefill", "decode"),
    ("prefill", "prefill", "decode", "decode"),
    ("prefill", "prefill", "decode"),
    ("prefill", "decode", "decode"),
    ("prefill", "mixed", "decode"),
    ("prefill", "prefill", "mixed", "mixed", "decode", "decode"),
)
ROLES = ("prefill", "mixed", "decode")
SCALERS = ("fixed", "target_tracking", "schedule", "role_switch", "odd_scale")


def random_plan(random: Random, cluster: Cluster, near_ps: list[int], node_instances: int) -> tuple[Any, ...]:
    """Draw failures of every kind near some times: now and then several at once, of one thing, one within another."""
    count = len(cluster.instances)
    known = {"instance": count, "node": -(-count // node_instances), "link": count, "suspect": count, "control": 1}
    rows: list[dict[str, Any]] = []
    if cluster.kv is not None:
        common = any(store.node < 0 for store in cluster.kv.stores)
        known |= {"store": cluster.kv.shared_nodes + common, "shard": cluster.kv.index.shards}
    there = [kind for kind in FAILURES if known.get(kind, 0)]
    stores = [kind for kind in there if kind in ("node", "store", "shard")]
    kinds = random.choice([there, stores, ["instance"], ["instance", "node"], ["link", "instance"], ["control"]])
    for _ in range(random.choice([0, 1, 2, 5, 12, 12, 30])):
        kind = random.choice(kinds)
        what = random.randrange(known[kind])
        at_ps = random.choice(near_ps) + random.choice([1, 20, 100, 300, random.randint(1, 2000), 8000])
        if rows and random.random() < 0.4:
            before = random.choice(rows)
            at_ps = round(before["at_s"] / PS) + random.choice([0, 0, 1, random.randint(0, 400)])
            what = before["what"] if before["kind"] == kind and random.random() < 0.5 else what
        for_ps = random.choice([1, 60, 300, 700, 700, 5000])
        rows.append({"at_s": at_ps * PS, "for_s": for_ps * PS, "what": what, "kind": kind,
                     "speed": random.choice([0.0, 0.0, 0.1, 0.5, 1.0])})  # fmt: skip
    return tuple(rows)


def node_pools(random: Random, kv: Kv) -> list[Pool]:
    """Draw how many shared DRAM nodes and servers of the store for all there are to be."""
    found = []
    for role, most in kv.nodes.items():
        if most:
            fewest = 0 if role == "memory" else 1
            least = random.choice([fewest, 1, random.randint(fewest, most)])
            found.append(Pool(role, least, most, random.choice([most, most, random.randint(least, most)])))
    return found


def random_life(random: Random, cluster: Cluster, arrivals_ps: list[int], least_ps: int) -> Life:
    """Draw what a cluster's instances do: a few on at first, questions often, times as long as iterations or longer.

    least_ps : between two questions
    """
    pools = []
    for role in ROLES:
        most = sum(instance.role == role for instance in cluster.instances)
        if most:
            least = random.choice([1, 1, random.randint(1, most)])
            pools.append(Pool(role, least, most, random.choice([most, most, random.randint(least, most)])))
    first = sum(pool.initial for pool in pools)
    if cluster.kv is not None:
        pools += node_pools(random, cluster.kv)
    node_instances = random.choice([1, 2, 2, 8])
    interval_ps = max(least_ps, random.choice([100, 999, 6000])) if random.random() < 0.6 else 0
    near_ps = arrivals_ps
    if interval_ps and random.random() < 0.5:  # what questions begin is still under way
        near_ps = [interval_ps * k for k in range(1, 12)]
    failures = Failures(random_plan(random, cluster, near_ps, node_instances), {}, {}, None, 0.0)
    return Life(
        pools=tuple(pools),
        interval_ps=interval_ps,
        start_ps=random.choice([0, 1, 800, 3000, interval_ps // 2, 2 * interval_ps]),
        budget=random.choice([0, 0, first, first + 1]),
        failures=failures,
        detect_ps=random.choice([0, 1, 50, 900, 4000]),
        replica_tokens=random.choice([0, 1, 4, 16, 50]),
        node_instances=node_instances,
        node_start_ps=random.choice([0, 1, 500, 2500]),
        drain_ps=random.choice([0, 1, 60, 400, 5000, 10**6]),
    )


def lively(case: Scenario, random: Random, roles: Sequence[str] = ()) -> Scenario:
    """Return a scenario whose instances start, drain and fail.

    roles : of its instances if these are to stay
    """
    cluster = case.cluster
    if not roles:
        roles = random.choice(SHAPES)
        instances = [replace(random.choice(case.cluster.instances), role=role, home=None) for role in roles]
        cluster = replace(case.cluster, instances=tuple(instances), mixed_pool=False, migrate_ps=0)
    arrivals_ps = [round(float(arrival_s) / PS) for arrival_s in case.trace.column("arrival_s")]
    least_ps = (arrivals_ps[-1] + 1000 * int(case.trace.column("output_tokens").sum())) // 60
    cluster = replace(cluster, life=random_life(random, cluster, arrivals_ps, least_ps))
    names = {"recover": random.choice(["restart", "resume", "resume", "restore", "restore", "give_up", "odd_recover"]),
             "scale": random.choice(SCALERS)}  # fmt: skip
    chosen = {slot: choose(slot, name) for slot, name in names.items()}
    for slot, choice in chosen.items():
        values = {name: random_value(random, tunable, choice.values[name])
                  for name, tunable in choice.policy.tunables.items()}  # fmt: skip
        chosen[slot] = choose(slot, choice.policy.name, values)
    return replace(case, cluster=cluster, policies=case.policies | chosen)


def tiered_case_of(seed: int, most_requests: int = 20) -> Scenario:
    """Return the scenario of a seed with a KV hierarchy, whose nodes fail too."""
    random = Random(f"tiered lives {seed}")
    case = hierarchical(scenario(Random(f"tiered {seed}"), most_requests), random)
    cluster = replace(case.cluster, mixed_pool=False, migrate_ps=0)
    roles = random.choice(SHAPES)
    instances = [replace(random.choice(cluster.instances), role=role, home=None) for role in roles]
    cluster = replace(cluster, instances=tuple(instances))
    kv = replace(random_kv(random, cluster, case.trace), changes=())
    kv = replace(kv, disk_servers=random.choice([1, 2, 3, 5]))
    return lively(replace(case, cluster=replace(cluster, kv=kv)), random, roles)


def case_of(seed: int, most_requests: int = 40) -> Scenario:
    """Return the scenario of a seed."""
    return lively(scenario(Random(seed), most_requests), Random(f"lives {seed}"))

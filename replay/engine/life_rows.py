"""Build the rows of the life of instances: their states at first, their pools, and everything that is to fail."""

from math import log1p
from typing import TYPE_CHECKING, Any

import numpy as np

from replay.engine import schema
from replay.engine.draws import mix, plain_uniform
from replay.engine.life_schema import (
    ASK,
    FAIL,
    FAILURE,
    FAILURES,
    FIRST_MOMENTS,
    LIFE,
    LOSS,
    MOMENT,
    OFF,
    POOL,
    SETTING,
    TALLY,
    UP,
    Lives,
)
from replay.engine.schema import NEVER_PS, NONE
from replay.engine.tier_schema import NODES, TIMER
from replay.engine.tree import plain_set_event
from replay.errors import ConfigError
from replay.hardware.units import ps
from replay.life import NODE_ROLES
from replay.policy import DRAM_NODES

if TYPE_CHECKING:
    from replay.cluster import Cluster
    from replay.kv import Kv
    from replay.life import Failures, Life
    from traces import Trace

STREAM = 0x11FE  # of the random draws of failures
MOST_FAILURES = 1_000_000
FIRST_PS = np.int64(1)
PS = 1e-12
# arrays that a fork needs for itself
CHANGING = ("life", "node_lives", "pools", "totals", "asked", "setting", "life_timers", "moments", "losses", "offered",
            "offered_decodes", "offered_ids", "decode_ids")  # fmt: skip


def no_lives() -> Lives:
    """Return one row of each, unused."""
    kinds = (LIFE, LIFE, POOL, TALLY, TALLY, FAILURE, SETTING, TIMER, MOMENT, LOSS, schema.VIEW, schema.VIEW)
    return Lives(*(np.zeros(1, kind) for kind in kinds), np.zeros(1, np.int64), np.zeros(1, np.int64))


def lives_of(trace: "Trace", cluster: "Cluster", state: schema.State, options: dict[str, Any]) -> Lives:
    """Return the life of a cluster's instances before the first event; the tree and the CLUSTER row get their part.

    options : seed, targets (least TTFT target of any tier, least of ITL and TPOT, inf for none)
    """
    settings = cluster.life
    assert settings is not None
    count = len(cluster.instances)
    failures = plan_of(settings, cluster, trace, options["seed"])
    life, nodes = _life(settings, cluster), _nodes(settings, cluster)
    pools = _pools(settings, cluster, state.views, options["targets"])
    setting = np.zeros(1, SETTING)
    for name in ("again_head", "stranded_head", "shut_head"):
        setting[name] = NONE
    for name in ("interval_ps", "start_ps", "detect_ps", "replica_tokens", "budget", "node_instances", "node_start_ps",
                 "drain_ps"):  # fmt: skip
        setting[name] = getattr(settings, name)
    setting["num_pools"] = len(pools)
    hit = sum(settings.node_instances if kind == FAILURES.index("node") else 1 for kind in failures["kind"])
    timers = np.zeros(64 + 4 * (count + len(nodes)) + 3 * hit + (len(trace) if settings.replica_tokens else 0), TIMER)
    _begin(setting, timers, failures, settings.interval_ps)
    first_ps = timers["time_ps"][: int(setting["timers"][0])].min(initial=NEVER_PS)
    plain_set_event(state.tree, 3 * count + 3, first_ps)
    state.cluster["away"] = int((life["state"] != UP).sum())
    if cluster.kv is not None:
        own = state.hierarchy.stores["server"]
        state.hierarchy.stores["present"][(own >= 0) & (life["state"][own] != UP)] = 0
        _switch_off(state, cluster.kv, nodes)
    moments = np.zeros(FIRST_MOMENTS + 8 * (count + len(nodes)), MOMENT)
    return Lives(life, nodes, pools, np.zeros(1, TALLY), np.zeros(len(pools), TALLY), failures, setting, timers,
                 moments, np.zeros(len(trace), LOSS), np.zeros(count, schema.VIEW), np.zeros(count, schema.VIEW),
                 np.zeros(count, np.int64), np.zeros(count, np.int64))  # fmt: skip


def more_moments(state: schema.State) -> schema.State:
    """Return a state with twice as many rows for changes of instances where they are nearly used up."""
    moments, used = state.lives.moments, int(state.lives.setting["moments"][0])
    if not state.cluster["lives"][0] or 2 * used < len(moments):
        return state
    more = np.zeros(2 * len(moments), MOMENT)
    more[:used] = moments[:used]
    return state._replace(lives=state.lives._replace(moments=more.view(type(moments))))


def _begin(setting: np.ndarray, timers: np.ndarray, failures: np.ndarray, interval_ps: int) -> None:
    """Set the first timers, modified in place: the first question, the first failure."""
    first = [(interval_ps, ASK)] if interval_ps else []
    if len(failures) > 1:
        first.append((int(failures["at_ps"][0]), FAIL))
    for k, (time_ps, kind) in enumerate(first):
        timers[k] = (time_ps, k, kind, 0)
    setting["timers"] = setting["sequence"] = len(first)
    setting["recurring"] = 1 if interval_ps else 0


def _life(settings: "Life", cluster: "Cluster") -> np.ndarray:
    life = np.zeros(len(cluster.instances), LIFE)
    life["nic_permille"], life["lost_head"], life["state"] = 1000, NONE, OFF
    roles = np.array([instance.role for instance in cluster.instances])
    for k, pool in enumerate(settings.pools):
        own = np.flatnonzero(roles == pool.role)
        life["pool"][own] = k
        life["state"][own[: pool.initial]] = UP
        life["trusted"][own[: pool.initial]] = 1
    return life


def _nodes(settings: "Life", cluster: "Cluster") -> np.ndarray:
    """Return the life of the shared DRAM nodes, then of the servers of the store for all, LIFE (at least 1,)."""
    counts = {} if cluster.kv is None else cluster.kv.nodes
    nodes = np.zeros(max(1, sum(counts.values())), LIFE)
    nodes["pool"], nodes["state"] = NONE, UP
    pools = {pool.role: (k, pool) for k, pool in enumerate(settings.pools)}
    first = 0
    for role, most in counts.items():
        if role in pools:
            k, pool = pools[role]
            nodes["pool"][first : first + most] = k
            nodes["state"][first + pool.initial : first + most] = OFF
        first += most
    return nodes


def _switch_off(state: schema.State, kv: "Kv", nodes: np.ndarray) -> None:
    """Let the nodes that are off at first hold nothing, and the store for all be as fast as its servers, in place."""
    stores, off = state.hierarchy.stores, np.flatnonzero(nodes["state"][: kv.shared_nodes] != UP)
    stores["present"][np.isin(stores["node"], off) & (stores["server"] < 0)] = 0
    first = int(state.hierarchy.rings["first_owner"][NODES])
    state.hierarchy.owners["takes"][first + off] = 0
    common, servers = int(state.cluster["common_store"][0]), nodes["state"][kv.shared_nodes :]
    if common < 0:
        return
    up = int((servers == UP).sum())
    stores["write_block_fs"][common] = stores["full_write_block_fs"][common] * len(servers) // up
    disk = state.hierarchy.disks[stores["disk"][common]]
    media = state.hierarchy.media[int(disk["media"]) : int(disk["media"] + disk["media_count"])]
    for name in ("op_ps", "read_block_fs", "write_block_fs"):
        media[name] = media[f"full_{name}"] * len(servers) // up


def _pools(settings: "Life", cluster: "Cluster", views: np.ndarray, targets: tuple[float, float]) -> np.ndarray:
    pools = np.zeros(len(settings.pools), POOL)
    roles = [instance.role for instance in cluster.instances]
    pools["ttft_target_s"], pools["itl_target_s"] = targets
    pools["start_s"], pools["budget"] = settings.start_ps * PS, settings.budget
    for k, pool in enumerate(settings.pools):
        pools["index"][k] = k
        pools["least"][k], pools["most"][k] = pool.least, pool.most
        if pool.role in NODE_ROLES:
            assert cluster.kv is not None
            shared = [store for store in cluster.kv.stores if store.server < 0]
            one = shared[0] if pool.role == "memory" else shared[-1]  # the store for all is the last one
            pools["role"][k] = DRAM_NODES + NODE_ROLES.index(pool.role)
            pools["start_s"][k] = settings.node_start_ps * PS
            pools["kv_tokens"][k] = one.blocks * cluster.block_tokens
            continue
        first = roles.index(pool.role)
        pools["role"][k] = schema.ROLES.index(pool.role)
        for name in ("iteration_s", "prefill_token_s", "decode_request_s", "kv_token_s", "prefill_tokens_per_s"):
            pools[name][k] = views[name][first]
        pools["places"][k] = views["max_batch"][first]
        pools["kv_tokens"][k] = views["total_blocks"][first].astype(np.int64) * views["block_tokens"][first]
    return pools


def plan_of(settings: "Life", cluster: "Cluster", trace: "Trace", seed: int) -> np.ndarray:
    """Return all failures in order of time, FAILURE (n + 1,), the last one never reached.

    Failures of one instance, node or link that come by chance are exponential times up and down, one after another.

    raises : ConfigError for a failure of something that is not there, or too many
    """
    failures, count = settings.failures, len(cluster.instances)
    nodes = -(-count // settings.node_instances)
    known = {"instance": count, "node": nodes, "link": count, "suspect": count, "control": 1, **stores_of(cluster)}
    rows = [(row["at_s"], row["for_s"], row["what"], row.get("speed"), row["kind"]) for row in failures.plan]
    for at_s, _, what, _, kind in rows:
        if what >= known[kind]:
            raise ConfigError(f"a failure must be of one of the cluster's {known[kind]} of kind {kind}, but that at "
                              f"{at_s:g} s is of {what}. Count from 0 (failures.plan).")
    until_s = float(trace.column("arrival_s").max()) if failures.until_s is None else failures.until_s
    for kind in failures.mtbf_s:
        for what in range(known[kind]):
            rows += [(at_s, for_s, what, None, kind) for at_s, for_s in _drawn(failures, kind, what, until_s, seed)]
        if len(rows) > MOST_FAILURES:
            raise ConfigError(f"a run has at most {MOST_FAILURES:,} failures, but more than that come up to "
                              f"{until_s:g} s. Raise failures.mtbf_s or set failures.until_s.")
    found = np.zeros(len(rows) + 1, FAILURE)
    for k, (at_s, for_s, what, speed, kind) in enumerate(sorted(rows, key=_place)):
        speed = failures.link_speed if speed is None else speed
        found[k] = (max(ps(at_s, "at_s"), FIRST_PS), max(ps(for_s, "for_s"), FIRST_PS), what, round(1000 * speed),
                    FAILURES.index(kind))  # fmt: skip
    found["at_ps"][-1] = NEVER_PS
    return found


def stores_of(cluster: "Cluster") -> dict[str, int]:
    """Return how many pool nodes and index shards can fail: the store that all share counts as the last node."""
    kv = cluster.kv
    if kv is None:
        return {"store": 0, "shard": 0}
    common = any(store.node < 0 for store in kv.stores)
    return {"store": kv.shared_nodes + common, "shard": kv.index.shards}


def _place(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return row[0], FAILURES.index(row[4]), row[2], row[1]


def _drawn(failures: "Failures", kind: str, what: int, until_s: float, seed: int) -> list[tuple[float, float]]:
    """Draw when one thing fails and for how long: an alternating renewal process, exponential both ways."""
    mtbf_s, mttr_s = failures.mtbf_s[kind], failures.mttr_s[kind]
    key = mix(mix(seed) ^ (STREAM << 40) ^ (FAILURES.index(kind) << 32) ^ what)
    found: list[tuple[float, float]] = []
    at_s = 0.0
    while len(found) <= MOST_FAILURES:
        at_s -= mtbf_s * log1p(-plain_uniform(key, 2 * len(found)))
        if at_s >= until_s:
            break
        for_s = -mttr_s * log1p(-plain_uniform(key, 2 * len(found) + 1))
        found.append((at_s, for_s))
        at_s += for_s
    return found

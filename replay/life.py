"""The life of a cluster's instances: those that come and go with the load, and those that fail; and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from replay.engine.life_schema import LIVES, OFF
from replay.life_misses import misses_while_starting
from replay.metrics import ARRIVED, FINISHED

if TYPE_CHECKING:
    from replay.metrics import Value
    from replay.session import Session

PS = 1e-12
NODE_ROLES = ("memory", "storage")  # of pools whose members are shared DRAM nodes, or servers of the store for all
TABLES = ("lives", "life_changes", "nodes", "node_changes")
OF_A_NODE = ("crashes", "starts", "cached_lost_blocks", "cached_shrunk_blocks")
OF_AN_INSTANCE = ("crashes", "starts", "lost_requests", "lost_kv_tokens", "cached_lost_blocks", "cached_shrunk_blocks")
COLUMNS = ("losses", "away_s", "recomputed_tokens", "restored_tokens")


@dataclass(frozen=True, eq=False)
class Pool:
    """The instances of one role, or the nodes of one of NODE_ROLES: how many at the least, at the most and at first."""

    role: str
    least: int
    most: int
    initial: int


@dataclass(frozen=True, eq=False)
class Failures:
    """What fails: rows of a plan, and how often what fails by chance.

    plan   : at_s, kind, what, for_s, speed of each failure, in any order
    mtbf_s : kind -> mean time between failures of one of them, kinds that never fail left out
    mttr_s : kind -> mean time to repair
    """

    plan: tuple[Mapping[str, Any], ...]
    mtbf_s: Mapping[str, float]
    mttr_s: Mapping[str, float]
    until_s: float | None
    link_speed: float


@dataclass(frozen=True, eq=False)
class Life:
    """What a cluster's instances do beside serving.

    interval_ps    : how often the scale policy is asked, 0 for never
    start_ps       : from the decision to start an instance until it serves
    budget         : instances that are on at once, 0 for no limit
    detect_ps      : from a failure until routers know
    replica_tokens : KV of decoding requests is copied every so many tokens, 0 for never
    node_start_ps  : as start_ps, of a shared DRAM node or a storage server
    drain_ps       : how long a shared DRAM node that is to go may move what it holds to the others
    """

    pools: tuple[Pool, ...]
    interval_ps: int
    start_ps: int
    budget: int
    failures: Failures
    detect_ps: int
    replica_tokens: int
    node_instances: int
    node_start_ps: int = 0
    drain_ps: int = 0


def settled(session: "Session") -> dict[str, np.ndarray]:
    """Return time paid, up and down of every instance up to now, int64 [ps] (num_instances,)."""
    return _settled(session, session.state.lives.life)


def node_times(session: "Session") -> dict[str, np.ndarray]:
    """Return the same of every shared DRAM node and server of the store for all."""
    return _settled(session, session.state.lives.node_lives)


def _settled(session: "Session", life: np.ndarray) -> dict[str, np.ndarray]:
    elapsed_ps = int(session.state.cluster["now_ps"][0]) - life["since_ps"]
    serves = np.isin(life["state"], (LIVES.index("up"), LIVES.index("draining")))
    return {"paid_ps": life["paid_ps"] + elapsed_ps * (life["state"] != OFF),
            "up_ps": life["up_ps"] + elapsed_ps * serves,
            "down_ps": life["down_ps"] + elapsed_ps * (life["state"] == LIVES.index("down"))}  # fmt: skip


def paid_s(session: "Session") -> np.ndarray | None:
    """Return how long each instance was paid up to now, float64 [s]; None where all are there all the time."""
    if session.cluster.life is None:
        return None
    paid: np.ndarray = settled(session)["paid_ps"] * PS
    return paid


def numbers(session: "Session", requests: pl.DataFrame) -> dict[str, "Value"]:
    """Return what scaling and failures did in a run; nothing where all instances are there all the time.

    gpu_hours              : GPUs times the time that their instance was paid: all but OFF, start and repair included
    availability           : share of the time that instances were wanted in which they served
    served_share           : share of arrived requests that finished; of each tier too
    losses_of_a_failure_max : blast radius: requests lost by one failure, at the most
    misses_while_starting  : as `replay.life_misses` counts them
    cached_tokens_shrunk   : of cached_tokens_lost, those that went with instances switched off
    """
    if session.cluster.life is None:
        return {}
    life, setting = session.state.lives.life, session.state.lives.setting[0]
    times = {name: value.astype(np.float64) for name, value in settled(session).items()}  # sums may pass 64 bits
    gpus = np.array([float(instance.profile.gpus) for instance in session.cluster.instances])
    losses = session.state.lives.losses
    wanted_ps = times["up_ps"].sum() + times["down_ps"].sum()
    return {
        "gpu_hours": float((times["paid_ps"] * gpus).sum()) * PS / 3600,
        "gpu_hours_all_on": float(gpus.sum() * int(session.state.cluster["now_ps"][0])) * PS / 3600,
        "instances_started": int(life["starts"].sum()),
        "instance_failures": int(life["crashes"].sum()),
        "availability": float(times["up_ps"].sum() / wanted_ps) if wanted_ps else None,
        **served(requests),
        "lost_requests": int((losses["losses"] > 0).sum()),
        "losses": int(losses["losses"].sum()),
        "losses_of_a_failure_max": int(setting["most_lost"]),
        "recovery_s_mean": _mean(losses["away_ps"][losses["losses"] > 0] * PS),
        "recomputed_tokens": int(losses["recomputed_tokens"].sum()),
        "restored_tokens": int(losses["restored_tokens"].sum()),
        "regenerated_tokens": int(setting["wasted_tokens"]),
        "cached_tokens_lost": int(life["cached_lost_blocks"].sum()) * session.cluster.block_tokens,
        "cached_tokens_shrunk": int(life["cached_shrunk_blocks"].sum()) * session.cluster.block_tokens,
        "misses_while_starting": misses_while_starting(session, requests),
        **node_numbers(session),
    }


def served(requests: pl.DataFrame) -> dict[str, "Value"]:
    """Return the share of arrived requests that finished, of all and by tier; None where none arrived."""
    share = (FINISHED & ARRIVED).sum() / ARRIVED.sum()
    tiers = requests.group_by("tier", maintain_order=True).agg(share=share).iter_rows()
    shares = {"served_share": requests.select(share).item(), **{f"{tier}.served_share": one for tier, one in tiers}}
    return {name: one if one == one else None for name, one in shares.items()}


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def columns(session: "Session") -> dict[str, np.ndarray]:
    """Return what happened to each request by failures: how often it was lost, how long it was away, its KV since.

    recomputed_tokens, restored_tokens : KV that it lost and computed anew, or had from a replica; the rest was cached
    """
    if session.cluster.life is None:
        return {}
    losses = session.state.lives.losses
    return {"losses": losses["losses"], "away_s": losses["away_ps"] * PS,
            "recomputed_tokens": losses["recomputed_tokens"], "restored_tokens": losses["restored_tokens"]}


def node_paid_s(session: "Session") -> dict[str, np.ndarray]:
    """Return how long each shared DRAM node ("memory") and server of the store for all ("storage") was paid [s]."""
    kv = session.cluster.kv
    if session.cluster.life is None or kv is None:
        return {}
    paid_s, shared = node_times(session)["paid_ps"] * PS, kv.shared_nodes
    rows = {"memory": paid_s[:shared], "storage": paid_s[shared : shared + kv.nodes["storage"]]}
    return {role: own for role, own in rows.items() if len(own)}


def node_numbers(session: "Session") -> dict[str, "Value"]:
    """Return what became of shared DRAM nodes and storage servers, where their number may change.

    *_node_hours          : time that they were paid, start and repair included
    memory_tokens_shrunk  : KV that went with DRAM nodes as they were switched off; memory_tokens_moved: that they had
                            moved to others before
    """
    found: dict[str, Value] = {f"{role}_node_hours": float(paid.sum()) / 3600
                               for role, paid in node_paid_s(session).items()}  # fmt: skip
    if "memory_node_hours" in found:
        nodes, shared = session.state.lives.node_lives, session.cluster.kv.shared_nodes  # type: ignore[union-attr]
        moved = session.state.hierarchy.stores["drained_blocks"][:shared]
        found |= {"memory_tokens_shrunk": int(nodes["cached_shrunk_blocks"].sum()) * session.cluster.block_tokens,
                  "memory_tokens_moved": int(moved.sum()) * session.cluster.block_tokens}  # fmt: skip
    return found


def tables(session: "Session") -> dict[str, pl.DataFrame]:
    """Return a row an instance and a row a node of the hierarchy, and a row for each change of what one is doing."""
    if session.cluster.life is None:
        return {}
    count = len(session.cluster.instances)
    roles = [instance.role for instance in session.cluster.instances]
    moments = session.state.lives.moments[: int(session.state.lives.setting["moments"][0])]
    found = _of_members("instance", roles, session.state.lives.life, settled(session), OF_AN_INSTANCE)
    found["life_changes"] = _changes("instance", moments[moments["instance"] < count], 0)
    nodes = session.cluster.kv.nodes if session.cluster.kv is not None else {}
    roles = [role for role, number in nodes.items() for _ in range(number)]
    if roles:
        found |= _of_members("node", roles, session.state.lives.node_lives, node_times(session), OF_A_NODE)
        found["node_changes"] = _changes("node", moments[moments["instance"] >= count], count)
    return found


def _of_members(kind: str, roles: list[str], life: np.ndarray, times: dict[str, np.ndarray],
                names: tuple[str, ...]) -> dict[str, pl.DataFrame]:  # fmt: skip
    table = pl.DataFrame({
        kind: np.arange(len(roles)), "role": roles, "state": [LIVES[code] for code in life["state"]],
        **{f"{name[:-3]}_s": value * PS for name, value in times.items()},
        **{name: np.ascontiguousarray(life[name]) for name in names}})  # fmt: skip
    return {"lives" if kind == "instance" else "nodes": table}


def _changes(kind: str, moments: np.ndarray, first: int) -> pl.DataFrame:
    return pl.DataFrame({"time_s": moments["time_ps"] * PS, kind: np.ascontiguousarray(moments["instance"]) - first,
                         "state": [LIVES[code] for code in moments["state"]]},
                        schema={"time_s": pl.Float64, kind: pl.Int32, "state": pl.String})  # fmt: skip

"""Read and check the nodes `scale` and `failures`: how instances come and go, and what fails."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from replay.engine.life_schema import FAILURES
from replay.errors import ConfigError
from replay.hardware.fields import count, keys, number
from replay.hardware.model import model_of
from replay.hardware.units import ps
from replay.kv import Kv
from replay.life import NODE_ROLES, Failures, Life, Pool

if TYPE_CHECKING:
    from replay.cluster import Instance

SCALE_KEYS = ("interval_s", "boot_s", "weights_bytes_per_s", "switch_s", "budget", "node_boot_s", "drain_s", "initial",
              "least")  # fmt: skip
FAILURE_KEYS = ("plan", "mtbf_s", "mttr_s", "until_s", "detect_s", "link_speed", "instances_per_node",
                "replica_tokens")  # fmt: skip
ROLES = ("prefill", "mixed", "decode")
POOLS = (*ROLES, *NODE_ROLES)
ROW_KEYS = ("at_s", "kind", "what", "for_s")


def build_life(config: Mapping[str, Any], instances: Sequence["Instance"], kv: Kv | None = None) -> Life | None:
    """Return the life of a cluster's instances, None where all are there from the beginning to the end.

    config : whole resolved configuration; nodes scale and failures may be absent
    kv     : its hierarchy, whose shared DRAM nodes and storage servers are pools too
    raises : ConfigError for an unknown key, a bad number, or a pool that could be empty
    """
    scale, failures = config.get("scale"), config.get("failures")
    scales = scale is not None and scale.get("interval_s") is not None
    if not scales and not fails(failures):
        return None
    from replay.hardware.conf import load

    scale = load("scale", "none") if scale is None else scale
    failures = load("failures", "none") if failures is None else failures
    keys(scale, SCALE_KEYS, ("name",), "scale")
    keys(failures, FAILURE_KEYS, ("name",), "failures")
    budget = 0 if scale["budget"] is None else count(scale["budget"], "scale.budget")
    interval_s = number(scale["interval_s"], "scale.interval_s", above=0.0) if scales else 0.0
    return Life(
        pools=_pools(scale, _most(instances, kv), budget),
        interval_ps=ps(interval_s, "scale.interval_s"),
        start_ps=ps(_start_s(scale, config), "the start of an instance"),
        budget=budget,
        node_start_ps=ps(number(scale["node_boot_s"], "scale.node_boot_s"), "scale.node_boot_s"),
        drain_ps=ps(number(scale["drain_s"], "scale.drain_s"), "scale.drain_s"),
        failures=_failures(failures),
        detect_ps=ps(number(failures["detect_s"], "failures.detect_s"), "failures.detect_s"),
        replica_tokens=count(failures["replica_tokens"], "failures.replica_tokens", 0),
        node_instances=count(failures["instances_per_node"], "failures.instances_per_node"),
    )


def fails(node: Any) -> bool:
    """Whether a `failures` node says that anything fails."""
    if not isinstance(node, Mapping):
        return False
    rates = node.get("mtbf_s")
    drawn = isinstance(rates, Mapping) and any(value is not None for value in rates.values())
    return bool(node.get("plan")) or drawn


def _start_s(scale: Mapping[str, Any], config: Mapping[str, Any]) -> float:
    boot_s = number(scale["boot_s"], "scale.boot_s")
    if scale["budget"] is not None and scale["switch_s"] is not None:
        return number(scale["switch_s"], "scale.switch_s")
    rate = number(scale["weights_bytes_per_s"], "scale.weights_bytes_per_s", above=0.0)
    model = config.get("model")
    return boot_s + (model_of(model).weight_bytes / rate if model else 0.0)


def _most(instances: Sequence["Instance"], kv: Kv | None) -> dict[str, int]:
    """Return how many members each pool has at the most, by role; those with none are left out."""
    most = {role: sum(instance.role == role for instance in instances) for role in ROLES}
    most |= kv.nodes if kv is not None else {}
    return {role: count for role, count in most.items() if count}


def _pools(scale: Mapping[str, Any], most: Mapping[str, int], budget: int) -> tuple[Pool, ...]:
    for name in ("initial", "least"):
        if not isinstance(scale[name], Mapping):
            raise ConfigError(f"scale.{name} must have a number for each role, but is {scale[name]!r}. Write "
                              f"scale.{name}.mixed=2.")
        keys(scale[name], (), POOLS, f"scale.{name}")
    pools = []
    for role, all_there in most.items():
        fewest = 0 if role == "memory" else 1
        least = count(scale["least"].get(role, 1), f"scale.least.{role}", fewest, all_there)
        first = scale["initial"].get(role)
        initial = all_there if first is None else count(first, f"scale.initial.{role}", fewest, all_there)
        pools.append(Pool(role, least, all_there, max(least, initial)))
    on = sum(pool.initial for pool in pools if pool.role in ROLES)
    if budget and on > budget:
        raise ConfigError(f"scale.budget must have room for the instances on at first, but is {budget} and these are "
                          f"{on}. Set scale.initial.")
    return tuple(pools)


def _failures(node: Mapping[str, Any]) -> Failures:
    times: dict[str, dict[str, float]] = {}
    for name in ("mtbf_s", "mttr_s"):
        if not isinstance(node[name], Mapping):
            raise ConfigError(f"failures.{name} must have a time for each kind, but is {node[name]!r}. Write "
                              f"failures.{name}.instance=86400.")
        keys(node[name], (), FAILURES, f"failures.{name}")
        times[name] = {kind: number(value, f"failures.{name}.{kind}", above=0.0)
                       for kind, value in node[name].items() if value is not None}  # fmt: skip
    if lacking := [kind for kind in times["mtbf_s"] if kind not in times["mttr_s"]]:
        raise ConfigError(f"what fails must be repaired, but failures.mttr_s.{lacking[0]} is null. Set it.")
    return Failures(
        plan=_plan(node["plan"]),
        mtbf_s=times["mtbf_s"],
        mttr_s=times["mttr_s"],
        until_s=None if node["until_s"] is None else number(node["until_s"], "failures.until_s"),
        link_speed=number(node["link_speed"], "failures.link_speed", most=1.0),
    )


def _plan(plan: Any) -> tuple[Mapping[str, Any], ...]:
    if plan is None:
        return ()
    rows = _read(plan) if isinstance(plan, str) else plan
    if not isinstance(rows, list | tuple) or not all(isinstance(row, Mapping) for row in rows):
        raise ConfigError(f"failures.plan must be a file or a list of {{at_s, kind, what, for_s}}, but is {plan!r}.")
    for k, row in enumerate(rows):
        place = f"failures.plan[{k}]"
        keys(row, ROW_KEYS, ("speed",), place)
        if row["kind"] not in FAILURES:
            raise ConfigError(f"{place}.kind must be one of {', '.join(FAILURES)}, but is {row['kind']!r}.")
        number(row["at_s"], f"{place}.at_s")
        number(row["for_s"], f"{place}.for_s", above=0.0)
        count(row["what"], f"{place}.what", 0)
        if row.get("speed") is not None:
            number(row["speed"], f"{place}.speed", most=1.0)
    return tuple(rows)


def _read(path: str) -> list[dict[str, Any]]:
    readers: dict[str, Callable[[str], pl.DataFrame]] = {
        ".csv": pl.read_csv, ".parquet": pl.read_parquet, ".jsonl": pl.read_ndjson, ".ndjson": pl.read_ndjson,
    }  # fmt: skip
    ending = "." + path.rsplit(".", 1)[-1]
    if ending not in readers:
        raise ConfigError(f"failures.plan must end in {', '.join(readers)}, but is {path!r}. Save it as one of these.")
    try:
        return readers[ending](path).to_dicts()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"failures.plan cannot be read: {str(error).splitlines()[0]} ({path}).") from None

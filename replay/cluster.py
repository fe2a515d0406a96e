"""A cluster: the instances that serve a trace, resolved from configuration and checked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from replay.errors import ConfigError
from replay.fabric import Fabric
from replay.fabric_config import build_fabric
from replay.hardware import Profile, build, refuse_overflow
from replay.hardware.conf import load, node
from replay.hardware.fields import choice, count, keys, number
from replay.hardware.profile import USUAL_LONGEST_TOKENS
from replay.hardware.units import ps
from replay.kv import Kv
from replay.kv_config import build_kv
from replay.life import Life
from replay.life_config import build_life
from replay.ranks_config import build_ranks
from replay.speculation import Speculation, build_speculation
from replay.stages import Stage
from replay.stages_config import build_stages

ROLES = ("prefill", "mixed", "decode")
DEFAULT_BLOCK_TOKENS = 16
UNLIMITED_BLOCKS = 1_000_000_000
LIMITS = ("max_batch", "token_budget", "kv_blocks", "nic_bytes_per_s", "nic_latency_s")
KEYS = (*ROLES, "default_mixed", *LIMITS, "block_tokens", "handoff", "prefix_cache", "cache_outputs", "mixed_pool",
        "migrate_s", "ranks", "plan_ahead", "instances")
HANDOFFS = ("whole", "layerwise", "chunked")
MOST_INSTANCES = 65536


@dataclass(frozen=True, eq=False)
class Instance:
    """One model replica: its role, its costs and its limits."""

    role: str
    profile: Profile
    max_batch: int
    token_budget: int
    block_tokens: int
    kv_blocks: int
    nic_bytes_per_s: float
    nic_latency_s: float
    home: str | None = None  # in a mixed pool: the role to which it returns; None for its role


@dataclass(frozen=True, eq=False)
class Cluster:
    """The instances of a run, ordered prefill, mixed, decode.

    layerwise : a handoff sends each layer as soon as it is computed, rather than all layers at the end
    chunked   : it sends each chunk of the prompt as soon as it is computed; over a fabric only
    layers    : layers of the model, the pieces of a layerwise handoff
    signal_lag_ps : routers are told what instances report at multiples of it; 0 for what is so
    mixed_pool    : every instance is mixed, and hands a prompt over where the decode policy says; its home is a role
    life          : how instances come, go and fail; None where all are there from the beginning to the end
    migrate_ps    : how often the migrate policy is asked which instance gives a running request to which; 0 never
    cache_outputs : what a request generated on an instance that caches prompts is found there too
    stages        : what requests pass beside the transformer, each behind those that it needs
    speculation   : what decoding requests propose beyond the next token; None for nothing
    ranks         : so many neighbouring instances begin and end their iterations together; 1 for each by itself
    plan_ahead    : the batch of an iteration is formed while the one before runs
    """

    name: str
    instances: tuple[Instance, ...]
    block_tokens: int
    layerwise: bool
    layers: int
    prefix_cache: bool
    gpus: int
    kv: Kv | None = None
    fabric: Fabric | None = None
    chunked: bool = False
    signal_lag_ps: int = 0
    mixed_pool: bool = False
    migrate_ps: int = 0
    life: Life | None = None
    stages: tuple[Stage, ...] = ()
    cache_outputs: bool = False
    speculation: Speculation | None = None
    ranks: int = 1
    plan_ahead: bool = False


def cluster(name: str = "mixed_4", hardware: Any = "linear", model: Any = "llama3_8b", **overrides: Any) -> Cluster:
    """Build a cluster from the same YAML files that the command reads.

    name            : a file of conf/cluster
    hardware, model : a name, a whole node, or changes to a named one: {"base": "h100", "tp": 8}
    overrides       : keys of the cluster node, or failing that of the hardware node: prefill=5, decode=11, tp=8;
                      kv, fabric, stages, speculation, scale and failures a name of their group, a whole node, or
                      changes to a named one: {"base": "dram", "dram_gib": 64};
                      trace_block_tokens states the trace's block size when block_tokens must follow it
    returns         : Cluster
    raises          : ConfigError as `build_cluster`
    """
    trace_block_tokens = overrides.pop("trace_block_tokens", None)
    config = {"cluster": load("cluster", name), "hardware": node("hardware", hardware), "model": node("model", model),
              "kv": node("kv", overrides.pop("kv", "none")),
              "fabric": node("fabric", overrides.pop("fabric", "none")),
              "stages": node("stages", overrides.pop("stages", "none")),
              "speculation": node("speculation", overrides.pop("speculation", "none")),
              "scale": node("scale", overrides.pop("scale", "none")),
              "failures": node("failures", overrides.pop("failures", "none"))}
    for key, value in overrides.items():
        owner = "hardware" if key in config["hardware"] and key not in config["cluster"] else "cluster"
        config[owner][key] = value
    config["cluster"]["name"] = name
    return build_cluster(config, trace_block_tokens)


def build_cluster(config: Mapping[str, Any], trace_block_tokens: int | None = None) -> Cluster:
    """Resolve and check the cluster of a run.

    config             : whole resolved configuration with the nodes cluster, hardware and model
    trace_block_tokens : block size of the trace's prefix ids; None when it has none
    returns            : Cluster
    raises             : ConfigError for an unknown key, a bad number, a cluster that cannot finish a request, blocks
                         that do not divide the trace's, or a model that does not fit
    """
    settings = config.get("cluster")
    if not isinstance(settings, Mapping):
        raise ConfigError(f"cluster must be a configuration node, but is {settings!r}. Select one: cluster=mixed_4.")
    keys(settings, KEYS, ("name",), "cluster")
    block_tokens = _block_tokens(settings["block_tokens"], trace_block_tokens)
    groups = _explicit(settings) if settings["instances"] is not None else _counted(settings)
    _check_roles(groups)
    instances: list[Instance] = []
    for group in sorted(groups, key=lambda group: ROLES.index(group["role"])):
        instances += [_instance(group, settings, config, block_tokens)] * group["count"]
    handoff = choice(settings["handoff"], HANDOFFS, "cluster.handoff")
    mixed_pool = choice(settings["mixed_pool"], (True, False), "cluster.mixed_pool")
    if mixed_pool:
        if handoff != "whole":
            raise ConfigError(f"an instance of a mixed pool may keep what it prefilled, so that a handoff cannot begin "
                              f"before: cluster.handoff must be whole, but is {handoff}.")
        instances = [replace(instance, role="mixed", home=instance.role) for instance in instances]
    kv = build_kv(config.get("kv"), instances, block_tokens)
    fabric = build_fabric(config.get("fabric"), instances, kv)
    stages = build_stages(config.get("stages"))
    speculation = build_speculation(config.get("speculation"))
    changes = kv is not None and kv.changes
    life = build_life(config, instances, kv)
    if life is not None:
        _refuse_beside_life(settings, {"fabric": fabric, "kv.changes": changes, "stages": stages})
    if handoff == "chunked" and fabric is None:
        raise ConfigError("cluster.handoff=chunked needs a fabric: without one each sender's card carries a handoff as "
                          "a whole or layer by layer. Select a fabric, such as fabric=pcie_gdr, or another handoff.")
    return Cluster(
        name=str(settings.get("name") or "cluster"),
        instances=tuple(instances),
        block_tokens=block_tokens,
        layerwise=handoff == "layerwise",
        layers=_layers(config),
        prefix_cache=choice(settings["prefix_cache"], (True, False), "cluster.prefix_cache"),
        gpus=sum(instance.profile.gpus for instance in instances) + sum(one.servers * one.gpus for one in stages),
        kv=kv,
        fabric=fabric,
        chunked=handoff == "chunked",
        signal_lag_ps=_signal_lag_ps(config.get("signals")),
        mixed_pool=mixed_pool,
        migrate_ps=_migrate_ps(settings["migrate_s"], fabric, kv),
        life=life,
        stages=stages,
        cache_outputs=_cache_outputs(settings, kv),
        speculation=speculation,
        ranks=build_ranks(settings, instances, {"fabric": fabric, "kv": kv, "stages": stages, "scale": life,
                                                "speculation": speculation}),
        plan_ahead=choice(settings["plan_ahead"], (True, False), "cluster.plan_ahead"),
    )


def _refuse_beside_life(settings: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    others = {**{name: bool(part) for name, part in parts.items()}, "cluster.mixed_pool": settings["mixed_pool"],
              "cluster.migrate_s": settings["migrate_s"] is not None}
    if refused := [name for name, there in others.items() if there]:
        raise ConfigError(f"instances that come, go or fail are not modelled together with {refused[0]} yet. Leave "
                          f"{refused[0]} at its default, or scale=none and failures=none.")


def _cache_outputs(settings: Mapping[str, Any], kv: Kv | None) -> bool:
    caches: bool = choice(settings["cache_outputs"], (True, False), "cluster.cache_outputs")
    if caches and kv is not None:
        raise ConfigError("what requests generate is kept in the memory of GPUs alone: cluster.cache_outputs must be "
                          "false with a KV hierarchy. Set cluster.cache_outputs=false or kv=none.")
    return caches


def _migrate_ps(value: Any, fabric: Fabric | None, kv: Kv | None) -> int:
    if value is None:
        return 0
    if fabric is not None or kv is not None:
        raise ConfigError("live migration goes over the instances' own cards, beside no other tier: cluster.migrate_s "
                          "must be null with a fabric or a KV hierarchy. Set kv=none and fabric=none.")
    return ps(number(value, "cluster.migrate_s", above=0.0), "cluster.migrate_s")


def _signal_lag_ps(node: Any) -> int:
    if node is None:
        return 0
    if not isinstance(node, Mapping):
        raise ConfigError(f"signals must be a configuration node, but is {node!r}. Write signals.lag_s=0.1.")
    keys(node, ("lag_s",), (), "signals")
    return ps(number(node["lag_s"], "signals.lag_s", 0.0), "signals.lag_s")


def _counted(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    counts = {role: 0 if settings[role] is None else count(settings[role], f"cluster.{role}", 0) for role in ROLES}
    # A preset's mixed instances give way as soon as the user asks for a split cluster.
    if settings["mixed"] is None and counts["prefill"] == counts["decode"] == 0:
        counts["mixed"] = count(settings["default_mixed"], "cluster.default_mixed", 0)
    return [{"role": role, "count": number_of} for role, number_of in counts.items() if number_of > 0]


def _explicit(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    groups = settings["instances"]
    if any(settings[role] for role in ROLES):
        raise ConfigError(
            "cluster.instances lists every instance, so cluster.prefill, cluster.mixed and cluster.decode must stay 0 "
            "or null. Change the list, or select a preset such as cluster=pd_4p4d."
        )
    if not isinstance(groups, list | tuple) or not all(isinstance(group, Mapping) for group in groups):
        raise ConfigError(f"cluster.instances must be a list of {{role, count, hardware, ...}}, but is {groups!r}.")
    checked = []
    for index, group in enumerate(groups):
        place = f"cluster.instances[{index}]"
        keys(group, ("role",), ("count", "hardware", "model", *LIMITS), place)
        choice(group["role"], ROLES, f"{place}.role")
        checked.append({**group, "count": count(group.get("count", 1), f"{place}.count")})
    return checked


def _instance(
    group: Mapping[str, Any], settings: Mapping[str, Any], config: Mapping[str, Any], block_tokens: int
) -> Instance:
    hardware = node("hardware", group["hardware"]) if group.get("hardware") else config.get("hardware")
    model = node("model", group["model"]) if group.get("model") else config.get("model")
    profile = build({"hardware": hardware, "model": model})
    limits = {name: settings[name] if group.get(name) is None else group[name] for name in LIMITS}
    instance = Instance(
        role=group["role"],
        profile=profile,
        max_batch=count(limits["max_batch"], "cluster.max_batch"),
        token_budget=count(limits["token_budget"], "cluster.token_budget"),
        block_tokens=block_tokens,
        kv_blocks=_kv_blocks(limits["kv_blocks"], profile, block_tokens),
        nic_bytes_per_s=_or_from(limits, "nic_bytes_per_s", profile.nic_bytes_per_s, above=0.0),
        nic_latency_s=_or_from(limits, "nic_latency_s", profile.nic_latency_s),
    )
    refuse_overflow(profile, instance.token_budget, instance.max_batch, USUAL_LONGEST_TOKENS)
    return instance


def _or_from(limits: Mapping[str, Any], name: str, otherwise: float, above: float | None = None) -> float:
    return otherwise if limits[name] is None else number(limits[name], f"cluster.{name}", above=above)


def _kv_blocks(value: Any, profile: Profile, block_tokens: int) -> int:
    if value is not None:
        return count(value, "cluster.kv_blocks", most=UNLIMITED_BLOCKS)
    if profile.kv_capacity_tokens is None:
        return UNLIMITED_BLOCKS
    blocks = profile.kv_capacity_tokens // block_tokens
    if blocks < 1:
        raise ConfigError(
            f"an instance must hold at least one KV block, but profile '{profile.name}' has room for "
            f"{profile.kv_capacity_tokens} tokens and a block is {block_tokens}. Lower cluster.block_tokens."
        )
    return min(blocks, UNLIMITED_BLOCKS)


def _block_tokens(value: Any, trace_block_tokens: int | None) -> int:
    if value is None:
        return trace_block_tokens or DEFAULT_BLOCK_TOKENS
    block_tokens = count(value, "cluster.block_tokens")
    if trace_block_tokens and trace_block_tokens % block_tokens:
        raise ConfigError(
            f"the trace's block size must be a multiple of cluster.block_tokens, but {trace_block_tokens} is not a "
            f"multiple of {block_tokens}. Set cluster.block_tokens=null or a divisor of {trace_block_tokens}."
        )
    return block_tokens


def _check_roles(groups: list[dict[str, Any]]) -> None:
    have = {role: sum(group["count"] for group in groups if group["role"] == role) for role in ROLES}
    if have["prefill"] + have["mixed"] == 0:
        raise ConfigError(
            f"a cluster needs a prefill or mixed instance, but has {have['decode']} decode and no other. "
            f"Set cluster.prefill or cluster.mixed."
        )
    if have["prefill"] and have["mixed"] + have["decode"] == 0:
        raise ConfigError(
            f"a cluster with prefill instances needs a decode or mixed instance, but has {have['prefill']} prefill and "
            f"no other. Set cluster.decode or cluster.mixed."
        )
    if sum(have.values()) > MOST_INSTANCES:
        raise ConfigError(f"a cluster has at most {MOST_INSTANCES} instances, but {sum(have.values())} are asked for.")


def _layers(config: Mapping[str, Any]) -> int:
    for owner in ("hardware", "model"):
        section = config.get(owner)
        if isinstance(section, Mapping) and section.get("layers") is not None:
            return count(section["layers"], f"{owner}.layers")
    return 1

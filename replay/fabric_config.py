"""Build the fabric of a cluster from its configuration node, refusing what cannot be meant with one sentence."""

from collections.abc import Mapping, Sequence
from typing import Any

from replay.errors import ConfigError
from replay.fabric import BACK_END, FRONT_END, KINDS, Background, Fabric
from replay.fabric_cut import handoff_bytes_per_s
from replay.fabric_topology import Layout, lay_out
from replay.hardware.fields import choice, count, keys, number
from replay.hardware.units import PS_PER_S, ps
from replay.kv import Kv

CHOICES: dict[str, tuple[Any, ...]] = {
    "sharing": (None, "fifo", "fair"), "networks": ("separate", "converged"), "balance": ("ecmp", "spray", "adaptive"),
    "per_flow": (True, False), "striping": (True, False), "staging": ("direct", "host"),
    "priorities": ("none", "strict"),
}  # fmt: skip
NETWORK_KEYS = ("nics", "bytes_per_s", "spines", "oversubscription", "latency_s", "hop_s")
NODES: dict[str, tuple[str, ...]] = {
    "back_end": NETWORK_KEYS, "front_end": NETWORK_KEYS, "scale_up": ("gpus", "bytes_per_s", "ethernet"),
    "pool": ("bytes_per_s", "memory_bytes_per_s", "extra_latency_s"), "storage": ("bytes_per_s",),
    "gateway": ("bytes_per_s",), "exchange": ("group", "token_bytes"),
}  # fmt: skip
KEYS = (
    *CHOICES, *NODES, "gpus_per_node", "nodes_per_leaf", "pcie_bytes_per_s", "host_bytes_per_s", "host_cores",
    "core_bytes_per_s", "bisection_bytes_per_s", "incast_loss", "message_bytes", "message_s", "outstanding", "local_s",
    "front_end_kinds", "request_token_bytes", "background", "signal_s", "samples", "port_price_per_hour",
)  # fmt: skip
URGENCY = {"load": 1, "write": 2, "drain": 2, "compaction": 2, "background": 2}  # the rest 0: decodes wait for it
REMEDY = "Change it, or select another fabric, such as fabric=pcie_gdr."
MOST_BYTES = 1e12
SHORTEST_GAP_S, LONGEST_GAP_S = 1e-6, 86_400.0  # of background flows: one event each, and int64 ps for the rarest


def build_fabric(node: Any, instances: Sequence[Any], kv: Kv | None) -> Fabric | None:
    """Resolve and check the fabric of a cluster.

    node      : configuration node `fabric`
    instances : the cluster's instances, prefill, mixed, decode
    kv        : its KV hierarchy, whose stores are endpoints too
    returns   : Fabric; None if it is switched off
    raises    : ConfigError for an unknown key, a bad value, or a fabric that cannot be
    """
    if node is None:
        return None
    if not isinstance(node, Mapping):
        raise ConfigError(f"fabric must be a configuration node, but is {node!r}. Select one: fabric=pcie_gdr.")
    keys(node, KEYS, ("name",), "fabric")
    for name, allowed in CHOICES.items():
        choice(node[name], allowed, f"fabric.{name}", REMEDY)
    if node["sharing"] is None:
        return None
    _check_kv(instances)
    for name, wanted in NODES.items():
        if not isinstance(node[name], Mapping):
            raise ConfigError(f"fabric.{name} must be a configuration node, but is {node[name]!r}. {REMEDY}")
        keys(node[name], wanted, (), f"fabric.{name}")
    fair = node["sharing"] == "fair"
    if node["priorities"] == "strict" and not fair:
        raise ConfigError("fabric.priorities=strict needs fabric.sharing=fair, but sharing is fifo: a FIFO link serves "
                          "in order of arrival. Set one of them.")
    layout = lay_out(_numbers(node), instances, kv)
    return _fabric(node, layout, fair)


def _fabric(node: Mapping[str, Any], layout: Layout, fair: bool) -> Fabric:
    converged = node["networks"] == "converged"
    front = _front_end_kinds(node["front_end_kinds"])
    price = number(node["port_price_per_hour"], "fabric.port_price_per_hour")
    strict = node["priorities"] == "strict"
    carrier = FRONT_END if "handoff" in front and not converged else BACK_END
    return Fabric(
        name=str(node.get("name") or "fabric"),
        links=tuple(layout.links), endpoints=tuple(layout.endpoints), networks=layout.networks, fair=fair,
        balance=node["balance"], per_flow=node["per_flow"], striping=node["striping"],
        loss=round(1000 * number(node["incast_loss"], "fabric.incast_loss", most=1.0)),
        network_of=tuple(FRONT_END if kind in front and not converged else BACK_END for kind in KINDS),
        class_of=tuple(URGENCY.get(kind, 0) if strict else 0 for kind in KINDS),
        bisection=layout.bisection,
        message_bytes=count(node["message_bytes"], "fabric.message_bytes"),
        message_ps=_ps(node["message_s"], "fabric.message_s"),
        outstanding=count(node["outstanding"], "fabric.outstanding", 0),
        local_ps=_ps(node["local_s"], "fabric.local_s"),
        request_token_bytes=count(node["request_token_bytes"], "fabric.request_token_bytes", 0, 1 << 20),
        exchange_group=count(node["exchange"]["group"], "fabric.exchange.group", 0, 65536),
        exchange_token_bytes=count(node["exchange"]["token_bytes"], "fabric.exchange.token_bytes", 0, 1 << 30),
        background=_background(node["background"]),
        signal_ps=_ps(node["signal_s"], "fabric.signal_s"),
        samples=count(node["samples"], "fabric.samples", 0, 1 << 16),
        bisection_bytes_per_s=handoff_bytes_per_s(
            layout.links, layout.endpoints, layout.networks[carrier], carrier, layout.bisection),
        ports=layout.ports, price_per_hour=layout.ports * price,
    )  # fmt: skip


def _ps(value: Any, place: str) -> int:
    return ps(number(value, place, most=1e4), place)


def _check_kv(instances: Sequence[Any]) -> None:
    sizes = {instance.profile.kv_token_bytes for instance in instances}
    if len(sizes) > 1:
        raise ConfigError(f"a fabric needs one size of KV for all instances, but a token takes "
                          f"{', '.join(map(str, sorted(sizes)))} bytes. Use one model, or fabric=none.")
    if 0 in sizes:
        raise ConfigError("a fabric needs KV that takes memory, but hardware.kv_token_bytes is 0. Set it, or "
                          "fabric=none.")


def _numbers(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the topology is made of, checked: rates in bytes/s, counts, times in ps."""
    found: dict[str, Any] = {name: node[name] for name in ("networks", "balance", "striping", "staging")}
    found["gpus_per_node"] = count(node["gpus_per_node"], "fabric.gpus_per_node", 1, 4096)
    leaf = node["nodes_per_leaf"]
    found["nodes_per_leaf"] = None if leaf is None else count(leaf, "fabric.nodes_per_leaf", 1, 65536)
    for name in ("pcie_bytes_per_s", "host_bytes_per_s", "core_bytes_per_s"):
        found[name] = number(node[name], f"fabric.{name}", above=0.0)
    found["host_cores"] = count(node["host_cores"], "fabric.host_cores", 1, 65536)
    cut = node["bisection_bytes_per_s"]
    found["bisection_bytes_per_s"] = None if cut is None else number(cut, "fabric.bisection_bytes_per_s", above=0.0)
    for name in ("back_end", "front_end"):
        found[name] = _network(node[name], f"fabric.{name}")
    scale_up = node["scale_up"]
    gpus = scale_up["gpus"]
    found["domain_gpus"] = 0 if gpus is None else count(gpus, "fabric.scale_up.gpus", 1, 65536)
    found["scale_up_bytes_per_s"] = number(scale_up["bytes_per_s"], "fabric.scale_up.bytes_per_s", above=0.0)
    found["ethernet"] = choice(scale_up["ethernet"], (True, False), "fabric.scale_up.ethernet", REMEDY)
    pool = node["pool"]["bytes_per_s"]
    found["pool_bytes_per_s"] = None if pool is None else number(pool, "fabric.pool.bytes_per_s", above=0.0)
    memory = number(node["pool"]["memory_bytes_per_s"], "fabric.pool.memory_bytes_per_s", above=0.0)
    found["pool_memory_bytes_per_s"] = memory
    found["pool_extra_ps"] = _ps(node["pool"]["extra_latency_s"], "fabric.pool.extra_latency_s")
    for name in ("storage", "gateway"):
        found[f"{name}_bytes_per_s"] = number(node[name]["bytes_per_s"], f"fabric.{name}.bytes_per_s", above=0.0)
    return found


def _network(node: Mapping[str, Any], place: str) -> dict[str, Any]:
    speed = node["bytes_per_s"]
    return {
        "nics": count(node["nics"], f"{place}.nics", 1, 64),
        "bytes_per_s": None if speed is None else number(speed, f"{place}.bytes_per_s", above=0.0),
        "spines": count(node["spines"], f"{place}.spines", 1, 1024),
        "oversubscription": number(node["oversubscription"], f"{place}.oversubscription", above=0.0),
        "latency_ps": _ps(node["latency_s"], f"{place}.latency_s"),
        "hop_ps": _ps(node["hop_s"], f"{place}.hop_s"),
    }  # fmt: skip


def _front_end_kinds(value: Any) -> set[str]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"fabric.front_end_kinds must be a list of kinds of traffic, but is {value!r}. "
                          f"Write fabric.front_end_kinds=[request,background].")
    for kind in value:
        choice(kind, KINDS, "fabric.front_end_kinds", REMEDY)
    return set(value)


def _background(rows: Any) -> tuple[Background, ...]:
    if not isinstance(rows, list | tuple) or not all(isinstance(row, Mapping) for row in rows):
        raise ConfigError(f"fabric.background must be a list of {{bytes_per_s, flow_bytes}}, but is {rows!r}. Write "
                          f"fabric.background=[{{bytes_per_s: 10e9, flow_bytes: 1e9}}].")
    found = []
    for k, row in enumerate(rows):
        place = f"fabric.background[{k}]"
        keys(row, ("bytes_per_s", "flow_bytes"), (), place)
        size_bytes = round(number(row["flow_bytes"], f"{place}.flow_bytes", least=1.0, most=MOST_BYTES))
        speed = number(row["bytes_per_s"], f"{place}.bytes_per_s", above=0.0)
        gap_s = number(size_bytes / speed, f"the mean gap in seconds, flow_bytes / bytes_per_s, of {place}",
                       least=SHORTEST_GAP_S, most=LONGEST_GAP_S)  # fmt: skip
        found.append(Background(size_bytes, gap_s * PS_PER_S))
    return tuple(found)

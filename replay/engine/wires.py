"""Build the state of the fabric: links, endpoints, and rows for what will be under way."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from replay.engine import fabric_schema
from replay.engine.draws import mix, plain_uniform
from replay.engine.fabric_schema import (
    CHUNKED,
    HOPS,
    INTO,
    LAYERWISE,
    MOST_UNITS,
    NIC_IN,
    NIC_OUT,
    OUT,
    SPARE_FLOWS,
    WAYS,
    WHOLE,
    Wires,
)
from replay.engine.schema import NONE, State
from replay.engine.state import in_lines
from replay.errors import ConfigError

if TYPE_CHECKING:
    from replay.cluster import Cluster
    from replay.fabric import Fabric
    from traces import Trace

MOST_SHIFT, LEAST_LONGEST_BYTES = 6, 1 << 20
MOST_FLOWS = 1 << 21
FIRST_FLOWS = 4 * SPARE_FLOWS  # rows at the start; more are made when they run short
IN_LINES = ("flows", "links")
FLOW_ROWS = ("flows", "transfers", "hops", "entries", "agenda")
ROWS: dict[str, Any] = {
    "net": fabric_schema.NET, "links": fabric_schema.LINK, "endpoints": fabric_schema.ENDPOINT,
    "networks": fabric_schema.NETWORK, "kinds": fabric_schema.KIND, "flows": fabric_schema.FLOW,
    "transfers": fabric_schema.TRANSFER, "entries": fabric_schema.ENTRY, "generators": fabric_schema.GENERATOR,
    "transits": fabric_schema.TRANSIT,
}  # fmt: skip


def no_wires() -> Wires:
    """Return rows that nothing reads, for a cluster without a fabric."""
    rows = {name: np.zeros(1, kind) for name, kind in ROWS.items()}
    numbers = {name: np.zeros(1, np.int32) for name in ("bisection", "agenda", "order", "crowded", "crowd")}
    tables = {"ways": np.zeros((1, WAYS), np.int32), "hops": np.zeros((1, HOPS), np.int32)}
    return Wires(**rows, **numbers, **tables, series=np.zeros((1, 1), np.int64))


def wires_of(trace: "Trace", cluster: "Cluster", state: State, options: Mapping[str, Any]) -> Wires:
    """Return the fabric of a cluster before the first event; its first events go into the tree, in place.

    options : seed; reads_links, route_reads_links: whether decode, or admit and route, read what the links carry
    raises  : ConfigError for transfers that are too large for the kernel's integers
    """
    fabric = cluster.fabric
    assert fabric is not None
    shift = shift_for(longest_bytes(trace, cluster))
    salt = mix(int(options["seed"]) & (2**64 - 1))
    wires = Wires(
        net=_net(cluster, salt, shift, options),
        links=_links(fabric, shift),
        endpoints=_endpoints(fabric),
        ways=_ways(fabric),
        bisection=np.array(fabric.bisection or (NONE, NONE), np.int32),
        networks=_networks(fabric),
        kinds=_kinds(fabric),
        flows=in_lines(FIRST_FLOWS, fabric_schema.FLOW),
        transfers=np.zeros(FIRST_FLOWS, fabric_schema.TRANSFER),
        hops=np.zeros((FIRST_FLOWS, HOPS), np.int32),
        entries=np.zeros(FIRST_FLOWS * HOPS, fabric_schema.ENTRY),
        agenda=np.zeros(FIRST_FLOWS, np.int32),
        order=np.zeros(len(fabric.links), np.int32),
        crowded=np.zeros(len(fabric.links), np.int32),
        crowd=np.zeros(len(fabric.links), np.int32),
        generators=_generators(fabric, salt),
        transits=_transits(len(trace)),
        series=np.zeros((max(2, fabric.samples // 2 * 2), 1 + len(fabric.links)), np.int64),
    )
    _arm(wires, fabric, state)
    return wires


def copy_wires(wires: Wires) -> Wires:
    """Return a fabric's rows that go their own way."""
    copied = {}
    for name, old in wires._asdict().items():
        copied[name] = _rows_like(old, len(old), name)
        copied[name][:] = old
    return Wires(**copied)


def _rows_like(old: np.ndarray, count: int, name: str) -> np.ndarray:
    """Return so many rows of zeros of the type of others; those of IN_LINES begin with a line of the cache."""
    new = in_lines(count, old.dtype) if name in IN_LINES else np.zeros((count, *old.shape[1:]), old.dtype)
    return new.view(type(old))


def longest_bytes(trace: "Trace", cluster: "Cluster") -> int:
    """Return the most bytes that one transfer of a run can have."""
    fabric = cluster.fabric
    assert fabric is not None
    context = int((trace.column("prompt_tokens").astype(np.int64) + trace.column("output_tokens")).max())
    token_bytes = max(instance.profile.kv_token_bytes for instance in cluster.instances)
    most = [LEAST_LONGEST_BYTES, context * token_bytes, context * fabric.request_token_bytes]
    most += [flow.bytes for flow in fabric.background]
    if fabric.exchange_group > 1:
        budget = max(max(instance.token_budget for instance in cluster.instances), context)
        most.append(budget * fabric.exchange_token_bytes)
    return max(most)


def shift_for(most_bytes: int) -> int:
    """Return the resolution of rates, 2**shift to a MB/s, at which the longest transfer still fits int64.

    raises : ConfigError if none does
    """
    for shift in range(MOST_SHIFT, -1, -1):
        if most_bytes * (1_000_000 << shift) <= MOST_UNITS:
            return shift
    raise ConfigError(f"a transfer over a fabric must stay under {MOST_UNITS // 1_000_000:,} bytes, but one of this "
                      f"run may have {most_bytes:,}. Use shorter prompts, smaller KV or fabric=none.")


def _net(cluster: "Cluster", salt: int, shift: int, options: Mapping[str, Any]) -> np.ndarray:
    fabric = cluster.fabric
    assert fabric is not None
    row = np.zeros(1, fabric_schema.NET)
    for name in ("per_flow", "striping", "loss", "message_bytes", "message_ps", "outstanding", "local_ps", "fair",
                 "request_token_bytes", "exchange_token_bytes", "exchange_group", "signal_ps"):  # fmt: skip
        row[name] = getattr(fabric, name)
    row["salt"], row["unit"] = salt, 1_000_000 << shift
    row["kv_token_bytes"] = max(instance.profile.kv_token_bytes for instance in cluster.instances)
    row["block_bytes"] = cluster.kv.block_bytes if cluster.kv else 0
    row["balance"] = fabric_schema.BALANCES.index(fabric.balance)
    row["handoff"] = CHUNKED if cluster.chunked else LAYERWISE if cluster.layerwise else WHOLE
    row["classes"] = 1 + max(fabric.class_of)
    row["sample_ps"] = 1_000_000_000_000
    row["flow_free"] = row["transfer_free"] = row["active"] = row["last"] = row["first"] = NONE
    row["flows_used"] = 1  # row 0 is for paths that are only looked at
    row["gateway"] = len(fabric.endpoints) - 1
    for name in ("reads_links", "route_reads_links"):
        row[name] = options[name]
    return row


def _links(fabric: "Fabric", shift: int) -> np.ndarray:
    rows = in_lines(len(fabric.links), fabric_schema.LINK)
    rows["head"] = NONE
    for m, link in enumerate(fabric.links):
        rows["rate"][m] = max(1, round(link.bytes_per_s * 2**shift / 1e6))
        rows["receives"][m] = link.receives
    return rows


def _endpoints(fabric: "Fabric") -> np.ndarray:
    rows = np.zeros(len(fabric.endpoints), fabric_schema.ENDPOINT)
    for name in ("extra_ps", "node", "leaf", "domain", "group", "scale_out", "scale_in"):
        rows[name] = [getattr(endpoint, name) for endpoint in fabric.endpoints]
    return rows


def _ways(fabric: "Fabric") -> np.ndarray:
    rows = np.full((len(fabric.endpoints), WAYS), NONE, np.int32)
    for e, endpoint in enumerate(fabric.endpoints):
        rows[e, OUT : OUT + len(endpoint.out)] = endpoint.out
        rows[e, INTO : INTO + len(endpoint.into)] = endpoint.into
        rows[e, NIC_OUT : NIC_OUT + 2] = endpoint.nic_out
        rows[e, NIC_IN : NIC_IN + 2] = endpoint.nic_in
    return rows


def _networks(fabric: "Fabric") -> np.ndarray:
    rows = np.zeros(2, fabric_schema.NETWORK)
    for name in rows.dtype.names or ():
        rows[name] = [getattr(network, name) for network in fabric.networks]
    return rows


def _kinds(fabric: "Fabric") -> np.ndarray:
    rows = np.zeros(len(fabric.network_of), fabric_schema.KIND)
    rows["network"], rows["urgency"] = fabric.network_of, fabric.class_of
    return rows


def _generators(fabric: "Fabric", salt: int) -> np.ndarray:
    rows = np.zeros(max(1, len(fabric.background)), fabric_schema.GENERATOR)
    for g, flow in enumerate(fabric.background):
        rows[g] = (mix(salt ^ (g + 1)), flow.bytes, 0, flow.mean_ps)
    return rows


def _transits(requests: int) -> np.ndarray:
    rows = np.zeros(requests, fabric_schema.TRANSIT)
    for name in ("sent_ps", "ready_ps", "source"):
        rows[name] = NONE
    return rows


def _arm(wires: Wires, fabric: "Fabric", state: State) -> None:
    """Put the first background flows, the signals and the samples on the agenda, and its head into the event tree."""
    from replay.engine.tree import plain_set_event

    net, flows = wires.net, wires.flows
    timers = []
    for g, flow in enumerate(fabric.background):
        u = plain_uniform(wires.generators["key"][g], 0)
        timers.append((max(1, round(-math.log(1.0 - u) * flow.mean_ps)), fabric_schema.GENERATING, g))
    if fabric.signal_ps:
        timers.append((fabric.signal_ps, fabric_schema.SIGNALLING, NONE))
    if fabric.samples:
        timers.append((0, fabric_schema.SAMPLING, NONE))
    rows = []
    for sequence, (time_ps, kind, what) in enumerate(timers):
        f = 1 + sequence
        flows["end_ps"][f], flows["sequence"][f] = time_ps, sequence
        flows["state"][f], flows["transfer"][f] = kind, what
        rows.append((time_ps, sequence, f))
    net["flows_used"] += len(timers)
    net["flows_taken"] += len(timers)
    net["recurring"] = len(timers)
    net["sequence"] = net["events"] = len(timers)
    ordered = sorted(rows)
    wires.agenda[: len(ordered)] = [f for _, _, f in ordered]
    if ordered:
        plain_set_event(state.tree, 2 * int(state.cluster["num_instances"][0]) + 1, ordered[0][0])


def make_room(state: State) -> State:
    """Return a state with twice the rows for flows if it is short of them; what is under way keeps its rows."""
    if not state.cluster["fabric"][0]:
        return state
    wires = state.wires
    if int(wires.net["flows_taken"][0]) + SPARE_FLOWS <= len(wires.flows):
        return state
    if len(wires.flows) >= MOST_FLOWS:
        raise ConfigError(f"a fabric must carry what is sent over it, but {MOST_FLOWS:,} flows wait at once: its "
                          f"links are overloaded. Use faster links, or less background traffic.")
    grown = {}
    for name in FLOW_ROWS:
        old = getattr(wires, name)
        grown[name] = _rows_like(old, 2 * len(old), name)
        grown[name][: len(old)] = old
    return state._replace(wires=wires._replace(**grown))

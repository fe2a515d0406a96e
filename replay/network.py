"""What a replay says of its fabric: columns of `requests`, numbers of the summary, tables of links and of traffic."""

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from replay.fabric import KINDS, NETWORKS
from replay.metrics import PS_PER_S, Value

if TYPE_CHECKING:
    from replay.session import Session

COLUMNS = ("handoff_s", "exposed_handoff_s")
TABLES = ("links", "traffic", "network")
GB = 1e9


def columns(session: "Session") -> dict[str, pl.Series]:
    """Return the columns that a fabric adds to `requests`; none without one.

    handoff_s         : from the first byte sent to the decode instance until all is there; null where nothing was
    exposed_handoff_s : of that what came after the prefill, when the request could have gone on
    """
    if session.cluster.fabric is None:
        return {}
    transits, deliver_ps = session.state.wires.transits, session.state.jobs["deliver_ps"]
    there = (transits["ready_ps"] >= 0) & (transits["under_way"] == 0) & (deliver_ps >= transits["ready_ps"])
    starts = {"handoff_s": transits["sent_ps"], "exposed_handoff_s": transits["ready_ps"]}
    return {name: pl.Series(name, np.where(there, (deliver_ps - start_ps) / PS_PER_S, np.nan)).fill_nan(None)
            for name, start_ps in starts.items()}  # fmt: skip


def numbers(session: "Session", requests: pl.DataFrame) -> dict[str, Value]:
    """Return what a fabric adds to the summary; nothing without one.

    handoff_hidden_share   : 1 - exposed / whole time of the handoffs, summed
    KIND_gb                : bytes of each kind of traffic that there was
    KIND_transfer_s_mean   : time of one of its transfers: a handoff may be several, a load is one a store
    KIND_queueing_s_mean   : of that what a lone transfer would not have taken
    GROUP_utilisation_mean : bytes carried / what the links of a group (nic, uplink, ...) could have carried
    GROUP_utilisation_max  : the same of the busiest of them
    collision_share        : flows over a spine that found their uplink taken while another one was idle / all
    exchange_exposed_s     : by how much exchanges made iterations longer, all together
    bisection_gb_per_s     : what prefill instances can send to decode instances at once
    """
    fabric = session.cluster.fabric
    if fabric is None:
        return {}
    wires = session.state.wires
    net = wires.net[0]
    found: dict[str, Value] = {}
    for name in COLUMNS:
        found[f"{name}_mean"] = requests[name].mean()  # type: ignore[assignment]
        found[f"{name}_p99"] = requests[name].quantile(0.99, "linear")
    whole_s, exposed_s = (float(requests[name].sum()) for name in COLUMNS)
    found["handoff_hidden_share"] = 1.0 - exposed_s / whole_s if whole_s else None
    for kind, row in zip(KINDS, wires.kinds, strict=True):
        delivered = int(row["delivered"])
        if delivered:
            found[f"{kind}_gb"] = int(row["delivered_bytes"]) / GB
            found[f"{kind}_transfer_s_mean"] = float(row["time_ps"]) / PS_PER_S / delivered
            found[f"{kind}_queueing_s_mean"] = float(row["time_ps"] - row["alone_ps"]) / PS_PER_S / delivered
    used, groups = _utilisation(session), np.array([link.group for link in fabric.links])
    for group in dict.fromkeys(groups):
        found[f"{group}_utilisation_mean"] = float(used[groups == group].mean())
        found[f"{group}_utilisation_max"] = float(used[groups == group].max())
    inter = int(net["inter"])
    found["collision_share"] = int(net["collided"]) / inter if inter else None
    exposed_ps = session.state.instances["exchange_exposed_ps"].astype(np.float64).sum()
    found["exchange_exposed_s"] = float(exposed_ps / PS_PER_S)
    found["bisection_gb_per_s"] = fabric.bisection_bytes_per_s / GB
    found["fabric_ports"] = fabric.ports
    return found


def _utilisation(session: "Session") -> np.ndarray:
    """Return bytes carried / what could have been, float64 (num_links,)."""
    fabric = session.cluster.fabric
    assert fabric is not None
    speeds = np.array([link.bytes_per_s for link in fabric.links])
    return session.state.wires.links["bytes"] / (speeds * max(session.now_s, 1e-12))


def tables(session: "Session") -> dict[str, pl.DataFrame]:
    """Return the tables of a fabric: links, traffic, and network with samples; none without one.

    links   : a row a link: its group, speed, bytes, share of time in use, most flows at once, waiting time (fifo)
    traffic : a row a kind of traffic: transfers, bytes, mean and longest time, of that queueing
    network : a row a sample: how much each group of links was used since the sample before, and the busiest link
    """
    fabric = session.cluster.fabric
    if fabric is None:
        return {}
    rows, span_s = session.state.wires.links, max(session.now_s, 1e-12)
    links = pl.DataFrame({
        "link": [link.name for link in fabric.links], "group": [link.group for link in fabric.links],
        "gb_per_s": [link.bytes_per_s / GB for link in fabric.links], "gb": rows["bytes"] / GB,
        "utilisation": _utilisation(session), "busy_share": rows["busy_ps"] / PS_PER_S / span_s,
        "most_flows": np.ascontiguousarray(rows["most"]), "wait_s": rows["wait_ps"] / PS_PER_S,
    })  # fmt: skip
    found = {"links": links, "traffic": _traffic(session)}
    if fabric.samples:
        found["network"] = _series(session)
    return found


def _traffic(session: "Session") -> pl.DataFrame:
    rows = session.state.wires.kinds
    delivered = np.maximum(1, rows["delivered"])
    table: dict[str, Any] = {
        "kind": KINDS, "network": [NETWORKS[k] for k in rows["network"]], "class": rows["urgency"],
        "transfers": rows["transfers"], "gb": rows["bytes"] / GB,
        "mean_s": rows["time_ps"] / delivered / PS_PER_S,
        "queueing_s": (rows["time_ps"] - rows["alone_ps"]) / delivered / PS_PER_S,
        "longest_s": rows["longest_ps"] / PS_PER_S,
    }  # fmt: skip
    return pl.DataFrame({name: np.ascontiguousarray(value) if isinstance(value, np.ndarray) else list(value)
                         for name, value in table.items()})  # fmt: skip


def _series(session: "Session") -> pl.DataFrame:
    """Return how much was used between samples, group by group, and of the busiest link."""
    fabric = session.cluster.fabric
    assert fabric is not None
    wires = session.state.wires
    rows = np.asarray(wires.series[: int(wires.net["samples"][0])])
    if len(rows) < 2:
        rows = np.zeros((1, wires.series.shape[1]), np.int64).repeat(2, axis=0)
    times_s = rows[:, 0] / PS_PER_S
    speeds = np.array([link.bytes_per_s for link in fabric.links])
    used = np.diff(rows[:, 1:], axis=0) / (np.maximum(np.diff(times_s), 1e-12)[:, None] * speeds)
    groups = np.array([link.group for link in fabric.links])
    found = {f"{group}_utilisation": used[:, groups == group].mean(axis=1) for group in dict.fromkeys(groups)}
    return pl.DataFrame({"time_s": times_s[1:], **found, "busiest_utilisation": used.max(axis=1)})

"""Drive the engine's fabric alone: begin transfers, look at their rates, and let time pass."""

from typing import Any

import numpy as np

from replay.cluster import Cluster
from replay.engine.fabric_schema import FLOWING, OP_BEGIN, OP_SHARE
from replay.engine.state import table
from replay.fabric import KINDS, Endpoint, Fabric, Link, Network
from replay.session import Session
from tests.small import small_cluster, small_instance, small_policies, small_profile, small_trace
from traces.jit import INTERPRETED

BYTES_PER_PS = 1e12  # bytes/s of a link that carries one byte a picosecond
FAR_PS = 10**15  # when the only request arrives: until then the fabric has the time to itself
PLAIN: dict[str, Any] = {
    "name": "test", "fair": True, "balance": "ecmp", "per_flow": True, "striping": False, "loss": 0,
    "network_of": (0,) * len(KINDS), "class_of": (0,) * len(KINDS), "bisection": (), "message_bytes": 1 << 20,
    "message_ps": 0, "outstanding": 0, "local_ps": 0, "request_token_bytes": 0, "exchange_group": 0,
    "exchange_token_bytes": 0, "background": (), "signal_ps": 0, "samples": 0, "bisection_bytes_per_s": 1.0, "ports": 0,
    "price_per_hour": 0.0,
}  # fmt: skip


def star(count: int, speeds: dict[str, float] | None = None, per_leaf: int = 0, spines: int = 0,
         **changes: Any) -> Fabric:  # fmt: skip
    """Return a fabric of endpoints with a card each, on one switch or on leaves of `per_leaf`.

    speeds : bytes a picosecond of link groups "nic" and "uplink"; 1 where not given
    """
    speed = {"nic": 1.0, "uplink": 1.0} | (speeds or {})
    links, endpoints = [], []
    for e in range(count):
        out = len(links)
        links.append(Link(f"{e} out", "nic", speed["nic"] * BYTES_PER_PS))
        links.append(Link(f"{e} in", "nic", speed["nic"] * BYTES_PER_PS, True))
        leaf = e // per_leaf if per_leaf else 0
        endpoints.append(Endpoint(f"{e}", e, leaf, -1, -1, (), (), -1, -1, (out, out), (out + 1, out + 1), 0))
    leaves = 1 + endpoints[-1].leaf
    first_up = len(links)
    for way in ("up", "down"):
        links += [Link(f"{way} {leaf}.{spine}", "uplink", speed["uplink"] * BYTES_PER_PS)
                  for leaf in range(leaves) for spine in range(spines)]  # fmt: skip
    network = Network(1, spines, first_up, first_up + leaves * spines, 0, 0)
    return Fabric(links=tuple(links), endpoints=tuple(endpoints), networks=(network, network), **(PLAIN | changes))


def quiet(instances: int) -> Cluster:
    """Return a cluster whose instances do nothing for a long time."""
    return small_cluster([small_instance("mixed", small_profile(iteration_ps=1000)) for _ in range(instances)])


class Wires:
    """A fabric of which the instances are endpoints, and that nobody else uses."""

    def __init__(self, fabric: Fabric, seed: int = 0) -> None:
        cluster = quiet(len(fabric.endpoints) - 1)
        object.__setattr__(cluster, "fabric", fabric)
        trace = small_trace([(FAR_PS, 8, 1)])
        self.session = Session(trace, cluster, small_policies(), slo="none", seed=seed)
        self.session.advance(0)

    @property
    def wires(self) -> Any:
        """The fabric's rows."""
        return self.session.state.wires

    def call(self, *numbers: int) -> int:
        """Ask the fabric for one operation."""
        from replay.engine import compile

        call = [*numbers, *[0] * (6 - len(numbers))]
        if INTERPRETED:
            return int(compile.fabric_at(self.session.state._replace(policies=self._policies()), *call))
        words = table(self.session.state)
        return int(self._policies().fabric(words.ctypes.data, *call))

    def _policies(self) -> Any:
        from replay.engine.schema import Policies

        return Policies(*self.session._functions)

    def send(self, *flows: tuple[int, int, int], kind: str = "background") -> list[int]:
        """Begin transfers of (source, target, bytes) at once; returns their rows of `flows`, one each."""
        before = set(self.under_way())
        for source, target, size in flows:
            self.call(OP_BEGIN, source, target, size, KINDS.index(kind), -1)
        self.call(OP_SHARE)
        return sorted(set(self.under_way()) - before)

    def under_way(self) -> list[int]:
        """Return the rows of flows that are under way."""
        return [int(f) for f in np.flatnonzero(self.wires.flows["state"] == FLOWING)]

    def path(self, f: int) -> list[int]:
        """Return the links of a flow."""
        return [int(m) for m in self.wires.hops[f][: int(self.wires.flows["hops"][f])]]

    def step(self) -> float:
        """Handle one event; returns the time then [ps]."""
        self.session.advance(1)
        return int(self.session.state.cluster["now_ps"][0])

    def run(self) -> int:
        """Let time pass until nothing is under way; returns when the last flow ended [ps]."""
        while self.under_way():
            self.step()
        return int(self.session.state.cluster["now_ps"][0])

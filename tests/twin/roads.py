"""Which way a transfer goes over a fabric, and what that takes, in plain objects: FABRIC.md up to its flows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replay.engine import draws
from replay.fabric import KINDS, Fabric
from tests.twin.plain import ceil_div

if TYPE_CHECKING:
    from tests.twin.network import Flow

MASK = 2**64 - 1


@dataclass(eq=False)
class Wire:
    """A link."""

    number: int
    rate: int
    receives: bool
    free_ps: int = 0
    bytes: int = 0
    busy_ps: int = 0
    wait_ps: float = 0.0
    flows: list[Flow] = field(default_factory=list)
    seen_flows: int = 0
    seen_free_ps: int = 0
    seen_bytes: int = 0
    seen_share: float = 0.0


@dataclass
class Count:
    """What there was of a kind of traffic."""

    transfers: int = 0
    bytes: int = 0
    delivered: int = 0
    time_ps: float = 0.0
    alone_ps: float = 0.0


class Roads:
    """The links of a fabric, and the ways over them."""

    def __init__(self, fabric: Fabric, seed: int, longest: int) -> None:
        self.fabric = fabric
        shift = next(shift for shift in range(6, -1, -1) if longest * (1_000_000 << shift) <= 2**61)
        self.unit = 1_000_000 << shift
        self.wires = [Wire(m, max(1, round(link.bytes_per_s * 2**shift / 1e6)), link.receives)
                      for m, link in enumerate(fabric.links)]  # fmt: skip
        self.salt = draws.mix(seed & MASK)
        self.counts = {kind: Count() for kind in KINDS}

    def networked(self, a: int, b: int) -> bool:
        """Whether a transfer crosses cards."""
        x, y = self.fabric.endpoints[a], self.fabric.endpoints[b]
        return a == b or (x.node != y.node and (x.domain < 0 or x.domain != y.domain))

    def climbs(self, a: int, b: int, network: int) -> bool:
        """Whether a transfer goes over a spine."""
        leaves = self.fabric.endpoints[a].leaf != self.fabric.endpoints[b].leaf
        return a != b and leaves and self.fabric.networks[network].spines > 0

    def path(self, a: int, b: int, network: int, rail: int, spine: int) -> list[Wire]:
        """Return the links between two endpoints, each once."""
        x, y, wire = self.fabric.endpoints[a], self.fabric.endpoints[b], self.fabric.networks[network]
        cards = [x.nic_out[network] + rail], [y.nic_in[network] + rail]
        if a == b:
            links = cards[0] + cards[1]
        elif x.node == y.node:
            links = [*x.out, *y.into]
        elif x.domain >= 0 and x.domain == y.domain:
            links = [x.scale_out, y.scale_in]
        else:
            links = [*x.out, *cards[0]]
            if self.climbs(a, b, network):
                links += [wire.first_up + (x.leaf * wire.rails + rail) * wire.spines + spine]
                links += [wire.first_down + (y.leaf * wire.rails + rail) * wire.spines + spine]
            if self.fabric.bisection and {x.group, y.group} == {0, 1}:
                links += [self.fabric.bisection[x.group]]
            links += [*cards[1], *y.into]
        return [self.wires[m] for m in dict.fromkeys(links)]

    def hashed(self, a: int, b: int) -> int:
        """Return the hash of the transfer about to begin, or of its endpoints."""
        number = sum(count.transfers for count in self.counts.values())
        return draws.mix(self.salt ^ (a * 2**32 + b) ^ (number * 2**20 if self.fabric.per_flow else 0))

    def rail(self, a: int, b: int, network: int) -> int:
        """Choose the rail of a flow that is not striped."""
        rails = self.fabric.networks[network].rails
        if rails <= 1 or not self.networked(a, b):
            return 0
        if self.fabric.balance == "adaptive":
            first = self.fabric.endpoints[a].nic_out[network]
            return min(range(rails), key=lambda rail: len(self.wires[first + rail].flows))
        return self.hashed(a, b) % rails

    def spine(self, a: int, b: int, network: int, rail: int) -> int:
        """Choose the spine of a flow."""
        wire = self.fabric.networks[network]
        if wire.spines <= 1:
            return 0
        if self.fabric.balance == "ecmp":
            return draws.mix(self.hashed(a, b) ^ (rail + 1)) % wire.spines
        ups, downs = (
            [first + (self.fabric.endpoints[e].leaf * wire.rails + rail) * wire.spines + s for s in range(wire.spines)]
            for first, e in ((wire.first_up, a), (wire.first_down, b))
        )
        loads = [len(self.wires[up].flows) + len(self.wires[down].flows) for up, down in zip(ups, downs, strict=True)]
        return loads.index(min(loads))

    def delay_ps(self, a: int, b: int, network: int, size: int) -> int:
        """Return what a transfer takes beyond its flows."""
        fabric, wire = self.fabric, self.fabric.networks[network]
        if not self.networked(a, b):
            return fabric.local_ps
        far_ps = fabric.endpoints[a].extra_ps + fabric.endpoints[b].extra_ps
        messages = max(1, ceil_div(size, fabric.message_bytes))
        total = wire.latency_ps + wire.hop_ps * (3 if self.climbs(a, b, network) else 1) + far_ps
        total += messages * fabric.message_ps
        if fabric.outstanding:
            total += (messages - 1) // fabric.outstanding * 2 * (wire.latency_ps + far_ps)
        return total

    def card(self, e: int) -> Wire:
        """Return the first card link into an endpoint on the network of handoffs."""
        return self.wires[self.fabric.endpoints[e].nic_in[self.fabric.network_of[0]]]

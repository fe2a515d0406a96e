"""FABRIC.md in plain objects: links, flows that share them, transfers, and their events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import log
from types import SimpleNamespace
from typing import TYPE_CHECKING

from replay.engine import draws
from replay.fabric import KINDS, Fabric
from tests.twin.plain import ceil_div
from tests.twin.reading import plain_uniform
from tests.twin.roads import Roads, Wire

if TYPE_CHECKING:
    from tests.twin.model import Twin

NEVER = 2**63 - 1


@dataclass(eq=False)
class Flow:
    """Bytes on their way over a path."""

    bytes: int
    path: list[Wire]
    transfer: Transfer
    urgency: int
    sequence: int
    left: int
    start_ps: int
    since_ps: int
    rate: int = -1
    end_ps: int = NEVER
    ended: bool = False

    @property
    def peak(self) -> int:
        """What the slowest link of its path carries."""
        return min(wire.rate for wire in self.path)


@dataclass(eq=False)
class Transfer:
    """What is sent from one endpoint to another."""

    kind: str
    bytes: int
    begin_ps: int
    delay_ps: int
    done: Callable[[], None] | None
    alone_ps: int = 0
    flows: list[Flow] = field(default_factory=list)
    delivery_ps: int = NEVER  # once its last flow has ended
    delivered: bool = False


class Network(Roads):
    """The fabric of a cluster at work."""

    def __init__(self, fabric: Fabric, twin: Twin, seed: int, longest: int) -> None:
        super().__init__(fabric, seed, longest)
        self.twin = twin
        self.flows: list[Flow] = []
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.sequence = 0
        self.inter = self.collided = 0
        for g, background in enumerate(fabric.background):
            key = draws.mix(self.salt ^ (g + 1))
            self.push(gap_ps(key, 0, background.mean_ps), lambda g=g, key=key: self.generate(g, key, 0))
        if fabric.signal_ps:
            self.push(fabric.signal_ps, self.signal)

    @property
    def busy(self) -> bool:
        """Whether anything is under way, or about to be delivered."""
        counts = self.counts.values()
        return sum(count.transfers for count in counts) > sum(count.delivered for count in counts)

    @property
    def now(self) -> int:
        """The time of the event in hand."""
        return self.twin.clock.now

    def push(self, time_ps: int, action: Callable[[], None]) -> int:
        """Have something happen at a time; returns its sequence."""
        self.events.append((time_ps, self.sequence, action))
        self.sequence += 1
        return self.sequence - 1

    def pending(self) -> list[tuple[int, int]]:
        """List (time, sequence) of what is to happen."""
        found = [(time_ps, sequence) for time_ps, sequence, _ in self.events]
        return found + [(flow.end_ps, flow.sequence) for flow in self.flows if flow.end_ps < NEVER]

    def handle(self, sequence: int) -> None:
        """Handle an event."""
        for flow in self.flows:
            if flow.sequence == sequence:
                self.end(flow)
                return
        event = next(event for event in self.events if event[1] == sequence)
        self.events.remove(event)
        event[2]()

    # transfers

    def begin(self, a: int, b: int, size: int, kind: str, done: Callable[[], None] | None = None) -> Transfer:
        """Send bytes from one endpoint to another."""
        index = KINDS.index(kind)
        network = self.fabric.network_of[index]
        crosses = self.networked(a, b)
        transfer = Transfer(kind, size, self.now, self.delay_ps(a, b, network, size), done)
        rails = self.fabric.networks[network].rails if crosses and self.fabric.striping else 1
        sizes = [size // rails + (k < size % rails) for k in range(rails)]
        for k, part in enumerate(sizes):
            if part == 0 and k > 0:
                continue
            rail = k if rails > 1 else self.rail(a, b, network)
            spine = self.spine(a, b, network, rail) if crosses and self.climbs(a, b, network) else 0
            path = self.path(a, b, network, rail, spine)
            if crosses and self.climbs(a, b, network):
                self.count_collision(a, network, rail, spine)
            left = part * self.unit if path else 0  # without a link it takes no time
            self.start(Flow(part, path, transfer, self.fabric.class_of[index], self.sequence, left, self.now, self.now))
        self.counts[kind].transfers += 1
        self.counts[kind].bytes += size
        if self.fabric.fair:
            self.share_out()
        return transfer

    def count_collision(self, a: int, network: int, rail: int, spine: int) -> None:
        """Note whether a flow shares an uplink though another is idle."""
        wire = self.fabric.networks[network]
        first = wire.first_up + (self.fabric.endpoints[a].leaf * wire.rails + rail) * wire.spines
        loads = [len(self.wires[first + s].flows) for s in range(wire.spines)]
        self.inter += 1
        self.collided += loads[spine] > 0 and min(loads) == 0

    def start(self, flow: Flow) -> None:
        """Put a flow on its links."""
        self.sequence += 1
        transfer = flow.transfer
        transfer.flows.append(flow)
        works = [ceil_div(flow.bytes * self.unit, wire.rate) for wire in flow.path]
        transfer.alone_ps = max(transfer.alone_ps, max(works, default=0) + transfer.delay_ps)
        for wire in flow.path:
            wire.flows.append(flow)
        self.flows.append(flow)
        if self.fabric.fair and flow.path:
            return
        first = last = self.now
        for h, (wire, alone) in enumerate(zip(flow.path, works, strict=True)):
            work = alone * self.factor(wire) // 1000
            begin = max(first, wire.free_ps)
            wire.free_ps = begin + work
            wire.wait_ps += begin - first
            wire.busy_ps += work
            flow.start_ps = begin if h == 0 else flow.start_ps
            first, last = begin, max(last, begin + work)
        flow.end_ps = last

    def factor(self, wire: Wire) -> int:
        """Return in thousandths how much longer a card takes for what many senders send."""
        if not wire.receives:
            return 1000
        return 1000 + self.fabric.loss * min(len(wire.flows) - 1, 1000)

    def share_out(self) -> None:
        """Find all rates by progressive filling, one bottleneck after the other."""
        rates: dict[Flow, int] = {}
        room = {wire: wire.rate * 1000 // self.factor(wire) for wire in self.wires if wire.flows}
        crowded = [wire for wire in room if sum(flow.peak for flow in wire.flows) > room[wire]]
        for urgency in range(3):
            waiting = [flow for flow in self.flows if flow.urgency == urgency and flow.path]
            while waiting:
                counts = {wire: sum(flow in waiting for flow in wire.flows) for wire in crowded}
                shares = {wire: room[wire] // count for wire, count in counts.items() if count}
                slowest = min(waiting, key=lambda flow: flow.peak)
                share, served = slowest.peak, [slowest]
                if shares and min(shares.values()) < share:
                    wire = min(shares, key=lambda wire: (shares[wire], wire.number))
                    share, served = shares[wire], [flow for flow in wire.flows if flow in waiting]
                for flow in served:
                    rates[flow] = share
                    waiting.remove(flow)
                    for other in flow.path:
                        room[other] -= share
        for flow, rate in rates.items():
            if rate != flow.rate:
                flow.left = max(0, flow.left - flow.rate * (self.now - flow.since_ps))
                flow.since_ps, flow.rate = self.now, rate
                flow.end_ps = self.now if flow.left == 0 else self.now + ceil_div(flow.left, rate) if rate else NEVER

    def end(self, flow: Flow) -> None:
        """Take a flow off its links, and deliver its transfer with the last."""
        flow.ended = True
        self.flows.remove(flow)
        for wire in flow.path:
            wire.flows.remove(flow)
            wire.bytes += flow.bytes
        if self.fabric.fair:
            self.share_out()
        transfer = flow.transfer
        if not all(flow.ended for flow in transfer.flows):
            return
        transfer.delivery_ps = self.now + transfer.delay_ps
        if transfer.delay_ps:
            self.push(transfer.delivery_ps, lambda: self.deliver(transfer))
        else:
            self.deliver(transfer)

    def deliver(self, transfer: Transfer) -> None:
        """Hand over what a transfer brought."""
        transfer.delivered = True
        count = self.counts[transfer.kind]
        count.delivered += 1
        count.time_ps += self.now - transfer.begin_ps
        count.alone_ps += transfer.alone_ps
        if transfer.done is not None:
            transfer.done()

    # what others ask

    def moved(self, transfer: Transfer) -> int:
        """Return the bytes that are at the end of their path."""
        total = 0
        for flow in transfer.flows:
            if flow.ended:
                total += flow.bytes
            elif self.fabric.fair:
                left = max(0, flow.left - flow.rate * (self.now - flow.since_ps))
                total += flow.bytes - ceil_div(left, self.unit)
            else:
                gone, whole = max(0, self.now - flow.start_ps), max(1, flow.end_ps - flow.start_ps)
                while whole >= 1 << 20:
                    gone, whole = gone >> 1, whole >> 1
                total += flow.bytes * min(gone, whole) // whole
        return total

    def expected_end(self, transfer: Transfer) -> int:
        """Return when a transfer is delivered if nothing changes."""
        if transfer.delivery_ps < NEVER:
            return transfer.delivery_ps
        last = max(flow.end_ps if not flow.ended else 0 for flow in transfer.flows)
        return NEVER if last == NEVER else last + transfer.delay_ps

    def quote(self, a: int, b: int, size: int, kind: str, live: bool = True) -> int:
        """Return how long a transfer would take if begun now."""
        network = self.fabric.network_of[KINDS.index(kind)]
        crosses = self.networked(a, b)
        part = size // self.fabric.networks[network].rails if crosses and self.fabric.striping else size
        longest = 0
        for wire in self.path(a, b, network, 0, 0):
            if self.fabric.fair:
                flows = (len(wire.flows) if live else wire.seen_flows) + 1
                longest = max(longest, ceil_div(part * self.unit, max(1, wire.rate // flows)))
            else:
                free = max(self.now, wire.free_ps if live else wire.seen_free_ps)
                longest = max(longest, free - self.now + ceil_div(part * self.unit, wire.rate))
        return longest + self.delay_ps(a, b, network, size)

    def show(self, view: SimpleNamespace, e: int) -> None:
        """Fill in what policies read of the card of an endpoint."""
        card, live = self.card(e), self.fabric.signal_ps == 0
        view.link_flows = len(card.flows) if live else card.seen_flows
        since_start = used_share(card.bytes * self.unit, card.rate, max(1, self.now))
        view.link_utilisation = since_start if live else card.seen_share

    # timers

    def signal(self) -> None:
        """Let policies see the links."""
        for wire in self.wires:
            wire.seen_flows, wire.seen_free_ps = len(wire.flows), wire.free_ps
            units = (wire.bytes - wire.seen_bytes) * self.unit
            wire.seen_share, wire.seen_bytes = used_share(units, wire.rate, self.fabric.signal_ps), wire.bytes
        if self.twin.goes_on():
            self.push(self.now + self.fabric.signal_ps, self.signal)

    def generate(self, g: int, key: int, n: int) -> None:
        """Begin a background flow."""
        if not self.twin.goes_on():
            return
        background, count = self.fabric.background[g], len(self.twin.servers)
        a, b = int(plain_uniform(key, 3 * n + 1) * count), int(plain_uniform(key, 3 * n + 2) * (count - 1))
        b = len(self.fabric.endpoints) - 1 if count == 1 else b + (b >= a)
        self.begin(a, b, background.bytes, "background")
        gap = gap_ps(key, 3 * (n + 1), background.mean_ps)
        self.push(self.now + gap, lambda: self.generate(g, key, n + 1))

    def check_end(self) -> None:
        """Fail if anything is under way when nothing is to happen any more."""
        assert not self.flows and not any(wire.flows for wire in self.wires)
        assert all(count.transfers == count.delivered for count in self.counts.values())

    def results(self) -> dict[str, list[int]]:
        """Return what the links and kinds of traffic did."""
        found = {name: [getattr(wire, name) for wire in self.wires] for name in ("bytes", "wait_ps")}
        if not self.fabric.fair:
            found["busy_ps"] = [wire.busy_ps for wire in self.wires]
        for name in ("transfers", "delivered", "time_ps", "alone_ps"):
            found[name] = [getattr(count, name) for count in self.counts.values()]
        return found | {"collisions": [self.inter, self.collided]}


def used_share(units: int, rate: int, span_ps: int) -> float:
    """Return which share of what a link can carry in a time it has carried."""
    return float(units) / (float(rate) * float(span_ps))


def gap_ps(key: int, stream: int, mean_ps: float) -> int:
    """Return an exponential gap."""
    return max(1, round(-log(1.0 - plain_uniform(key, stream)) * mean_ps))

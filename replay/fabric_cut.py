"""What prefill instances can send to decode instances at once: the least cut of the links between them."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from replay.fabric import Endpoint, Link, Network

MOST_UNITS = 2**30  # capacities are int32
Ends = tuple[Any, Any]


def handoff_bytes_per_s(
    links: Sequence[Link], endpoints: Sequence[Endpoint], network: Network, number: int, bisection: Sequence[int]
) -> float:
    """Return the most that all prefill endpoints together can send to all decode endpoints.

    Where some pairs have a path of their own inside a node or a domain and others share the network, this is an upper
    bound: one flow for all does not see that the network is closed to the former.

    network, number : the one that handoffs use, and which of the two it is
    bisection       : link from prefill to decode that every network path crosses, () for none
    returns         : bytes/s, 0 if a group has no endpoint; each link is rounded to a power of ten of at most a
                      hundred millionth of all links together, so that round figures stay exact
    source          : maximum flow, minimum cut (Ford and Fulkerson, 1956)
    """
    unit = 10.0 ** math.ceil(math.log10(sum(link.bytes_per_s for link in links) / MOST_UNITS))
    graph = _Graph(links, endpoints)
    graph.inside()
    inside = graph.most(unit)
    graph.over(network, number)
    everything = graph.most(unit)
    return min([everything, *(inside + links[m].bytes_per_s for m in bisection[:1])])


class _Graph:
    """Arcs from "source" to "sink" with their bytes/s: each link is an arc, what joins links is free."""

    def __init__(self, links: Sequence[Link], endpoints: Sequence[Endpoint]) -> None:
        self.links = links
        self.senders = [e for e in endpoints if e.group == 0]
        self.receivers = [e for e in endpoints if e.group == 1]
        self.senders_of, self.receivers_of = _count(self.senders), _count(self.receivers)
        self.arcs: dict[Ends, float] = {}

    def path(self, start: Any, path: Iterable[int], end: Any) -> None:
        """Add a path of links between two places; a link that is there already is shared."""
        for m in path:
            self.arcs[start, ("in", m)] = np.inf
            self.arcs[("in", m), ("out", m)] = self.links[m].bytes_per_s
            start = ("out", m)
        self.arcs[start, end] = np.inf

    def inside(self) -> None:
        """Add the paths within a node, and those within a domain from one node to another."""
        of_node = {e.node for e in self.senders} & {e.node for e in self.receivers}
        for e in self.senders:
            if e.node in of_node:
                self.path("source", e.out, ("node", e.node))
            if _within(e, self.receivers_of):
                self.path("source", (e.scale_out,), ("domain", e.domain))
        for e in self.receivers:
            if e.node in of_node:
                self.path(("node", e.node), e.into, "sink")
            if _within(e, self.senders_of):
                self.path(("domain", e.domain), (e.scale_in,), "sink")

    def over(self, network: Network, number: int) -> None:
        """Add the paths over the network, for endpoints that have a peer beyond their node and domain."""
        senders = {e.node: e for e in self.senders if _beyond(e, self.receivers_of)}
        receivers = {e.node: e for e in self.receivers if _beyond(e, self.senders_of)}
        for e in self.senders:
            if e.node in senders:
                self.path("source", e.out, ("sends", e.node))
        for e in self.receivers:
            if e.node in receivers:
                self.path(("receives", e.node), e.into, "sink")
        for rail in range(network.rails):
            for e in senders.values():
                self.path(("sends", e.node), (e.nic_out[number] + rail,), ("up", e.leaf, rail))
                self.path(("up", e.leaf, rail), (), ("down", e.leaf, rail))
            for e in receivers.values():
                self.path(("down", e.leaf, rail), (e.nic_in[number] + rail,), ("receives", e.node))
        self._switches(network, {e.leaf for e in senders.values()}, {e.leaf for e in receivers.values()})

    def _switches(self, network: Network, above: set[int], below: set[int]) -> None:
        for rail in range(network.rails):
            for spine in range(network.spines):
                for leaf in above:
                    up = network.first_up + (leaf * network.rails + rail) * network.spines + spine
                    self.path(("up", leaf, rail), (up,), ("spine", rail, spine))
                for leaf in below:
                    down = network.first_down + (leaf * network.rails + rail) * network.spines + spine
                    self.path(("spine", rail, spine), (down,), ("down", leaf, rail))

    def most(self, unit: float) -> float:
        """Return the maximum flow in bytes/s, found in whole units of so many."""
        from scipy.sparse import csr_matrix  # takes a while to import, and only a fabric needs it
        from scipy.sparse.csgraph import maximum_flow

        vertices = {"source": 0, "sink": 1}
        for arc in self.arcs:
            for vertex in arc:
                vertices.setdefault(vertex, len(vertices))
        rows, columns = ([vertices[arc[end]] for arc in self.arcs] for end in (0, 1))
        capacity = np.rint(np.minimum(MOST_UNITS, np.array([*self.arcs.values()], np.float64) / unit)).astype(np.int32)
        graph = csr_matrix((capacity, (rows, columns)), shape=(len(vertices), len(vertices)))
        return float(maximum_flow(graph, 0, 1).flow_value) * unit


def _count(endpoints: Sequence[Endpoint]) -> Counter[tuple[int, int]]:
    """Count endpoints by (node, domain), by (node, -1) whatever the domain, and by (-1, domain) whatever the node."""
    found: Counter[tuple[int, int]] = Counter()
    for e in endpoints:
        found.update({(e.node, -1), (-1, e.domain), (e.node, e.domain)})
    found[-1, -1] = len(endpoints)
    return found


def _within(e: Endpoint, peers: Counter[tuple[int, int]]) -> int:
    """Count the peers in the domain of an endpoint but not on its node."""
    return peers[-1, e.domain] - peers[e.node, e.domain] if e.domain >= 0 else 0


def _beyond(e: Endpoint, peers: Counter[tuple[int, int]]) -> int:
    """Count the peers that only the network reaches."""
    return peers[-1, -1] - peers[e.node, -1] - _within(e, peers)

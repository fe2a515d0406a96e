"""Lay out a fabric: nodes, cards, leaves and spines, buses inside a node, and where everything is attached."""

from collections.abc import Mapping, Sequence
from typing import Any

from replay.errors import ConfigError
from replay.fabric import NETWORKS, Endpoint, Link, Network
from replay.hardware.units import FS_PER_S
from replay.kv import DRAM, Kv

SETTINGS = Mapping[str, Any]
MOST_LINKS = 1 << 20
LEAST_BYTES_PER_S, MOST_BYTES_PER_S = 1e6, 1e18  # of a link: what whole units a picosecond can say


class Layout:
    """Links, endpoints and networks as they are laid.

    ports : card ports with the switch ports opposite, and both ends of every uplink
    """

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.endpoints: list[Endpoint] = []
        self.networks: tuple[Network, Network]
        self.bisection: tuple[int, ...] = ()
        self.ports = 0

    def add(self, name: str, group: str, bytes_per_s: float, receives: bool = False) -> int:
        """Add a link and return its number."""
        self.links.append(Link(name, group, bytes_per_s, receives))
        return len(self.links) - 1


def lay_out(settings: SETTINGS, instances: Sequence[Any], kv: Kv | None) -> Layout:
    """Lay out the fabric of a cluster.

    settings  : checked numbers of the node `fabric` (replay.fabric_config)
    instances : the cluster's instances, prefill, mixed, decode
    kv        : its KV hierarchy or None
    returns   : Layout
    raises    : ConfigError for too many links, or one whose rate cannot be
    """
    layout = Layout()
    nodes = _nodes(settings, instances)
    places = _Places(settings, layout, nodes, instances, kv)
    _refuse_many(settings, places, nodes[-1][0] + 2 + len(kv.stores if kv else ()))
    for i, instance in enumerate(instances):
        layout.endpoints.append(places.instance(i, instance))
    for s, store in enumerate(kv.stores if kv else ()):
        layout.endpoints.append(places.store(s, store))
    layout.endpoints.append(places.gateway())
    places.switches()
    cut = settings["bisection_bytes_per_s"]
    if cut is not None:
        layout.bisection = (layout.add("prefill to decode", "bisection", cut),
                            layout.add("decode to prefill", "bisection", cut))
    for link in layout.links:
        if not LEAST_BYTES_PER_S <= link.bytes_per_s <= MOST_BYTES_PER_S:
            raise ConfigError(f"a link of the fabric must have from {LEAST_BYTES_PER_S:g} to {MOST_BYTES_PER_S:g} "
                              f"bytes/s, but '{link.name}' would have {link.bytes_per_s:g}. Change what its rate "
                              f"is made of: cards, rails, spines or oversubscription.")
    return layout


def _refuse_many(settings: SETTINGS, places: "_Places", nodes: int) -> None:
    """Refuse a fabric of too many links before they are laid; nodes: of all kinds, or some more."""
    per_leaf, spray = settings["nodes_per_leaf"], settings["balance"] == "spray"
    leaves = 0 if per_leaf is None else -(-nodes // per_leaf)
    switched = sum(leaves * rails * (1 if spray else settings[name]["spines"])
                   for rails, name in zip(places.rails, NETWORKS, strict=True))
    links = 2 * (switched + nodes * sum(places.rails) + 2 * len(places.nodes))
    if links > MOST_LINKS:
        raise ConfigError(f"a fabric has at most {MOST_LINKS:,} links, but this one has about {links:,}. Use fewer "
                          f"spines or rails, more nodes below a leaf, or fewer instances.")


def _nodes(settings: SETTINGS, instances: Sequence[Any]) -> list[tuple[int, int]]:
    """Return (node, first GPU) of every instance: packed in order; one larger than a node takes whole nodes."""
    places, node, used, first_gpu = [], 0, 0, 0
    size = settings["gpus_per_node"]
    for instance in instances:
        gpus = instance.profile.gpus
        if used and used + gpus > size:
            node, used, first_gpu = node + 1, 0, first_gpu + size - used
        places.append((node, first_gpu))
        used, first_gpu = used + gpus, first_gpu + gpus
        if used >= size:
            first_gpu += -used % size
            node, used = node + 1, 0
    return places


class _Places:
    """Attaches endpoints to nodes; cards of a node are laid when its first endpoint comes."""

    def __init__(self, settings: SETTINGS, layout: Layout, nodes: list[tuple[int, int]], instances: Sequence[Any],
                 kv: Kv | None) -> None:
        self.settings, self.layout, self.nodes = settings, layout, nodes
        self.gpu_nodes = nodes[-1][0] + 1
        own = [0.0] * self.gpu_nodes
        self.sizes = [0] * self.gpu_nodes
        for (node, _), instance in zip(nodes, instances, strict=True):
            own[node] += instance.nic_bytes_per_s
            self.sizes[node] += instance.profile.gpus
        self.converged = settings["networks"] == "converged"
        aggregated = settings["striping"] and (settings["balance"] == "spray" or settings["nodes_per_leaf"] is None)
        self.rails = [1 if aggregated else settings[name]["nics"] for name in NETWORKS]
        self.widths = [max(1, -(-size // settings["gpus_per_node"])) for size in self.sizes]
        self.rates, self.above = self._rates(own)
        front = settings["front_end"]
        self.front_rate = own[0] if front["bytes_per_s"] is None else front["bytes_per_s"] * front["nics"]
        self.cards: dict[tuple[int, int], tuple[int, int]] = {}
        self.hosts: dict[int, int] = {}
        self.kv = kv
        self.next_node = self.gpu_nodes

    def _rates(self, own: list[float]) -> tuple[list[list[float]], list[float]]:
        """Return the bytes/s by network, all rails together, of every GPU node, and of its share of the uplinks.

        Converged, both networks have the rates of the two together: the same ports, otherwise connected.
        """
        settings, rates = self.settings, []
        for name in NETWORKS:
            speed = settings[name]["bytes_per_s"]
            rates.append([rate if speed is None else speed * settings[name]["nics"] * width
                          for rate, width in zip(own, self.widths, strict=True)])
        if self.converged and settings["ethernet"] and settings["domain_gpus"]:
            ports = [settings["scale_up_bytes_per_s"] * size for size in self.sizes]
            rates[0] = [sum(both) for both in zip(rates[0], ports, strict=True)]
        above = [max(rate) / settings[name]["oversubscription"] for rate, name in zip(rates, NETWORKS, strict=True)]
        if not self.converged:
            return rates, above
        self.rails = [self.rails[0]] * 2
        return [[sum(both) for both in zip(*rates, strict=True)]] * 2, [sum(above)] * 2

    def _cards(self, node: int, name: str, rates: Sequence[float]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the first card link of a node by network, out and in, laying them when it comes first."""
        found = []
        for network in range(1 if self.converged else 2):
            if (node, network) not in self.cards:
                rails, label = self.rails[network], "" if self.converged else f" {NETWORKS[network]}"
                self.cards[node, network] = (len(self.layout.links), len(self.layout.links) + rails)
                for way in ("out", "in"):
                    for rail in range(rails):
                        self.layout.add(f"{name}{label} {way} {rail}", "nic", rates[network] / rails, way == "in")
                nics = sum(self.settings[name]["nics"] for name in self._joined(network))
                self.layout.ports += 2 * nics * (self.widths[node] if node < self.gpu_nodes else 1)
            found.append(self.cards[node, network])
        found *= 2 if self.converged else 1
        return (found[0][0], found[1][0]), (found[0][1], found[1][1])

    def _joined(self, network: int) -> Sequence[str]:
        """Name the networks whose ports and switches this one has."""
        return NETWORKS if self.converged else NETWORKS[network : network + 1]

    def _leaf(self, node: int) -> int:
        per_leaf = self.settings["nodes_per_leaf"]
        return 0 if per_leaf is None else node // per_leaf

    def _host(self, node: int) -> int:
        """Return the link of a node's memory and cores: what is staged there is written and read once."""
        if node not in self.hosts:
            width, settings = self.widths[node], self.settings
            rate = min(settings["host_bytes_per_s"] / 2, settings["host_cores"] * settings["core_bytes_per_s"])
            self.hosts[node] = self.layout.add(f"node {node} host", "host", rate * width)
        return self.hosts[node]

    def instance(self, i: int, instance: Any) -> Endpoint:
        """Attach instance i to its node."""
        node, first_gpu = self.nodes[i]
        settings, gpus = self.settings, instance.profile.gpus
        nic_out, nic_in = self._cards(node, f"node {node}", [rates[node] for rates in self.rates])
        pcie = settings["pcie_bytes_per_s"] * gpus
        out, into = (self.layout.add(f"instance {i} pcie {way}", "pcie", pcie) for way in ("out", "in"))
        staged = (self._host(node),) if settings["staging"] == "host" else ()
        domain, ports = -1, (-1, -1)
        size = settings["domain_gpus"]
        joins = self.converged and settings["ethernet"]
        if size and not joins and first_gpu // size == (first_gpu + gpus - 1) // size:
            domain = first_gpu // size
            speed = settings["scale_up_bytes_per_s"] * gpus
            ports = (self.layout.add(f"instance {i} scale-up out", "scale_up", speed),
                     self.layout.add(f"instance {i} scale-up in", "scale_up", speed))
        group = {"prefill": 0, "decode": 1}.get(instance.role, -1)
        return Endpoint(f"instance {i}", node, self._leaf(node), domain, group, (out, *staged), (*staged, into), *ports,
                        nic_out, nic_in, 0)

    def _outside(self, name: str, back_bytes_per_s: float) -> tuple[int, tuple[int, int], tuple[int, int]]:
        """Return a new node beyond the GPU nodes, and its cards."""
        node, self.next_node = self.next_node, self.next_node + 1
        both = [back_bytes_per_s + (self.front_rate if self.converged else 0.0), self.front_rate]
        return (node, *self._cards(node, name, both))

    def store(self, s: int, store: Any) -> Endpoint:
        """Attach store s: to the node of its instance, to that of the DRAM above it, or to one of its own."""
        settings, kv = self.settings, self.kv
        assert kv is not None
        name = f"store {s}"
        if store.server >= 0:
            node = self.nodes[store.server][0]
            owner = self.layout.endpoints[store.server]
            host = self._host(node)
            return Endpoint(name, node, owner.leaf, -1, -1, (host,), (host,), -1, -1, owner.nic_out, owner.nic_in, 0)
        if store.tier == DRAM:
            carry_fs = store.read_block_fs
            card = kv.block_bytes * FS_PER_S / carry_fs if carry_fs else float("inf")
            speed = settings["pool_bytes_per_s"] or card
            node, nic_out, nic_in = self._outside(f"pool node {store.node}", speed)
            memory = self.layout.add(f"pool node {store.node} memory", "host", settings["pool_memory_bytes_per_s"])
            return Endpoint(name, node, self._leaf(node), -1, -1, (memory,), (memory,), -1, -1, nic_out, nic_in,
                            settings["pool_extra_ps"])  # fmt: skip
        if store.node >= 0:
            above = next(k for k, one in enumerate(kv.stores) if one.below == s)
            owner = self.layout.endpoints[len(self.nodes) + above]
            return Endpoint(name, owner.node, owner.leaf, -1, -1, owner.out, owner.into, -1, -1, owner.nic_out,
                            owner.nic_in, owner.extra_ps)
        node, nic_out, nic_in = self._outside("storage", settings["storage_bytes_per_s"])
        return Endpoint(name, node, self._leaf(node), -1, -1, (), (), -1, -1, nic_out, nic_in, 0)

    def gateway(self) -> Endpoint:
        """Attach the gateway, where requests come from."""
        node, self.next_node = self.next_node, self.next_node + 1
        speed = self.settings["gateway_bytes_per_s"]
        nic_out, nic_in = self._cards(node, "gateway", [speed, speed])
        return Endpoint("gateway", node, self._leaf(node), -1, -1, (), (), -1, -1, nic_out, nic_in, 0)

    def switches(self) -> None:
        """Lay the uplinks and downlinks of every leaf; without leaves one switch joins all."""
        settings, layout = self.settings, self.layout
        leaves = self._leaf(self.next_node - 1) + 1
        found: list[Network] = []
        for network, name in enumerate(NETWORKS):
            wire = settings[name]
            if self.converged and network == 1:
                found.append(found[0])
                break
            if settings["nodes_per_leaf"] is None:
                found.append(Network(self.rails[network], 0, 0, 0, wire["latency_ps"], wire["hop_ps"]))
                continue
            spines = 1 if settings["balance"] == "spray" else wire["spines"]
            rails = self.rails[network]
            speed = settings["nodes_per_leaf"] * self.above[network] / rails / spines
            first = []
            for group in ("uplink", "downlink"):
                first.append(len(layout.links))
                for leaf in range(leaves):
                    for rail in range(rails):
                        for spine in range(spines):
                            layout.add(f"{group} {name} {leaf}.{rail}.{spine}", group, speed)
            layout.ports += sum(2 * leaves * settings[one]["nics"] * settings[one]["spines"]
                                for one in self._joined(network))
            found.append(Network(rails, spines, first[0], first[1], wire["latency_ps"], wire["hop_ps"]))
        layout.networks = (found[0], found[1])

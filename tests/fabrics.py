"""Random fabrics for a scenario's instances and stores: few links, unlike speeds, every way of sharing and choosing."""

from dataclasses import replace
from random import Random

from replay.cluster import Cluster
from replay.fabric import KINDS, Background, Endpoint, Fabric, Link, Network

SPEEDS = (1e15, 1e13, 1e12, 1e12, 3.3e11, 1e11, 7e10)  # bytes/s, for KV of 1,000 bytes a token


class Builder:
    """Lays links as they are drawn."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.links: list[Link] = []
        self.flat = random.random() < 0.3  # all links alike: ties
        self.speed = random.choice(SPEEDS)

    def link(self, group: str, receives: bool = False) -> int:
        """Lay a link and return its number."""
        speed = self.speed if self.flat else self.random.choice(SPEEDS)
        self.links.append(Link(f"{group} {len(self.links)}", group, speed, receives))
        return len(self.links) - 1

    def cards(self, rails: int) -> tuple[int, int]:
        """Lay the cards of a node on a network; returns the first out and the first in."""
        first = [self.link("nic", way == 1) for way in (0, 1) for _ in range(rails)]
        return first[0], first[rails]


def random_fabric(random: Random, cluster: Cluster) -> Fabric:
    """Draw a fabric for a cluster."""
    builder = Builder(random)
    stores = cluster.kv.stores if cluster.kv else ()
    count = len(cluster.instances) + len(stores) + 1
    rails = [random.choice([1, 1, 2, 3]) for _ in range(2)]
    spines = [random.choice([0, 0, 1, 2, 3]) for _ in range(2)]
    nodes = random.randint(1, count) if random.random() < 0.3 else count
    cards = [[builder.cards(rails[network]) for network in range(2)] for _ in range(nodes)]
    hosts = [builder.link("host") if random.random() < 0.3 else -1 for _ in range(nodes)]
    per_leaf, domain = random.choice([1, 2, 50]), random.choice([0, 0, 2, 50])
    endpoints = []
    for e in range(count):
        node = e % nodes
        out = [builder.link("pcie")] if random.random() < 0.4 else []
        into = [builder.link("pcie")] if random.random() < 0.4 else []
        host = [hosts[node]] if hosts[node] >= 0 else []
        ports = (builder.link("scale_up"), builder.link("scale_up")) if domain else (-1, -1)
        role = cluster.instances[e].role if e < len(cluster.instances) else "store"
        endpoints.append(Endpoint(
            name=f"endpoint {e}", node=node, leaf=node // per_leaf if max(spines) else 0,
            domain=e // domain if domain else -1,
            group={"prefill": 0, "decode": 1}.get(role, -1), out=(*out, *host), into=(*host, *into),
            scale_out=ports[0], scale_in=ports[1], nic_out=(cards[node][0][0], cards[node][1][0]),
            nic_in=(cards[node][0][1], cards[node][1][1]), extra_ps=random.choice([0, 0, 0, 700]),
        ))  # fmt: skip
    leaves = 1 + max(endpoint.leaf for endpoint in endpoints)
    networks = []
    for network in range(2):
        first = []
        for group in ("uplink", "downlink"):
            first.append(len(builder.links))
            for _ in range(leaves * rails[network] * spines[network]):
                builder.link(group)
        networks.append(Network(rails[network], spines[network], first[0], first[1],
                                random.choice([0, 0, 1, 900]), random.choice([0, 0, 50])))  # fmt: skip
    bisection = (builder.link("bisection"), builder.link("bisection")) if random.random() < 0.3 else ()
    return finish(random, builder, endpoints, (networks[0], networks[1]), bisection)


def finish(random: Random, builder: Builder, endpoints: list[Endpoint], networks: tuple[Network, Network],
           bisection: tuple[int, ...]) -> Fabric:  # fmt: skip
    """Draw how the links are shared, and what else goes over them."""
    fair = random.random() < 0.6
    some = random.random() < 0.4
    slowest = min(link.bytes_per_s for link in builder.links) * 1e-12  # bytes a ps; more than it carries never ends
    generators = [Background(size, max(random.choice([2000.0, 60_000.0]), 8 * size / slowest))
                  for size in (random.choice([1, 5000, 200_000]) for _ in range(2))]  # fmt: skip
    return Fabric(
        name="random", links=tuple(builder.links), endpoints=tuple(endpoints), networks=networks, fair=fair,
        balance=random.choice(["ecmp", "ecmp", "adaptive"]), per_flow=random.random() < 0.7,
        striping=random.random() < 0.4, loss=random.choice([0, 0, 100, 777]),
        network_of=tuple(random.choice([0, 0, 1]) for _ in KINDS),
        class_of=tuple(random.choice([0, 0, 1, 2]) if fair and some else 0 for _ in KINDS), bisection=bisection,
        message_bytes=random.choice([1000, 4096, 1 << 20]), message_ps=random.choice([0, 0, 3]),
        outstanding=random.choice([0, 0, 1, 4]), local_ps=random.choice([0, 0, 20]),
        request_token_bytes=random.choice([0, 0, 0, 4, 500]), exchange_group=random.choice([0, 0, 2, 3]),
        exchange_token_bytes=random.choice([0, 10, 900]),
        background=tuple(generators[: random.choice([0, 0, 1, 2])]), signal_ps=random.choice([0, 0, 3000, 50_000]),
        samples=0, bisection_bytes_per_s=1e9, ports=1, price_per_hour=0.0,
    )  # fmt: skip


def with_fabric(random: Random, cluster: Cluster) -> Cluster:
    """Return a cluster with a random fabric, and handoffs as a whole, layer by layer or chunk by chunk."""
    modes = ["whole"] if cluster.mixed_pool else ["whole", "layerwise", "chunked"]
    mode = random.choice(modes)
    layers = random.choice([1, 3, 7])
    changes = {"layerwise": mode == "layerwise", "chunked": mode == "chunked", "layers": layers}
    return replace(cluster, fabric=random_fabric(random, cluster), migrate_ps=0, **changes)

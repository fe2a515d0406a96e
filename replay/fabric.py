"""The fabric of a cluster: links, where instances and stores are attached to them, and how traffic shares them.

`replay/engine/FABRIC.md` says what each of these does; `replay/fabric_config.py` builds them from a configuration.
"""

from dataclasses import dataclass

KINDS = ("handoff", "fetch", "exchange", "load", "write", "drain", "compaction", "request", "background")
BACK_END, FRONT_END = 0, 1
NETWORKS = ("back_end", "front_end")
MOST_LINKS_OF_A_PATH = 12


@dataclass(frozen=True)
class Link:
    """One way of a cable, a bus, or a switch's uplink.

    group    : what it is: "nic", "uplink", "downlink", "pcie", "host", "scale_up", "bisection"
    receives : it is a card's receiving side, where many senders at once lose goodput
    """

    name: str
    group: str
    bytes_per_s: float
    receives: bool = False


@dataclass(frozen=True)
class Endpoint:
    """Where an instance, a store or the gateway is attached.

    out, into           : links between its memory and the network cards of its node, in the order of the bytes
    scale_out, scale_in : ports of its scale-up domain, -1 for none
    domain, node, leaf  : numbers of these; domain -1 for none
    group               : 0 prefill, 1 decode, -1 else: between 0 and 1 lies the bisection link, if there is one
    nic_out, nic_in     : first card link of its node by network
    """

    name: str
    node: int
    leaf: int
    domain: int
    group: int
    out: tuple[int, ...]
    into: tuple[int, ...]
    scale_out: int
    scale_in: int
    nic_out: tuple[int, int]
    nic_in: tuple[int, int]
    extra_ps: int


@dataclass(frozen=True)
class Network:
    """Switches and latencies; spines = 0: one switch for all leaves. rails counts the card links of a node."""

    rails: int
    spines: int
    first_up: int
    first_down: int
    latency_ps: int
    hop_ps: int


@dataclass(frozen=True)
class Background:
    """Flows between random instances: Poisson, bytes each, a mean gap."""

    bytes: int
    mean_ps: float


@dataclass(frozen=True, eq=False)
class Fabric:
    """The fabric of a cluster.

    endpoints   : instances, then stores, then the gateway
    networks    : back-end, front-end; the same twice where they are converged
    network_of  : by kind of traffic, 0 or 1; class_of : 0 most urgent
    loss        : thousandths of goodput that each further sender costs a receiving card
    bisection   : links from prefill to decode and back, () for none
    bisection_bytes_per_s : what prefill instances can send to decode instances at once, whatever limits it
    ports       : network card ports and switch ports, for the cost
    """

    name: str
    links: tuple[Link, ...]
    endpoints: tuple[Endpoint, ...]
    networks: tuple[Network, Network]
    fair: bool
    balance: str
    per_flow: bool
    striping: bool
    loss: int
    network_of: tuple[int, ...]
    class_of: tuple[int, ...]
    bisection: tuple[int, ...]
    message_bytes: int
    message_ps: int
    outstanding: int
    local_ps: int
    request_token_bytes: int
    exchange_group: int
    exchange_token_bytes: int
    background: tuple[Background, ...]
    signal_ps: int
    samples: int
    bisection_bytes_per_s: float
    ports: int
    price_per_hour: float

"""Fabrics of a few nodes for tests, and short ways to look at them."""

from collections.abc import Iterable
from typing import Any

from replay.cluster import cluster
from replay.fabric import Fabric

GB = 1e9
# Instances of 4 GPUs: two on a node of 8, each with 4 cards of 50 GB/s.
FOUR = {"base": "linear", "gpus": 4, "nic_bytes_per_s": 200e9}
CLUSTER_KEYS = ("prefill", "mixed", "decode", "instances", "handoff")


def built(name: str = "pcie_gdr", preset: str = "pd_1p1d", hardware: Any = FOUR, kv: Any = "none",
          **changes: Any) -> Fabric:
    """Build the fabric of a file, with changes, for a preset of instances of 4 GPUs."""
    of_cluster = {key: changes.pop(key) for key in CLUSTER_KEYS if key in changes}
    found = cluster(preset, hardware, kv=kv, fabric={"base": name, **changes}, **of_cluster).fabric
    assert found is not None
    return found


def called(fabric: Fabric, links: Iterable[int]) -> list[str]:
    """Return the names of links."""
    return [fabric.links[m].name for m in links]


def rates(fabric: Fabric, group: str) -> list[float]:
    """Return the GB/s of the links of a group, in order."""
    return [link.bytes_per_s / GB for link in fabric.links if link.group == group]


def rails(fabric: Fabric, first: int, network: int) -> list[float]:
    """Return the GB/s of the card links of a node from the first one."""
    return [fabric.links[first + rail].bytes_per_s / GB for rail in range(fabric.networks[network].rails)]

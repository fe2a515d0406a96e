"""Topologies counted by hand: nodes, cards, leaves, spines, buses, domains, and the cut between prefill and decode."""

from typing import Any

import pytest

from replay.fabric import Endpoint, Fabric
from tests.built_fabrics import FOUR, GB, built, called, rails, rates


def test_instances_are_packed_onto_nodes_in_order() -> None:
    found = built(preset="pd_1p1d", prefill=3, mixed=1, decode=2, nodes_per_leaf=2)
    instances = found.endpoints[:6]
    assert [e.node for e in instances] == [0, 0, 1, 1, 2, 2] and [e.leaf for e in instances] == [0, 0, 0, 0, 1, 1]
    assert [e.group for e in instances] == [0, 0, 0, -1, 1, 1]
    gateway = found.endpoints[-1]
    assert (gateway.node, gateway.leaf, gateway.group, gateway.out, gateway.into) == (3, 1, -1, (), ())
    assert instances[0].nic_out == instances[1].nic_out != instances[2].nic_out
    assert rails(found, instances[0].nic_out[0], 0) == [50] * 8 and rails(found, instances[0].nic_in[1], 1) == [25] * 2
    assert called(found, instances[2].out) == ["instance 2 pcie out"]
    assert called(found, instances[2].into) == ["instance 2 pcie in"]
    assert rates(found, "pcie") == [220] * 12
    names_of = [link.name for link in found.links]
    assert len(set(names_of)) == len(names_of)


def test_an_instance_that_does_not_fit_beside_others_starts_a_node() -> None:
    three = {**FOUR, "gpus": 3}
    found = built(hardware=three, prefill=3, decode=2, scale_up={"gpus": 8})
    assert [e.node for e in found.endpoints[:5]] == [0, 0, 1, 1, 2]
    assert [e.domain for e in found.endpoints[:5]] == [0, 0, 1, 1, 2]  # the GPUs left over on a node are counted


def test_an_instance_larger_than_a_node_is_one_node_of_many_cards() -> None:
    large = {"base": "linear", "gpus": 16, "nic_bytes_per_s": 800e9}
    given = {"nics": 8, "bytes_per_s": 40e9}
    found = built("pcie_staged", hardware=large, nodes_per_leaf=None, striping=False, back_end=given)
    first, second, gateway = found.endpoints
    assert (first.node, second.node, gateway.node) == (0, 1, 2)
    assert rails(found, first.nic_out[0], 0) == [80] * 8 and rails(found, first.nic_out[1], 1) == [50] * 2
    assert rates(found, "host") == [2 * 192] * 2 and rates(found, "pcie") == [880] * 4
    assert found.ports == 2 * (16 + 4) * 2 + 2 * (8 + 2)  # both have the cards of two nodes, the gateway those of one
    own = built(hardware=large, nodes_per_leaf=None)
    assert rails(own, own.endpoints[0].nic_out[0], 0) == [800]


STAGED = ("direct", ["instance 0 pcie out"], ["instance 0 pcie in"]), (
    "host", ["instance 0 pcie out", "node 0 host"], ["node 0 host", "instance 0 pcie in"])  # fmt: skip


@pytest.mark.parametrize(("staging", "out", "into"), STAGED)
def test_staged_traffic_crosses_the_host(staging: str, out: list[str], into: list[str]) -> None:
    found = built(staging=staging)
    first = found.endpoints[0]
    assert called(found, first.out) == out and called(found, first.into) == into


@pytest.mark.parametrize(("memory", "cores", "rate"), [(400e9, 16, 192), (300e9, 16, 150), (400e9, 100, 200)])
def test_a_host_is_as_fast_as_its_memory_or_its_cores(memory: float, cores: int, rate: float) -> None:
    """Each byte is written and read once; a core copies 12 GB/s."""
    assert rates(built("pcie_staged", host_bytes_per_s=memory, host_cores=cores), "host") == [rate]


# striping, balance, nodes below a leaf: rails and spines of the back-end, GB/s of a card link, of an uplink
AGGREGATED: list[tuple[bool, str, int | None, tuple[int, int, float, list[float]]]] = [
    (True, "ecmp", 4, (8, 8, 50, [25])), (True, "adaptive", 4, (8, 8, 50, [25])),
    (False, "ecmp", 4, (8, 8, 50, [25])), (True, "spray", 4, (1, 1, 400, [1600])),
    (False, "spray", 4, (8, 1, 50, [200])), (True, "ecmp", None, (1, 0, 400, [])),
    (False, "ecmp", None, (8, 0, 50, [])), (True, "spray", None, (1, 0, 400, [])),
]  # fmt: skip


@pytest.mark.parametrize(("striping", "balance", "per_leaf", "expected"), AGGREGATED)
def test_rails_and_spines_are_one_where_traffic_is_spread_evenly(
    striping: bool, balance: str, per_leaf: int | None, expected: tuple[int, int, float, list[float]]
) -> None:
    """Four nodes of 8 x 50 GB/s below a leaf have 1,600 GB/s above it, over 8 rails and 8 spines or in one."""
    found = built(striping=striping, balance=balance, nodes_per_leaf=per_leaf)
    wire = found.networks[0]
    uplinks = [link.bytes_per_s / GB for link in found.links if link.name.startswith("uplink back_end")]
    assert (wire.rails, wire.spines, found.links[found.endpoints[0].nic_out[0]].bytes_per_s / GB,
            sorted(set(uplinks))) == expected  # fmt: skip
    assert len(uplinks) == wire.rails * wire.spines


def test_uplinks_stand_where_the_engine_looks_for_them() -> None:
    """Three leaves of one node (the last the gateway): leaf, rail, spine count in this order."""
    found = built(preset="pd_8p8d", prefill=2, decode=2, nodes_per_leaf=1)
    for network, (wire, name) in enumerate(zip(found.networks, ("back_end", "front_end"), strict=True)):
        for group, first in (("uplink", wire.first_up), ("downlink", wire.first_down)):
            places = [(leaf, rail, spine) for leaf in range(3) for rail in range(wire.rails)
                      for spine in range(wire.spines)]  # fmt: skip
            expected = [f"{group} {name} {leaf}.{rail}.{spine}" for leaf, rail, spine in places]
            assert called(found, range(first, first + len(places))) == expected
            assert {found.links[first + k].group for k in range(len(places))} == {group}
        assert found.endpoints[2].leaf == 1 and wire.rails == (8, 2)[network]
    assert found.networks[0].latency_ps == 3_000_000 and found.networks[1].hop_ps == 1_000_000


def test_oversubscription_narrows_what_is_above_a_leaf() -> None:
    found = built(nodes_per_leaf=4, balance="spray", back_end={"oversubscription": 4.0})
    assert rates(found, "uplink") == rates(found, "downlink") == [400, 100]  # the front-end: 4 x 50 over 2


def test_converged_networks_have_the_ports_of_both() -> None:
    """The same cards, uplinks and ports as apart, all in one network."""
    change = {"nodes_per_leaf": 2, "balance": "spray", "kv": "dram"}
    apart, joined = built(**change), built(networks="converged", **change)
    assert rails(apart, apart.endpoints[0].nic_out[0], 0) == [400]
    assert rails(joined, joined.endpoints[0].nic_out[0], 0) == [450]
    assert rates(apart, "uplink") == [800] * 3 + [50] * 3 and rates(joined, "uplink") == [850] * 3
    assert apart.ports == joined.ports == 2 * 10 * 6 + 2 * 3 * (64 + 8)
    assert joined.networks[0] == joined.networks[1] and set(joined.network_of) == {0}
    assert all(e.nic_out[0] == e.nic_out[1] and e.nic_in[0] == e.nic_in[1] for e in joined.endpoints)
    pool, gateway = joined.endpoints[2], joined.endpoints[-1]
    assert rails(joined, pool.nic_out[0], 0) == [100] and rails(joined, gateway.nic_in[0], 0) == [200]


def test_ethernet_scale_up_ports_join_a_converged_network() -> None:
    apart = built("ethernet_scale_up")
    joined = built("ethernet_scale_up", networks="converged")
    first = apart.endpoints[0]
    assert (first.domain, called(apart, (first.scale_out, first.scale_in))) == (
        0, ["instance 0 scale-up out", "instance 0 scale-up in"])  # fmt: skip
    assert rates(apart, "scale_up") == [400] * 4 and rates(joined, "scale_up") == []
    assert {e.domain for e in joined.endpoints} == {-1} and joined.endpoints[0].scale_out == -1
    assert rails(joined, joined.endpoints[0].nic_out[0], 0) == [400 + 50 + 8 * 100]
    nvlink = built("nvl72", networks="converged")  # stays a network of its own
    assert [e.domain for e in nvlink.endpoints[:2]] == [0, 0] and rates(nvlink, "scale_up") == [3600] * 4


def test_an_instance_lies_in_a_domain_if_it_fits_in_one() -> None:
    """GPUs 0-3, 4-7, 8-11, 12-15 in domains of 6: the second instance lies in two."""
    found = built(prefill=2, decode=2, scale_up={"gpus": 6})
    assert [e.domain for e in found.endpoints[:4]] == [0, -1, 1, 2]
    assert [e.scale_out >= 0 for e in found.endpoints[:4]] == [True, False, True, True]
    assert all(e.domain == -1 for e in built(prefill=2, decode=2).endpoints)


def shape(fabric: Fabric, e: Endpoint) -> tuple[int, int, list[str], list[str], int]:
    """Return where an endpoint is and what lies between it and its cards."""
    return e.node, e.leaf, called(fabric, e.out), called(fabric, e.into), e.extra_ps


def test_stores_and_the_gateway_come_after_the_instances() -> None:
    """1P+1D on node 0; two pool nodes with an SSD each, host DRAM and an SSD of the prefill instance."""
    kv = {"base": "dram_ssd", "dram": "both", "dram_nodes": 2, "dram_bytes_per_s": 40e9}
    found = built(kv=kv, nodes_per_leaf=1, pool={"extra_latency_s": 1e-6})
    instance, _, pool0, pool1, private, disk0, disk1, private_disk, gateway = found.endpoints
    memory = [[f"pool node {node} memory"] for node in range(2)]
    assert shape(found, pool0) == shape(found, disk0) == (1, 1, memory[0], memory[0], 1_000_000)
    assert shape(found, pool1) == shape(found, disk1) == (2, 2, memory[1], memory[1], 1_000_000)
    assert shape(found, private) == shape(found, private_disk) == (0, 0, ["node 0 host"], ["node 0 host"], 0)
    assert shape(found, gateway) == (3, 3, [], [], 0)
    assert private.nic_out == private_disk.nic_out == instance.nic_out and pool0.nic_in == disk0.nic_in
    assert rates(found, "host") == [300, 300, 192]
    assert rails(found, pool0.nic_out[0], 0) == [5] * 8 and rails(found, pool0.nic_out[1], 1) == [25] * 2
    assert rails(found, gateway.nic_out[0], 0) == [25] * 8 and rails(found, gateway.nic_out[1], 1) == [100] * 2
    assert {e.domain for e in found.endpoints} == {-1} and [e.group for e in found.endpoints] == [0, 1] + [-1] * 7


def test_the_common_store_has_a_node_of_its_own() -> None:
    found = built(kv={"base": "dram_store", "dram_nodes": 1}, pool={"bytes_per_s": 80e9}, storage={"bytes_per_s": 64e9})
    pool, storage, gateway = found.endpoints[2:]
    assert [pool.node, storage.node, gateway.node] == [1, 2, 3] and storage.out == storage.into == ()
    assert rails(found, pool.nic_out[0], 0) == [10] * 8
    assert rails(found, storage.nic_out[0], 0) == [8] * 8 and rails(found, storage.nic_in[1], 1) == [25] * 2


# Each by hand, in GB/s. An instance has 4 GPUs of 55 on PCIe and 4 cards of 50.
CUTS: dict[str, tuple[float, dict[str, Any]]] = {
    "the buses of a node": (220, {}),
    "both in one host": (192, {"staging": "host"}),
    "one card each": (200, {"gpus_per_node": 4}),
    "a slow bus": (80, {"gpus_per_node": 4, "pcie_bytes_per_s": 20e9}),
    "two senders, one receiver": (200, {"gpus_per_node": 4, "prefill": 2}),
    "one sender, two receivers": (200, {"gpus_per_node": 4, "decode": 2}),
    "two on a node, two on another": (400, {"prefill": 2, "decode": 2}),
    "staged, two on a node": (192, {"prefill": 2, "decode": 2, "staging": "host"}),
    "over a leaf": (100, {"gpus_per_node": 4, "nodes_per_leaf": 1, "back_end": {"oversubscription": 2.0}}),
    "within a leaf": (200, {"gpus_per_node": 4, "nodes_per_leaf": 2, "back_end": {"oversubscription": 2.0}}),
    "rails of two leaves, sprayed": (50, {"gpus_per_node": 4, "nodes_per_leaf": 1, "balance": "spray",
                                          "back_end": {"oversubscription": 4.0}}),
    "half of it within": (300, {"gpus_per_node": 4, "nodes_per_leaf": 3, "prefill": 2, "decode": 2,
                                "back_end": {"oversubscription": 6.0}}),
    "the front-end": (50, {"gpus_per_node": 4, "front_end_kinds": ["handoff"]}),
    "converged": (250, {"gpus_per_node": 4, "networks": "converged", "pcie_bytes_per_s": 500e9}),
    "a domain": (1800, {"gpus_per_node": 4, "scale_up": {"gpus": 8}}),
    "a node within a domain": (220, {"scale_up": {"gpus": 8}}),
    "two domains": (200, {"gpus_per_node": 4, "scale_up": {"gpus": 4}}),
    "a knob": (30, {"gpus_per_node": 4, "bisection_bytes_per_s": 30e9}),
    "a wide knob": (200, {"gpus_per_node": 4, "bisection_bytes_per_s": 900e9}),
    "a knob that nothing crosses": (220, {"bisection_bytes_per_s": 30e9}),
    "a knob beside a domain": (1800, {"gpus_per_node": 4, "scale_up": {"gpus": 8}, "bisection_bytes_per_s": 30e9}),
    "a knob and a node": (220 + 30, {"prefill": 3, "decode": 2, "bisection_bytes_per_s": 30e9}),
}  # fmt: skip


@pytest.mark.parametrize("case", CUTS)
def test_what_prefill_can_send_to_decode_at_once(case: str) -> None:
    cut, change = CUTS[case]
    assert built(**change).bisection_bytes_per_s == pytest.approx(cut * GB)


@pytest.mark.parametrize("preset", ["mixed_4", "pd_1p1d"])
def test_without_prefill_or_decode_nothing_is_sent(preset: str) -> None:
    mixed = {"mixed": 2} if preset == "mixed_4" else {"prefill": 1, "mixed": 2, "decode": 0}
    assert built(preset=preset, **mixed).bisection_bytes_per_s == 0


def test_a_cluster_of_thousands_is_laid_in_seconds() -> None:
    found = built(preset="pd_8p8d", prefill=1000, decode=1000, nodes_per_leaf=32)
    assert len(found.endpoints) == 2001 and found.bisection_bytes_per_s == pytest.approx(200_000 * GB, rel=1e-3)


def test_a_knob_lays_a_link_each_way() -> None:
    found = built(bisection_bytes_per_s=7e9)
    assert called(found, found.bisection) == ["prefill to decode", "decode to prefill"]
    assert [found.links[m].bytes_per_s for m in found.bisection] == [7e9, 7e9]

"""The fabric from its configuration: what each file says, where each setting goes, what is refused."""

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from replay import cli
from replay.cluster import cluster
from replay.errors import ConfigError
from replay.fabric import KINDS, Background
from replay.hardware.conf import load, names
from replay.network import TABLES
from replay.result import Result
from tests.built_fabrics import GB, built
from tests.refusals import refused

# 8P+8D of 4 GPUs under one leaf: links by group, (rails, spines) by network, ports, GB/s from prefill to decode.
# The first five have 8 nodes of 8 GPUs and the gateway, nvl72 16 nodes of 4.
EXPECTED: dict[str, tuple[dict[str, int], tuple[tuple[int, int], ...], int, float]] = {
    "pcie_staged": ({"nic": 180, "pcie": 32, "uplink": 72, "downlink": 72, "host": 8}, ((8, 8), (2, 4)), 324, 768),
    "pcie_gdr": ({"nic": 180, "pcie": 32, "uplink": 72, "downlink": 72}, ((8, 8), (2, 4)), 324, 1600),
    "ethernet_scale_up": ({"nic": 36, "pcie": 32, "uplink": 2, "downlink": 2, "scale_up": 32}, ((1, 1), (1, 1)), 324,
                          3200),
    "vpc_erdma": ({"nic": 18, "pcie": 32, "uplink": 1, "downlink": 1}, ((1, 1), (1, 1)), 68, 200),
    "nvl72": ({"nic": 170, "pcie": 32, "uplink": 20, "downlink": 20, "scale_up": 32}, ((4, 4), (1, 4)), 210, 28_800),
}  # fmt: skip


def test_every_file_is_tested_and_has_every_key() -> None:
    assert names("fabric") == sorted([*EXPECTED, "none"])
    assert cluster("mixed_4").fabric is None and cluster("mixed_4", fabric="none").fabric is None
    keys = list(load("fabric", "none"))
    assert all(list(load("fabric", name)) == keys and load("fabric", name)["name"] == name for name in names("fabric"))


@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_builds_what_it_says(name: str) -> None:
    found = built(name, "pd_8p8d")
    groups, sizes, ports, cut = EXPECTED[name]
    assert Counter(link.group for link in found.links) == groups
    assert tuple((wire.rails, wire.spines) for wire in found.networks) == sizes
    assert (found.ports, found.price_per_hour) == (ports, pytest.approx(0.05 * ports))
    assert found.bisection_bytes_per_s == pytest.approx(cut * GB) and found.bisection == ()
    assert found.name == name and found.fair and found.striping and found.per_flow and found.loss == 0
    assert len(found.endpoints) == 17 and found.endpoints[-1].name == "gateway"
    assert {link.receives for link in found.links if link.group != "nic"} == {False}
    assert Counter(link.receives for link in found.links if link.group == "nic") == {
        True: groups["nic"] // 2, False: groups["nic"] // 2}  # fmt: skip


def test_none_is_a_network_that_is_switched_off() -> None:
    found = built("none", sharing="fifo")
    assert not found.fair and found.links == built("pcie_gdr").links


def test_every_setting_reaches_its_place() -> None:
    found = built(
        balance="adaptive", per_flow=False, striping=False, incast_loss=0.125, message_bytes=4096, message_s=3e-6,
        outstanding=5, local_s=7e-6, request_token_bytes=6, exchange={"group": 4, "token_bytes": 8192}, signal_s=0.25,
        samples=9, port_price_per_hour=0.5, front_end_kinds=["write", "drain"],
        background=[{"bytes_per_s": 4e9, "flow_bytes": 1e9}, {"bytes_per_s": 1, "flow_bytes": 2}],
    )  # fmt: skip
    assert (found.balance, found.per_flow, found.striping, found.loss) == ("adaptive", False, False, 125)
    assert (found.message_bytes, found.message_ps, found.outstanding, found.local_ps) == (4096, 3_000_000, 5, 7_000_000)
    assert (found.request_token_bytes, found.exchange_group, found.exchange_token_bytes) == (6, 4, 8192)
    assert found.background == (Background(10**9, 0.25e12), Background(2, 2e12))
    assert (found.signal_ps, found.samples, found.price_per_hour) == (250_000_000_000, 9, 0.5 * found.ports)
    assert [kind for kind, network in zip(KINDS, found.network_of, strict=True) if network] == ["write", "drain"]


def test_kinds_have_networks_and_classes() -> None:
    found, strict = built(), built(priorities="strict")
    of_front_end = [kind for kind, network in zip(KINDS, found.network_of, strict=True) if network]
    assert of_front_end == ["compaction", "request", "background"] and set(found.class_of) == {0}
    urgent = {"handoff": 0, "fetch": 0, "exchange": 0, "request": 0, "load": 1}
    assert dict(zip(KINDS, strict.class_of, strict=True)) == {kind: urgent.get(kind, 2) for kind in KINDS}


def test_chunked_handoffs_need_a_fabric() -> None:
    with pytest.raises(ConfigError, match="cluster.handoff=chunked needs a fabric"):
        cluster("pd_1p1d", handoff="chunked")
    found = cluster("pd_1p1d", handoff="chunked", fabric="pcie_gdr")
    assert found.chunked and not found.layerwise
    other = cluster("pd_1p1d", handoff="layerwise", fabric="pcie_gdr")
    assert other.layerwise and not other.chunked


@pytest.mark.parametrize("spec", [7, "pcie_gdrr", {"base": "pcie_gdr", "gpus_per_nod": 3}])
def test_bad_nodes_from_python(spec: Any) -> None:
    with pytest.raises(ConfigError, match="fabric"):
        cluster("mixed_4", fabric=spec)


ROW = "{bytes_per_s: %s, flow_bytes: %s}"
# overrides of the command line, words of the sentence
BAD = [
    (["fabric=pcie"], "there is no fabric called 'pcie'. Did you mean 'pcie_gdr'?"),
    (["fabric.stagin=host"], "no configuration key 'fabric.stagin'. Did you mean 'fabric.staging'?"),
    (["+fabric.stagin=host"], "Did you mean fabric.staging?"),
    (["+fabric.back_end.nic=2"], "fabric.back_end.nic is not a known key. Did you mean fabric.back_end.nics?"),
    (["~fabric.samples"], "fabric needs samples, which is missing"),
    (["fabric.sharing=max_min"], "fabric.sharing must be one of null, fifo, fair, but is 'max_min'. Change it, or"),
    (["fabric.networks=one"], "fabric.networks must be one of separate, converged, but is 'one'"),
    (["fabric.balance=hash"], "fabric.balance must be one of ecmp, spray, adaptive, but is 'hash'"),
    (["fabric.per_flow=1"], "fabric.per_flow must be one of true, false, but is 1"),
    (["fabric.striping=null"], "fabric.striping must be one of true, false, but is None"),
    (["fabric.staging=rdma"], "fabric.staging must be one of direct, host, but is 'rdma'"),
    (["fabric.priorities=null"], "fabric.priorities must be one of none, strict, but is None"),
    (["fabric.sharing=fifo", "fabric.priorities=strict"], "fabric.priorities=strict needs fabric.sharing=fair, but"),
    (["fabric.gpus_per_node=0"], "fabric.gpus_per_node must be a whole number from 1 to 4096, but is 0"),
    (["fabric.nodes_per_leaf=0"], "fabric.nodes_per_leaf must be a whole number from 1 to 65536, but is 0"),
    (["fabric.back_end=null"], "fabric.back_end must be a configuration node, but is None"),
    (["fabric.scale_up=72"], "fabric.scale_up must be a configuration node, but is 72"),
    (["fabric.back_end.nics=0"], "fabric.back_end.nics must be a whole number from 1 to 64, but is 0"),
    (["fabric.front_end.bytes_per_s=0"], "fabric.front_end.bytes_per_s must be finite, above 0, but is 0"),
    (["fabric.front_end.bytes_per_s=fast"], "fabric.front_end.bytes_per_s must be a number, but is 'fast'"),
    (["fabric.back_end.spines=0"], "fabric.back_end.spines must be a whole number from 1 to 1024, but is 0"),
    (["fabric.back_end.oversubscription=0"], "fabric.back_end.oversubscription must be finite, above 0, but is 0"),
    (["fabric.back_end.latency_s=-1"], "fabric.back_end.latency_s must be finite, at least 0 and at most 10000"),
    (["fabric.front_end.hop_s=nan"], "fabric.front_end.hop_s must be finite, at least 0 and at most 10000, but is nan"),
    (["fabric.scale_up.gpus=0"], "fabric.scale_up.gpus must be a whole number from 1 to 65536, but is 0"),
    (["fabric.scale_up.bytes_per_s=0"], "fabric.scale_up.bytes_per_s must be finite, above 0, but is 0"),
    (["fabric.scale_up.ethernet=maybe"], "fabric.scale_up.ethernet must be one of true, false, but is 'maybe'"),
    (["fabric.pcie_bytes_per_s=inf"], "fabric.pcie_bytes_per_s must be finite, above 0, but is inf"),
    (["fabric.host_bytes_per_s=0"], "fabric.host_bytes_per_s must be finite, above 0, but is 0"),
    (["fabric.host_cores=0"], "fabric.host_cores must be a whole number from 1 to 65536, but is 0"),
    (["fabric.core_bytes_per_s=-1"], "fabric.core_bytes_per_s must be finite, above 0, but is -1"),
    (["fabric.pool.bytes_per_s=0"], "fabric.pool.bytes_per_s must be finite, above 0, but is 0"),
    (["fabric.pool.memory_bytes_per_s=null"], "fabric.pool.memory_bytes_per_s must be a number, but is None"),
    (["fabric.pool.extra_latency_s=-1"], "fabric.pool.extra_latency_s must be finite, at least 0"),
    (["fabric.storage.bytes_per_s=0"], "fabric.storage.bytes_per_s must be finite, above 0, but is 0"),
    (["fabric.gateway.bytes_per_s=nan"], "fabric.gateway.bytes_per_s must be finite, above 0, but is nan"),
    (["fabric.bisection_bytes_per_s=0"], "fabric.bisection_bytes_per_s must be finite, above 0, but is 0"),
    (["fabric.incast_loss=1.5"], "fabric.incast_loss must be finite, at least 0 and at most 1, but is 1.5"),
    (["fabric.message_bytes=0"], "fabric.message_bytes must be a whole number from 1"),
    (["fabric.message_s=-1e-6"], "fabric.message_s must be finite, at least 0 and at most 10000, but is -1e-06"),
    (["fabric.outstanding=-1"], "fabric.outstanding must be a whole number from 0"),
    (["fabric.local_s=1e5"], "fabric.local_s must be finite, at least 0 and at most 10000, but is 100000.0"),
    (["fabric.front_end_kinds=request"], "fabric.front_end_kinds must be a list of kinds of traffic, but is 'request'"),
    (["fabric.front_end_kinds=[reqest]"], "fabric.front_end_kinds must be one of handoff, fetch, exchange, load,"),
    (["fabric.request_token_bytes=-1"], "fabric.request_token_bytes must be a whole number from 0 to 1048576"),
    (["fabric.exchange.group=-1"], "fabric.exchange.group must be a whole number from 0 to 65536, but is -1"),
    (["fabric.exchange.token_bytes=0.5"], "fabric.exchange.token_bytes must be a whole number from 0"),
    (["fabric.exchange=null"], "fabric.exchange must be a configuration node, but is None"),
    (["fabric.background=3"], "fabric.background must be a list of {bytes_per_s, flow_bytes}, but is 3. Write"),
    (["fabric.background=[3]"], "fabric.background must be a list of {bytes_per_s, flow_bytes}, but is [3]"),
    (["fabric.background=[{bytes_per_s: 1}]"], "fabric.background[0] needs flow_bytes, which is missing"),
    ([f"fabric.background=[{ROW % (0, 1)}]"], "fabric.background[0].bytes_per_s must be finite, above 0, but is 0"),
    ([f"fabric.background=[{ROW % (1, 0)}]"], "fabric.background[0].flow_bytes must be finite, at least 1 and at most"),
    ([f"fabric.background=[{ROW % (1, '1e13')}]"], "fabric.background[0].flow_bytes must be finite, at least 1 and at"),
    ([f"fabric.background=[{ROW % ('1e300', 1)}]"], "of fabric.background[0] must be finite, at least 1e-06 and at"),
    ([f"fabric.background=[{ROW % ('1e-320', 1)}]"], "of fabric.background[0] must be finite, at least 1e-06 and at"),
    (["fabric.signal_s=-1"], "fabric.signal_s must be finite, at least 0 and at most 10000, but is -1"),
    (["fabric.samples=1e9"], "fabric.samples must be a whole number from 0 to 65536, but is 1000000000.0"),
    (["fabric.port_price_per_hour=-1"], "fabric.port_price_per_hour must be finite, at least 0, but is -1"),
    (["fabric.pcie_bytes_per_s=1e-9"], "a link of the fabric must have from 1e+06 to 1e+18 bytes/s, but 'instance 0"),
    (["fabric.pcie_bytes_per_s=1e300"], "'instance 0 pcie out' would have 1e+300. Change what its rate is made of"),
    (["fabric.back_end.oversubscription=1e300"], "but 'uplink back_end 0.0.0' would have"),
    (["fabric.back_end.oversubscription=1e-320"], "but 'uplink back_end 0.0.0' would have inf"),
    (["fabric.bisection_bytes_per_s=1"], "but 'prefill to decode' would have 1."),
    (["kv=dram", "kv.dram_bytes_per_s=1e30"], "but 'pool node 0 back_end out 0' would have inf"),
    (["cluster.prefill=4096", "cluster.decode=4096", "fabric.gpus_per_node=1", "fabric.nodes_per_leaf=1"],
     "a fabric has at most 1,048,576 links, but this one has about"),
    (["hardware.kv_token_bytes=0"], "a fabric needs KV that takes memory, but hardware.kv_token_bytes is 0. Set it"),
    (["cluster.instances=[{role: mixed}, {role: mixed, hardware: h100, model: llama3_70b}]", "model=llama3_8b"],
     "a fabric needs one size of KV for all instances, but a token takes 131072, 327680 bytes. Use one model"),
    (["fabric=none", "cluster.handoff=chunked"], "cluster.handoff=chunked needs a fabric"),
    (["cluster.handoff=chunk"], "cluster.handoff must be one of whole, layerwise, chunked, but is 'chunk'"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "words"), BAD, ids=[" ".join(overrides) for overrides, _ in BAD])
def test_bad_input_is_one_sentence_and_leaves_nothing(
    overrides: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    first = [] if overrides[0].startswith("fabric=") else ["fabric=pcie_gdr"]
    refused(["run", "trace.requests=20", "hardware=linear", *first, *overrides], words, tmp_path, capsys)


def test_a_tables_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links, traffic and the series are files, are read back, and go when a later run has no fabric."""
    monkeypatch.chdir(tmp_path)
    run = ["run", "trace.requests=60", "hardware=linear", "cluster=pd_1p1d", "out_dir=mine"]
    assert cli.main([*run, "fabric=pcie_gdr", "fabric.gpus_per_node=1", "fabric.samples=10"]) == 0
    plain = {"config.yaml", "summary.json", "requests.parquet", "digest.txt"}
    assert {path.name for path in (tmp_path / "mine").iterdir()} == plain | {f"{name}.parquet" for name in TABLES}
    result = Result.load(tmp_path / "mine")
    assert tuple(result.tables) == TABLES and result.config is not None
    assert result.config["fabric"]["name"] == "pcie_gdr" and result.summary["bisection_gb_per_s"] == 50
    # of a request and of a transfer are two numbers
    assert result.summary["handoff_s_mean"] == result.requests["handoff_s"].mean()
    assert result.summary["handoff_transfer_s_mean"] == pytest.approx(result.tables["traffic"]["mean_s"][0])
    for name, frame in result.tables.items():
        assert_frame_equal(frame, pl.read_parquet(tmp_path / "mine" / f"{name}.parquet"))
    links, traffic, series = (result.tables[name] for name in TABLES)
    handoff = traffic.row(0, named=True)
    assert (handoff["kind"], handoff["network"], handoff["transfers"]) == ("handoff", "back_end", 60)
    sent = links.filter(pl.col("link").str.starts_with("node 0 back_end out"))["gb"]
    assert sent.len() == 8 and sent.sum() == pytest.approx(handoff["gb"]) and (sent > 0).all()
    assert 1 <= series.height <= 10 and series["time_s"].is_sorted()
    assert cli.main(run) == 0
    assert {path.name for path in (tmp_path / "mine").iterdir()} == plain

"""The KV hierarchy from its configuration: what each file says, what is refused, the tables of the run directory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from replay import cli
from replay.cluster import cluster
from replay.errors import ConfigError
from replay.hardware.conf import names
from replay.kv import DISK, DRAM, Change, Index, Kv, Medium, Store
from replay.kv_config import MOST_BLOCKS
from replay.result import TABLES, Result
from tests.refusals import refused

# A token of hardware/linear.yaml takes 128 KiB of KV, so that a block of 16 takes 2 MiB.
BLOCK_BYTES = 2 << 20
GIB_BLOCKS = 512
CARD_FS = 41_943_040_000  # 2 MiB at 50 GB/s
NVME = Medium("nvme", 1_000_000, 174_762_666_667, 349_525_333_333, 100_000_000)  # 12 and 6 GB/s, 1e6 a second
PARALLEL = Medium("parallel", 1_000_000, 52_428_800_000, 104_857_600_000, 1_000_000_000)  # 40 and 20 GB/s
OBJECT = Medium("object", 200_000_000, 419_430_400_000, 419_430_400_000, 30_000_000_000)  # 5 GB/s, 5,000 a second
OF_TIERS = ("stores", "media", "shards", "occupancy")
NO_INDEX = Index(0, 2_000_000, 100_000, 1_000_000, False, "exact", 0)


def dram(node: int, server: int, below: int, latency_ps: int = 20_000_000, gib: int = 256) -> Store:
    """Return a DRAM store as the files describe it."""
    return Store(DRAM, node, server, gib * GIB_BLOCKS, below, CARD_FS, CARD_FS, latency_ps)


def disk(node: int, gib: int, server: int = -1, write_block_fs: int = 0) -> Store:
    """Return a disk as the files describe it."""
    return Store(DISK, node, server, gib * GIB_BLOCKS, -1, 0, write_block_fs, 0)


def built(name: str = "dram_ssd", preset: str = "mixed_4", **changes: Any) -> Kv:
    """Build the hierarchy of a file, with changes, for a preset on linear hardware."""
    found = cluster(preset, kv={"base": name, **changes}).kv
    assert found is not None
    return found


POOL = tuple(dram(node, -1, -1) for node in range(4))
EXPECTED: dict[str, tuple[tuple[Store, ...], int, tuple[Medium, ...]]] = {
    "dram": (POOL, 4, ()),
    "dram_ssd": ((*(replace(one, below=4 + one.node) for one in POOL), *(disk(node, 4000) for node in range(4))), 4,
                 (NVME,)),
    "dram_store": ((*(replace(one, below=4) for one in POOL), disk(-1, 100_000)), 4, (PARALLEL,)),
    "levels": ((*(replace(one, below=4) for one in POOL), disk(-1, 100_000)), 4, (NVME, PARALLEL, OBJECT)),
    "private": (tuple(dram(node, node, -1, 10_000_000) for node in range(4)), 0, ()),
    "disk_cache": ((disk(-1, 100_000, write_block_fs=104_857_600_000),), 0, (PARALLEL,)),
}  # fmt: skip


def test_every_file_is_tested_and_none_is_none() -> None:
    assert names("kv") == sorted([*EXPECTED, "none"])
    assert cluster("mixed_4").kv is None and cluster("mixed_4", kv="none").kv is None


@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_builds_what_it_says(name: str) -> None:
    found = built(name)
    assert (found.stores, found.shared_nodes, found.lsm.media) == EXPECTED[name]
    assert found.block_bytes == BLOCK_BYTES and found.index == NO_INDEX
    assert (found.prefetch, found.overlap, found.promote, found.lookahead, found.isolate) == (True,) * 3 + (False,) * 2
    assert (found.in_flight, found.writes, found.replicate_after, found.key_blocks) == (16, 64, 0, 4)
    assert (found.bound, found.virtual_nodes, found.refresh, found.gc_ps) == (1.25, 64, True, 600 * 10**12)
    assert (found.ttl_ps, found.unit_tokens) == ((86_400 * 10**12, 64) if name == "disk_cache" else (0, 0))
    if found.lsm.media:
        assert (found.lsm.memtable_blocks, found.lsm.levelled, found.lsm.fanout) == (2048, False, 4)
        assert (found.lsm.levels, found.lsm.share) == (8, 300)


def test_private_stores_belong_to_the_prefill_capable_instances() -> None:
    found = built("dram_ssd", "pd_4p4d", dram="both", dram_nodes=2)
    assert [(one.tier, one.node, one.server, one.below) for one in found.stores] == [
        *[(DRAM, node, -1, 6 + node) for node in range(2)], *[(DRAM, 2 + i, i, 8 + i) for i in range(4)],
        *[(DISK, node, -1, -1) for node in range(2)], *[(DISK, 2 + i, i, -1) for i in range(4)],
    ]  # fmt: skip
    assert found.shared_nodes == 2


def test_disks_without_dram_are_written_over_their_own_link() -> None:
    found = built("dram_ssd", "pd_4p4d", dram=None)
    assert found.stores == tuple(disk(i, 4000, i, NVME.write_block_fs) for i in range(4)) and found.shared_nodes == 0


def test_replicas_and_compression_change_what_is_moved() -> None:
    found = built(replicas=3, compression=2.0).lsm.media[0]
    assert (found.read_block_fs, found.write_block_fs) == (87_381_333_333, 524_288_000_000)


def test_every_setting_reaches_its_place() -> None:
    index = {"shards": 3, "lookup_s": 1e-6, "node_s": 2e-9, "gc_node_s": 3e-6, "match": "exact", "belief": "lagged",
             "lag_s": 0.25}  # fmt: skip
    changes = [
        {"at_s": 9, "what": "repair_disk", "node": 2}, {"at_s": 1.5, "what": "drain", "node": 1, "until_s": 4.0},
        {"at_s": 2, "what": "leave", "node": 0}, {"at_s": 3, "what": "join", "node": 0},
        {"at_s": 8, "what": "fail_disk", "node": 2},
    ]  # fmt: skip
    found = built(
        compaction="levelled", fanout=8, levels=3, background_share=0.125, memtable_mib=4, prefetch=False,
        overlap=False, promote=False, lookahead=True, isolate=True, in_flight=2, writes=5, replicate_after=7,
        key_blocks=9, bound=2.0, virtual_nodes=11, ttl_s=30.0, ttl_refresh=False, gc_s=0.5, unit_tokens=4, samples=13,
        index=index, changes=changes,
    )  # fmt: skip
    lsm = found.lsm
    assert (lsm.levelled, lsm.fanout, lsm.levels, lsm.share, lsm.memtable_blocks) == (True, 8, 3, 125, 2)
    switches = (found.prefetch, found.overlap, found.promote, found.lookahead, found.isolate, found.refresh)
    assert switches == (False, False, False, True, True, False)
    assert (found.in_flight, found.writes, found.replicate_after, found.key_blocks) == (2, 5, 7, 9)
    assert (found.bound, found.virtual_nodes, found.samples) == (2.0, 11, 13)
    assert (found.ttl_ps, found.gc_ps, found.unit_tokens) == (30 * 10**12, 5 * 10**11, 16)  # a unit is a block at least
    assert found.index == Index(3, 1_000_000, 2_000, 3_000_000, True, "lagged", 250_000_000_000)
    at = [1.5, 2, 3, 8, 9]
    assert [change.at_ps for change in found.changes] == [round(one * 1e12) for one in at]
    assert found.changes[0] == Change(15 * 10**11, "drain", 1, 4 * 10**12)
    assert [change.what for change in found.changes[1:]] == ["leave", "join", "fail_disk", "repair_disk"]


@pytest.mark.parametrize(
    "change",
    [{"index.shards": 1}, {"index.match": "exact"}, {"index.belief": "routed"}, {"ttl_s": 5.0}, {"unit_tokens": 32},
     {"isolate": True}, {"lookahead": True}, {"samples": 10}, {"dram": "shared"}, {"disk": "local"}],
)  # fmt: skip
def test_anything_switched_on_makes_a_hierarchy(change: dict[str, Any]) -> None:
    (key, value), = change.items()
    owner, _, name = key.rpartition(".")
    spec = {"base": "none", owner: {name: value}} if owner else {"base": "none", key: value}
    found = cluster("mixed_4", kv=spec).kv
    assert found is not None and bool(found.stores) == (key in ("dram", "disk"))


def test_a_gigantic_store_is_one_of_many_blocks() -> None:
    found = built(dram_gib=1e300, memtable_mib=1e300)
    assert found.stores[0].blocks == found.lsm.memtable_blocks == MOST_BLOCKS


LEAVE = "{at_s: 1, what: leave, node: 0}"
# overrides of the command line, words of the sentence
BAD = [
    (["kv=drum"], "there is no kv called 'drum'. Did you mean 'dram'?"),
    (["kv.dram_nods=2"], "no configuration key 'kv.dram_nods'. Did you mean 'kv.dram_nodes'?"),
    (["+kv.dram_nods=2"], "Did you mean"),
    (["+kv.index.shard=2"], "Did you mean"),
    (["kv.dram=pooled"], "kv.dram must be one of null, shared, private, both, but is 'pooled'. Change it, or"),
    (["kv.dram=true"], "kv.dram must be one of null, shared, private, both, but is True"),
    (["kv.disk=ssd"], "kv.disk must be one of null, local, store, but is 'ssd'"),
    (["kv.compaction=none"], "kv.compaction must be one of tiered, levelled, but is 'none'"),
    (["kv.compaction=null"], "kv.compaction must be one of tiered, levelled, but is None"),
    (["kv.prefetch=1"], "kv.prefetch must be one of true, false, but is 1"),
    (["kv.overlap=maybe"], "kv.overlap must be one of true, false, but is 'maybe'"),
    (["kv.ttl_refresh=null"], "kv.ttl_refresh must be one of true, false, but is None"),
    (["kv.isolate=0"], "kv.isolate must be one of true, false, but is 0"),
    (["kv.dram_nodes=0"], "kv.dram_nodes must be a whole number from 1 to 4096, but is 0"),
    (["kv.dram_nodes=1.5"], "kv.dram_nodes must be a whole number from 1 to 4096, but is 1.5"),
    (["kv.dram_nodes=true"], "kv.dram_nodes must be a whole number from 1 to 4096, but is True"),
    (["kv.dram_gib=0"], "kv.dram_gib must be finite, above 0, but is 0"),
    (["kv.dram_gib=-1"], "kv.dram_gib must be finite, above 0, but is -1"),
    (["kv.dram_gib=nan"], "kv.dram_gib must be finite, above 0, but is nan"),
    (["kv.dram_gib=inf"], "kv.dram_gib must be finite, above 0, but is inf"),
    (["kv.dram_gib=much"], "kv.dram_gib must be a number, but is 'much'"),
    (["kv.dram_gib=1e-4"], "kv.dram_gib must hold at least one KV block of 2,097,152 bytes, but is 0.0001 GiB. Give"),
    (["kv.dram_bytes_per_s=0"], "kv.dram_bytes_per_s must be finite, above 0, but is 0"),
    (["kv.dram_bytes_per_s=1e-9"], "a KV block by kv.dram_bytes_per_s must be a finite time from 0 to"),
    (["kv.dram_bytes_per_s=1e-320"], "a KV block by kv.dram_bytes_per_s must be a finite time from 0 to"),
    (["kv.dram_latency_s=1e9"], "kv.dram_latency_s must be a finite time from 0 to"),
    (["kv.dram_latency_s=-1e-6"], "kv.dram_latency_s must be finite, at least 0, but is -1e-06"),
    (["kv.dram=private", "kv.private_gib=nan"], "kv.private_gib must be finite, above 0, but is nan"),
    (["kv.dram=private", "kv.private_bytes_per_s=fast"], "kv.private_bytes_per_s must be a number, but is 'fast'"),
    (["kv.dram=both", "kv.private_latency_s=null"], "kv.private_latency_s must be a number, but is None"),
    (["kv.disk_gib=0"], "kv.disk_gib must be finite, above 0, but is 0"),
    (["kv.media=[]"], "kv.media must list what the levels of a disk lie on"),
    (["kv.media=nvme"], "kv.media must list what the levels of a disk lie on"),
    (["kv.media=[nvme]"], "kv.media must list what the levels of a disk lie on"),
    (["kv.media=[{name: nvme}]"], "kv.media[0] needs read_bytes_per_s, write_bytes_per_s, iops, latency_s, which are"),
    (["kv.media=[{nam: nvme}]"], "kv.media[0].nam is not a known key. Did you mean kv.media[0].name?"),
    (["kv.media=[{name: x, read_bytes_per_s: 0, write_bytes_per_s: 1e9, iops: 1, latency_s: 0}]"],
     "kv.media[0].read_bytes_per_s must be finite, above 0, but is 0"),
    (["kv.media=[{name: x, read_bytes_per_s: 1e9, write_bytes_per_s: nan, iops: 1, latency_s: 0}]"],
     "kv.media[0].write_bytes_per_s must be finite, above 0, but is nan"),
    (["kv.media=[{name: x, read_bytes_per_s: 1e9, write_bytes_per_s: 1e9, iops: -5, latency_s: 0}]"],
     "kv.media[0].iops must be finite, above 0, but is -5"),
    (["kv.media=[{name: x, read_bytes_per_s: 1e9, write_bytes_per_s: 1e9, iops: 5, latency_s: -1}]"],
     "kv.media[0].latency_s must be finite, at least 0, but is -1"),
    (["kv.media=[{name: x, read_bytes_per_s: 1e9, write_bytes_per_s: 1e9, iops: 1, latency_s: soon}]"],
     "kv.media[0].latency_s must be a number, but is 'soon'"),
    (["kv.media=[{name: x, read_bytes_per_s: 1e-9, write_bytes_per_s: 1e9, iops: 1, latency_s: 0}]"],
     "a KV block by kv.media[0].read_bytes_per_s must be a finite time from 0 to"),
    (["kv.media=[{name: x, read_bytes_per_s: 1e9, write_bytes_per_s: 1e9, iops: 1e-9, latency_s: 0}]"],
     "an operation by kv.media[0].iops must be a finite time from 0 to"),
    (["kv.replicas=0"], "kv.replicas must be a whole number from 1 to 16, but is 0"),
    (["kv.compression=0.5"], "kv.compression must be finite, at least 1, but is 0.5"),
    (["kv.compression=nan"], "kv.compression must be finite, at least 1, but is nan"),
    (["kv.memtable_mib=0"], "kv.memtable_mib must be finite, above 0, but is 0"),
    (["kv.fanout=1"], "kv.fanout must be a whole number from 2 to 64, but is 1"),
    (["kv.levels=0"], "kv.levels must be a whole number from 1 to 16, but is 0"),
    (["kv.background_share=0"], "kv.background_share must be finite, at least 0.001 and at most 0.999, but is 0"),
    (["kv.background_share=1"], "kv.background_share must be finite, at least 0.001 and at most 0.999, but is 1"),
    (["kv.background_share=-0.1"], "kv.background_share must be finite, at least 0.001 and at most 0.999, but is -0.1"),
    (["kv.in_flight=0"], "kv.in_flight must be a whole number from 1"),
    (["kv.writes=0"], "kv.writes must be a whole number from 1 to 4096, but is 0"),
    (["kv.replicate_after=-1"], "kv.replicate_after must be a whole number from 0"),
    (["kv.key_blocks=0"], "kv.key_blocks must be a whole number from 1"),
    (["kv.bound=0.9"], "kv.bound must be finite, at least 1 and at most 1e+06, but is 0.9"),
    (["kv.bound=1e7"], "kv.bound must be finite, at least 1 and at most 1e+06, but is 10000000.0"),
    (["kv.virtual_nodes=0"], "kv.virtual_nodes must be a whole number from 1 to 65536, but is 0"),
    (["kv.ttl_s=0"], "kv.ttl_s must be finite, at least 1e-12, but is 0"),
    (["kv.ttl_s=forever"], "kv.ttl_s must be a number, but is 'forever'"),
    (["kv.ttl_s=1e9"], "kv.ttl_s must be a finite time from 0 to"),
    (["kv.gc_s=0"], "kv.gc_s must be finite, at least 1e-12, but is 0"),
    (["kv.unit_tokens=0"], "kv.unit_tokens must be a whole number from 1"),
    (["kv.unit_tokens=24"], "kv.unit_tokens must be a multiple of a KV block or divide it, but is 24, and a block is"),
    (["kv.samples=-1"], "kv.samples must be a whole number from 0"),
    (["kv.index=3"], "kv.index must be a configuration node, but is 3. Set its keys, as in kv.index.shards=4."),
    (["kv.index.shards=-1"], "kv.index.shards must be a whole number from 0 to 4096, but is -1"),
    (["kv.index.match=whole"], "kv.index.match must be one of prefix, exact, but is 'whole'"),
    (["kv.index.belief=stale"], "kv.index.belief must be one of exact, lagged, routed, but is 'stale'"),
    (["kv.index.lag_s=-1"], "kv.index.lag_s must be finite, at least 0, but is -1"),
    (["kv.index.lookup_s=nan"], "kv.index.lookup_s must be finite, at least 0, but is nan"),
    (["kv.changes=7"], "kv.changes must be a list of {at_s, what, node}, but is 7. Write kv.changes=[{at_s: 600,"),
    (["kv.changes=[7]"], "kv.changes must be a list of {at_s, what, node}, but is [7]"),
    (["kv.changes=[{at_s: 1, what: leave}]"], "kv.changes[0] needs node, which is missing"),
    (["kv.changes=[{at_s: 1, what: leave, nod: 0}]"], "Did you mean kv.changes[0].node?"),
    (["kv.changes=[{at_s: 1, what: quit, node: 0}]"],
     "kv.changes[0].what must be one of leave, drain, join, fail_disk, repair_disk, but is 'quit'"),
    (["kv.changes=[{at_s: -1, what: leave, node: 0}]"], "kv.changes[0].at_s must be finite, at least 0, but is -1"),
    ([f"kv.changes=[{LEAVE},{{at_s: 1, what: join, node: 4}}]"],
     "kv.changes[1].node must be a DRAM node of the hierarchy, one of [0, 1, 2, 3], but is 4. Change it, or kv.dram"),
    (["kv.changes=[{at_s: 1, what: fail_disk, node: -1}]"],
     "kv.changes[0].node must be a disk of the hierarchy, one of [0, 1, 2, 3], but is -1"),
    (["kv.changes=[{at_s: 1, what: leave, node: true}]"], "kv.changes[0].node must be a DRAM node"),
    (["kv.changes=[{at_s: 1, what: leave, node: 0.5}]"], "kv.changes[0].node must be a DRAM node"),
    (["kv.dram=null", f"kv.changes=[{LEAVE}]"], "kv.changes[0].node must be a DRAM node of the hierarchy, one of []"),
    (["kv.changes=[{at_s: 1, what: drain, node: 0}]"], "kv.changes[0] must have until_s if it drains, and only then"),
    (["kv.changes=[{at_s: 1, what: leave, node: 0, until_s: 2}]"], "must have until_s if it drains, and only then"),
    (["kv.changes=[{at_s: 3, what: drain, node: 0, until_s: 2}]"],
     "kv.changes[0].until_s must be finite, at least 3, but is 2"),
    (["hardware.kv_token_bytes=0"], "needs KV that takes memory, but hardware.kv_token_bytes is 0. Set it, or kv="),
    (["cluster.instances=[{role: mixed}, {role: mixed, hardware: h100, model: llama3_70b}]", "model=llama3_8b"],
     "a KV hierarchy needs one size of KV for all instances, but a token takes 131072, 327680 bytes. Use one model"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "words"), BAD, ids=[" ".join(overrides) for overrides, _ in BAD])
def test_bad_input_is_one_sentence_and_leaves_nothing(
    overrides: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    first = [] if overrides[0].startswith("kv=") else ["kv=dram_ssd"]
    refused(["run", "trace.requests=20", "hardware=linear", *first, *overrides], words, tmp_path, capsys)


@pytest.mark.parametrize("spec", [7, "dran", {"base": "dram", "dram_gb": 3}])
def test_bad_nodes_from_python(spec: Any) -> None:
    with pytest.raises(ConfigError, match="kv"):
        cluster("mixed_4", kv=spec)


def test_a_tables_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Stores, media, shards and occupancy are files, are read back, and go when a later run has none of them."""
    monkeypatch.chdir(tmp_path)
    run = ["run", "trace.requests=120", "hardware=linear", "cluster=pd_1p1d", "out_dir=mine"]
    tiers = ["kv=dram_ssd", "kv.dram_nodes=2", "kv.index.shards=3", "kv.samples=20", "cluster.kv_blocks=600"]
    assert cli.main([*run, *tiers]) == 0
    assert "from DRAM" in capsys.readouterr().out
    plain = {"config.yaml", "summary.json", "requests.parquet", "digest.txt"}
    assert {path.name for path in (tmp_path / "mine").iterdir()} == plain | {f"{name}.parquet" for name in OF_TIERS}
    result = Result.load(tmp_path / "mine")
    assert tuple(result.tables) == OF_TIERS == TABLES[:4]
    assert result.config is not None and result.config["kv"]["dram_nodes"] == 2
    for name, frame in result.tables.items():
        assert_frame_equal(frame, pl.read_parquet(tmp_path / "mine" / f"{name}.parquet"))
    check_tables(result)
    assert cli.main([*run, "kv=dram"]) == 0
    assert {path.name for path in (tmp_path / "mine").iterdir()} == plain | {"stores.parquet"}
    assert tuple(Result.load(tmp_path / "mine").tables) == ("stores",)
    assert cli.main(run) == 0
    assert {path.name for path in (tmp_path / "mine").iterdir()} == plain and not Result.load(tmp_path / "mine").tables


def check_tables(result: Result) -> None:
    """Check the tables of a run on a split cluster with two DRAM nodes, their disks and three shards."""
    tables = result.tables
    assert tables["stores"]["tier"].to_list() == ["dram", "dram", "disk", "disk"]
    assert tables["stores"]["node"].to_list() == [0, 1, 0, 1] and tables["stores"]["present"].all()
    assert tables["stores"]["written_gb"].sum() == pytest.approx(result.summary["write_gb"])
    assert tables["media"]["store"].to_list() == [2, 3] and tables["media"]["medium"].to_list() == ["nvme", "nvme"]
    assert tables["shards"]["lookups"].sum() == 120 and tables["shards"].height == 3
    occupancy = tables["occupancy"]
    assert occupancy.columns == ["time_s", "hbm_0_blocks", "dram_0_blocks", "dram_1_blocks", "disk_2_blocks",
                                 "disk_3_blocks"]  # fmt: skip
    assert 1 <= occupancy.height <= 20 and occupancy["time_s"].is_sorted()
    last = occupancy.row(-1, named=True)
    assert last["dram_0_blocks"] + last["dram_1_blocks"] > 0
    rows = result.requests
    parts = sum(rows[f"hit_tokens_{name}"] for name in ("hbm", "dram", "disk"))
    assert (parts == rows["hit_tokens"]).all() and (rows["lookup_s"] > 0).all()
    assert rows["hit_tokens_dram"].sum() > 0 and (rows["exposed_load_s"] >= 0).all()

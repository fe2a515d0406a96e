"""What a replay tells of its KV hierarchy: where KV lies, what a request waited for, how full holders were."""

import polars as pl
import pytest

from replay.cluster import cluster
from replay.session import Session
from tests.bench.speed import SHARED
from traces.synthetic import make

KV = {"base": "dram_ssd", "dram_nodes": 2, "dram_gib": 4.0, "memtable_mib": 64.0, "samples": 50}


@pytest.fixture(scope="module")
def session() -> Session:
    """Replay sessions with shared prefixes on instances short of blocks, above DRAM and SSDs."""
    where = cluster("pd_1p1d", hardware="linear", block_tokens=16, kv_blocks=2500, kv=KV)
    made = Session(make("shared_prefix", 600, 0, **SHARED), where, {"fetch": "wait", "route": "round_robin"})
    while not made.advance(10_000):
        pass
    return made


def test_causes_add_up(session: Session) -> None:
    """Time to first token is queue and prefill; what a load exposes is part of the one or the other."""
    rows = session.result().requests
    assert ((rows["queue_s"] + rows["prefill_s"] - rows["ttft_s"]).abs() < 1e-9).all()
    assert (rows["exposed_load_s"] <= rows["ttft_s"]).all() and (rows["transfer_s"] > 0).any()
    assert ((rows["transfer_s"] == 0) == (rows["output_tokens"] == 1)).all()
    by_tier = rows.select(pl.sum_horizontal("hit_tokens_hbm", "hit_tokens_dram", "hit_tokens_disk")).to_series()
    assert (by_tier == rows["hit_tokens"]).all() and (rows["hit_tokens_disk"] > 0).any()


def test_where_names_every_copy(session: Session) -> None:
    """Copies in all tiers, whole prefixes of the prompt, and on disk as many blocks in fragments as the slot has."""
    state = session.state
    found = {row["tier"] for request in range(len(session.trace)) for row in session.where(request)}
    assert found == {"hbm", "dram", "disk"}
    for request in range(0, len(session.trace), 37):
        rows = pl.DataFrame(session.where(request), infer_schema_length=None)
        for holder, copy in rows.group_by("holder"):
            whole = state.cache.nodes["blocks"][copy["node"].unique().sort().to_numpy()]
            blocks = copy.group_by("node").agg(pl.col("blocks").sum()).sort("node")["blocks"].to_numpy()
            assert (blocks[:-1] == whole[:-1]).all() and 0 < blocks[-1] <= whole[-1], (request, holder)


def test_occupancy_over_time(session: Session) -> None:
    """Rows rise in time, never pass a holder's size, and the pool fills up."""
    table = session.result().tables["occupancy"]
    assert 25 <= len(table) <= 50 and (table["time_s"].diff().drop_nulls() > 0).all()
    for s, store in enumerate(session.cluster.kv.stores):  # type: ignore[union-attr]
        column = table[f"{('hbm', 'dram', 'disk')[store.tier]}_{s}_blocks"]
        assert column.max() <= store.blocks and column[0] == 0 < column[-1]  # type: ignore[operator]

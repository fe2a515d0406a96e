"""Digests of fixed small runs, pinned: a change of any of them is a change of what the model says.

The traces are made of integer draws, so that no library's random stream is part of them.
`python -m tests.test_golden --write` pins them anew; say in the commit why the model changed.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay.cluster import Cluster, Instance
from replay.engine.draws import mix
from replay.engine.schema import STATUSES
from replay.fabric import Background
from replay.kv import DISK, DRAM, Change, Index, Kv, Lsm, Medium, Store
from replay.result import DIGESTED, Result, digest
from replay.session import replay
from replay.speculation import Speculation
from tests import twin
from tests.small import PS, small_cluster, small_instance, small_policies, small_profile, small_trace
from tests.wires import star
from traces.schema import Trace

PINNED = Path(__file__).with_name("golden.json")
REQUESTS, FEW, BLOCK_TOKENS = 300, 120, 16  # the twin takes its time over a hierarchy
SLO: dict[str, Any] = {"tiers": {name: {} for name in ("gold", "silver", "bronze")}, "default": "bronze"}


def draw(stream: int, row: int, count: int) -> int:
    """Return an integer in [0, count) that depends on (stream, row) only."""
    return mix(mix(stream) ^ row) % count


def trace(gap_ps: int, closed: bool = False, long: bool = False, requests: int = REQUESTS) -> Trace:
    """Make 300 requests, or another number, in three tiers that share prefixes of 1 to 6 blocks.

    gap_ps : arrivals are apart by less than so much
    closed : two in three rows wait for an earlier one and some think time
    long   : one output in 8 is 40 times as long
    """
    rows, chains, arrival_ps = [], [], 0
    for row in range(requests):
        family, shared, own = draw(1, row, 12), 1 + draw(2, row, 4), draw(3, row, 3)
        chain = [100 * family + block for block in range(shared)] + [10_000 + 10 * row + block for block in range(own)]
        output = 1 + draw(5, row, 30)
        rows.append((arrival_ps, len(chain) * BLOCK_TOKENS + draw(4, row, BLOCK_TOKENS),
                     output * 40 if long and draw(6, row, 8) == 0 else output))  # fmt: skip
        chains.append(chain)
        arrival_ps += draw(7, row, gap_ps)
    columns: dict[str, Any] = {"tier": [("gold", "silver", "bronze")[draw(8, row, 3)] for row in range(requests)]}
    if closed:
        parents = [draw(9, row, row) if row and draw(10, row, 3) else -1 for row in range(requests)]
        columns["parent"] = parents
        columns["think_s"] = [draw(11, row, 9000) * PS if parents[row] >= 0 else 0.0 for row in range(requests)]
    return small_trace(rows, chains, BLOCK_TOKENS, **columns)


def instance(role: str, **limits: int) -> Instance:
    """Make an instance that takes 100 ps an iteration and 2 ps a prefill token."""
    profile = small_profile(iteration_ps=100, prefill_token_ps=2, decode_request_ps=3, prefill_token_sq_fs=5,
                            kv_segments=[(0, 0, 0), (500, 10, 1)])  # fmt: skip
    given = {"max_batch": 8, "token_budget": 64, "block_tokens": BLOCK_TOKENS, "kv_blocks": 90, **limits}
    return small_instance(role, profile, latency_ps=40, **given)


def mixed(count: int, **limits: int) -> Cluster:
    """Make a cluster of mixed instances."""
    return small_cluster([instance("mixed", **limits) for _ in range(count)])


def split(prefill: int, decode: int, layers: int | None = None, **limits: int) -> Cluster:
    """Make a cluster whose decode instances differ from the prefill ones.

    limits : of the prefill instances
    """
    first = [instance("prefill", token_budget=128, **limits) for _ in range(prefill)]
    return small_cluster([*first, *(instance("decode", kv_blocks=150) for _ in range(decode))], layers=layers)


def tiered(
    cluster: Cluster, nodes: int, blocks: tuple[int, int] = (60, 0), private: bool = False, **changed: Any
) -> Cluster:
    """Put DRAM below a cluster, and one disk below all of it or each: 10 ps a block from DRAM, more from disk.

    nodes   : stores of DRAM: shared ones, or private ones of the first instances
    blocks  : of each DRAM store; of each disk, 0 for none; negative for one disk below all
    changed : fields of Kv
    """
    common = blocks[1] < 0
    drams = [Store(DRAM, k, k if private else -1, blocks[0], (nodes if common else nodes + k) if blocks[1] else -1,
                   10_000, 5_000, 15) for k in range(nodes)]  # fmt: skip
    owners: Sequence[tuple[int, int]] = [(-1, -1)] if common else [(one.node, one.server) for one in drams]
    disks = [Store(DISK, node, server, abs(blocks[1]), -1, 0, 0, 0) for node, server in owners] if blocks[1] else []
    given: dict[str, Any] = {
        "lsm": LSM, "index": Index(0, 0, 0, 0, False, "exact", 0), "prefetch": True, "overlap": True, "promote": True,
        "lookahead": False, "in_flight": 4, "writes": 16, "replicate_after": 0, "key_blocks": 1, "bound": 1.25,
        "virtual_nodes": 8, "ttl_ps": 0, "refresh": True, "gc_ps": 0, "unit_tokens": 0, "isolate": False,
        "changes": (), "samples": 0,
    }  # fmt: skip
    stores = (*drams, *disks)
    return replace(cluster, kv=Kv(stores, 0 if private else nodes, 16_000, **{**given, **changed}))


def networked(cluster: Cluster, endpoints: int, **changed: Any) -> Cluster:
    """Join the instances, stores and gateway of a cluster by cards of 40 bytes a ps: 400 ps for a block of KV."""
    return replace(cluster, fabric=star(endpoints, {"nic": 40.0, "uplink": 40.0}, **changed))


LSM = Lsm((Medium("nvme", 20, 40_000, 20_000, 30), Medium("far", 60, 90_000, 30_000, 200)), 6, False, 3, 3, 300)
CHANGES = (Change(12_000, "drain", 0, 14_000), Change(20_000, "leave", 1, 20_000), Change(28_000, "join", 0, 28_000),
           Change(32_000, "fail_disk", 2, 32_000), Change(36_000, "repair_disk", 2, 36_000))  # fmt: skip
DRAFTS = Speculation(np.array([0.75, 0.5, 0.25]), draft_ps=3, draft_request_ps=1, share_ppm=20_000)
AGING = ("priority_by_tier", {"aging_s": 5e-9})
URGENT = ("priority_by_tier", {"preemptive": True})
# name -> trace, cluster, policies
RUNS: dict[str, tuple[dict[str, Any], Cluster, dict[str, Any]]] = {
    "one_instance": ({"gap_ps": 4000}, mixed(1), {}),
    "overload_preempts": ({"gap_ps": 300, "long": True}, mixed(2, kv_blocks=90), {"route": "round_robin"}),
    "random_prefill_first": ({"gap_ps": 900}, mixed(3), {"route": "random", "batch": "prefill_first"}),
    "two_choices_decode_first": ({"gap_ps": 900}, mixed(4), {"route": "power_of_two", "batch": "decode_first"}),
    "locality": ({"gap_ps": 900}, mixed(4), {"route": "kv_locality"}),
    "locality_small_cache": ({"gap_ps": 700, "long": True}, mixed(4, kv_blocks=90), {"route": "kv_locality"}),
    "central_queue": ({"gap_ps": 500}, mixed(2, max_batch=2), {"route": "central_queue", "order": "shortest_prompt"}),
    "urgent_tiers": ({"gap_ps": 250}, mixed(2, max_batch=3), {"order": URGENT}),
    "aging_and_admission": ({"gap_ps": 250}, mixed(2), {"order": AGING, "admit": ("queue_limit", {"limit": 6})}),
    "split": ({"gap_ps": 700}, split(2, 2), {}),
    "split_layerwise_locality": ({"gap_ps": 700}, split(2, 1, layers=4), {"route": "kv_locality"}),
    "closed_loop": ({"gap_ps": 2000, "closed": True}, mixed(2), {"route": "kv_locality"}),
    "closed_loop_split": ({"gap_ps": 2000, "closed": True, "long": True}, split(1, 2), {"order": URGENT}),
    "least_remaining_first": ({"gap_ps": 250}, mixed(2), {"order": ("oracle_srpt", {})}),
    "old_signals_in_a_pool": (
        {"gap_ps": 400}, replace(mixed(3), mixed_pool=True, signal_lag_ps=3000),
        {"route": "lmetric", "decode": "least_step", "order": URGENT},
    ),
    "migration": (
        {"gap_ps": 250, "long": True}, replace(mixed(3, kv_blocks=30), migrate_ps=2000),
        {"route": "random", "migrate": ("llumnix", {"least_gap": 0.5, "enough": 1e6})},
    ),
    "drafts": (
        {"gap_ps": 400, "long": True}, replace(mixed(2, kv_blocks=90), speculation=DRAFTS), {"route": "round_robin"},
    ),
    "dram_pool": ({"requests": FEW, "gap_ps": 900}, tiered(mixed(4, kv_blocks=20), 2), {}),
    "dram_ssd_waiting": (
        {"requests": FEW, "gap_ps": 700}, tiered(mixed(3, kv_blocks=20), 2, (6, 60), overlap=False, replicate_after=2),
        {"fetch": "wait", "write": "selective", "evict": "lfu"},
    ),
    "private_split_layerwise": (
        {"requests": FEW, "gap_ps": 600},
        tiered(split(2, 1, layers=4, kv_blocks=16), 2, (14, 60), private=True, prefetch=False, lookahead=True,
               lsm=replace(LSM, media=(Medium("fast", 5, 8_000, 8_000, 5),))),
        {"fetch": "cheaper", "write": "back", "evict": "s3_fifo"},
    ),
    "store_levelled_lifetime": (
        {"requests": FEW, "gap_ps": 700},
        tiered(mixed(3, kv_blocks=20), 2, (14, -200), lsm=replace(LSM, levelled=True), ttl_ps=12_000, gc_ps=5_000,
               unit_tokens=32),
        {"fetch": ("timeout", {"base_s": 3e-10}), "evict": "gdsf"},
    ),
    "elastic_pool_lagged_index": (
        {"requests": FEW, "gap_ps": 700},
        tiered(mixed(3, kv_blocks=20), 3, (14, 60), changes=CHANGES, index=Index(2, 30, 5, 11, False, "lagged", 900)),
        {"route": "kv_locality", "evict": "length_aware", "fetch": "wait"},
    ),
    "fabric_fair_layerwise": (
        {"requests": FEW, "gap_ps": 700}, networked(split(2, 2, layers=4), 5, per_leaf=2, spines=2, fair=True, loss=40,
                                                    request_token_bytes=50, signal_ps=2000),
        {"route": "kv_locality", "decode": "network_aware"},
    ),
    "fabric_fifo_chunked_busy": (
        {"requests": FEW, "gap_ps": 700, "long": True},
        networked(replace(split(2, 1, kv_blocks=30), chunked=True), 4, fair=False, exchange_group=2,
                  exchange_token_bytes=300, background=(Background(9000, 4000.0),)), {},
    ),
    "fabric_tiers": (
        {"requests": FEW, "gap_ps": 700},
        networked(tiered(mixed(3, kv_blocks=20), 2, (14, -200), lsm=replace(LSM, levelled=True)), 7, fair=True,
                  class_of=(0, 0, 0, 1, 2, 2, 2, 0, 2)), {"fetch": "wait"},
    ),
    "closed_loop_tiers": (
        {"requests": FEW, "gap_ps": 2000, "closed": True, "long": True}, tiered(mixed(2), 2, (30, 90)),
        {"order": URGENT, "evict": "workload_aware"},
    ),
}
HIERARCHIES = tuple(name for name, (_, cluster, _) in RUNS.items() if cluster.kv is not None)


def run(name: str, **options: Any) -> Result:
    """Replay one of the fixed runs."""
    shape, cluster, policies = RUNS[name]
    return replay(trace(**shape), cluster, small_policies(**policies), slo=SLO, seed=11, **options)


def test_the_pinned_runs_are_the_runs() -> None:
    assert list(json.loads(PINNED.read_text())) == list(RUNS) and len(RUNS) >= 10


@pytest.mark.parametrize("name", RUNS)
def test_digest(name: str) -> None:
    """The digest, and a few sums that say roughly what changed when it does not hold."""
    pinned = json.loads(PINNED.read_text())[name]
    assert described(run(name)) == pinned


@pytest.mark.parametrize("name", RUNS)
def test_the_twin_gives_the_pinned_digest(name: str) -> None:
    """What is pinned is right, not only old."""
    shape, cluster, policies = RUNS[name]
    rows = twin.run(trace(**shape), cluster, small_policies(**policies), 11, tuple(SLO["tiers"]))
    rows["status"] = [STATUSES.index(status) for status in rows["status"]]
    pinned = json.loads(PINNED.read_text())[name]["digest"]
    assert digest({field: np.array(rows[field]) for field in DIGESTED}) == pinned


def test_the_runs_reach_what_they_are_for() -> None:
    """Preemption, hits, rejection, holding and handoffs do occur, or the digests would prove little."""
    pinned = json.loads(PINNED.read_text())
    assert len({one["digest"] for one in pinned.values()}) == len(RUNS)
    assert pinned["overload_preempts"]["preemptions"] > 0 and pinned["urgent_tiers"]["preemptions"] > 0
    assert pinned["drafts"]["preemptions"] > 0 == REQUESTS - pinned["drafts"]["finished"]
    assert pinned["aging_and_admission"]["finished"] < REQUESTS == pinned["split"]["finished"]
    assert pinned["locality"]["hit_tokens"] > pinned["random_prefill_first"]["hit_tokens"] > 0
    assert pinned["locality"]["hit_tokens"] > pinned["locality_small_cache"]["hit_tokens"]
    assert pinned["split"]["digest"] != pinned["split_layerwise_locality"]["digest"]
    assert len(HIERARCHIES) >= 6 and all(pinned[name]["hit_tokens_dram"] > 0 for name in HIERARCHIES)
    on_disk = {name for name in HIERARCHIES if pinned[name]["hit_tokens_disk"] > 0}
    assert on_disk == set(HIERARCHIES) - {"dram_pool"} and pinned["closed_loop_tiers"]["preemptions"] > 0
    assert pinned["store_levelled_lifetime"]["gc_nodes"] > 0 and pinned["elastic_pool_lagged_index"]["lost_bytes"] > 0
    assert pinned["fabric_tiers"]["write_bytes"] > 0 and len({name for name in RUNS if name.startswith("fabric")}) == 3
    assert all(pinned[name]["compaction_write_bytes"] > 0 for name in ("store_levelled_lifetime", "closed_loop_tiers"))
    waited_for = {name for name in HIERARCHIES if pinned[name]["exposed_load_ps"] > 0}
    assert waited_for == set(HIERARCHIES) - {"private_split_layerwise"}, "layers hide what is loaded at admission"


def described(result: Result) -> dict[str, Any]:
    """Return the digest and a few sums of a result."""
    rows = result.requests
    sums = {name: int(rows[name].sum()) for name in ("hit_tokens", "preemptions", "generated_tokens")}
    return {
        "digest": result.digest,
        "finished": int((rows["status"] == "finished").sum()),
        "last_finish_ps": int(rows["finish_ps"].max()),  # type: ignore[arg-type]
        **sums,
        **(moved(result) if "hit_tokens_dram" in rows.columns else {}),
    }


def moved(result: Result) -> dict[str, Any]:
    """Return sums over what a hierarchy did."""
    rows = result.requests
    numbers = {name: result.summary[f"{name}_gb"] for name in ("write", "spill", "compaction_write", "lost")}
    return {
        **{name: int(rows[name].sum()) for name in ("hit_tokens_dram", "hit_tokens_disk")},
        "exposed_load_ps": round(rows["exposed_load_s"].sum() * 1e12),
        **{f"{name}_bytes": round(float(value or 0) * 1e9) for name, value in numbers.items()},
        "gc_nodes": result.summary["gc_nodes"],
    }


def write() -> None:
    """Pin what the runs say now."""
    text = json.dumps({name: described(run(name)) for name in RUNS}, indent=1)
    part = PINNED.with_suffix(".partial")
    part.write_text(text + "\n")
    os.replace(part, PINNED)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python -m tests.test_golden --write")
    write()

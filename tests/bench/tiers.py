"""Measure the replay with every tier on: a pool of DRAM nodes, SSDs, a sharded index, lifetimes; and its memory.

python -m tests.bench.tiers [--requests 1000000] [--runs 3] [--agentic FOLDER_OF_kv-cache-tester]
"""

import argparse
import sys
import time
from typing import Any

import numpy as np

import traces
from replay.cluster import Cluster, cluster
from replay.session import Session
from tests.bench.common import LINEAR, gate, kernel_times, machine, median, table
from tests.bench.speed import ONE_TIER, SHARED
from traces.schema import Trace
from traces.synthetic.make import make

INDEX = {
    "shards": 4, "lookup_s": 2e-6, "node_s": 1e-7, "gc_node_s": 1e-6, "match": "prefix", "belief": "exact", "lag_s": 0,
}  # fmt: skip
KV: dict[str, Any] = {"base": "dram_ssd", "index": INDEX, "ttl_s": 86400.0, "dram_gib": 24.0, "disk_gib": 200.0}
LEAST_PER_S, MOST_AGENTIC_S = 300_000, 20.0
HEADINGS = ("hierarchy", "requests/s (CPU)", "events/request", "hit rate: HBM", "DRAM", "disk", "state B/request")


def main() -> int:
    """Print the table and check the aims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--agentic", metavar="FOLDER", help="the kv-cache-tester trace, replayed with a DRAM pool")
    asked = parser.parse_args()
    print(f"{machine()}; {asked.requests} requests, 16 instances, median of {asked.runs} runs\n")
    trace = make("shared_prefix", asked.requests, 0, **SHARED)
    rows, speeds = [], {}
    for name, kv in (("none", "none"), ("DRAM", {**KV, "disk": None}), ("DRAM, SSD, index, TTL", KV)):
        where = cluster("mixed_16", hardware=LINEAR, block_tokens=16, kv_blocks=40_000, kv=kv)
        row, speeds[name] = measure(name, trace, where, asked.runs)
        rows.append(row)
        print(table(HEADINGS, rows).splitlines()[-1], flush=True)
    print()
    passed = gate(f"all tiers on: {speeds['DRAM, SSD, index, TTL']:,.0f} requests/s", speeds[name] >= LEAST_PER_S)
    if asked.agentic:
        passed &= agentic(asked.agentic)
    return 0 if passed else 1


def measure(name: str, trace: Trace, where: Cluster, runs: int) -> tuple[list[str], float]:
    """Time one hierarchy; returns its row and its requests per second."""
    made: list[Session] = []

    def session() -> Session:
        made[:] = [Session(trace, where, {"route": "least_loaded", "fetch": "best_effort"}, slo=ONE_TIER)]
        return made[0]

    timings = kernel_times(session, runs)
    speed = len(trace) / median([timing.cpu_s for timing in timings])
    summary = made[0].result().summary
    hbm = summary.get("hit_rate_hbm", summary["hit_rate"])
    rates = [hbm, summary.get("hit_rate_dram", 0.0), summary.get("hit_rate_disk", 0.0)]
    cells = [f"{rate:.3f}" for rate in rates if isinstance(rate, float)]
    events = timings[0].events / len(trace)
    return [name, f"{speed / 1e6:.2f} M", f"{events:.2f}", *cells, f"{per_request(made[0]):.0f}"], speed


def per_request(session: Session) -> float:
    """Return the bytes of the state that grow with the requests, for each."""
    state = session.state
    arrays = [state.requests, state.jobs]
    arrays += [state.hierarchy.loads, state.hierarchy.parts] if session.cluster.kv else []
    return sum(array.nbytes for array in arrays) / len(state.requests)


def per_resident_block(session: Session) -> float:
    """Return the bytes that the index and the holders take, for each block resident somewhere now."""
    state, cache = session.state, session.state.cache
    resident = int((state.views["cached_blocks"] + state.instances["pinned_blocks"]).sum())
    used = int((cache.slot_of != -1).sum())
    held = used * (cache.slots.itemsize + cache.pasts.itemsize + cache.queue.itemsize)
    return float(held + cache.slot_of.nbytes + cache.nodes.nbytes) / max(1, resident)


def agentic(folder: str) -> bool:
    """Replay the agentic trace on 16 instances with a DRAM pool; returns whether that is as fast as aimed at."""
    started_s = time.perf_counter()
    trace = traces.load(folder)
    loaded_s = time.perf_counter() - started_s
    where = cluster("mixed_16", hardware="h100", model="llama3_70b", trace_block_tokens=trace.block_tokens, kv="dram")
    started_s = time.perf_counter()
    session = Session(trace, where, {"route": "least_loaded", "fetch": "best_effort"}, slo=ONE_TIER)
    built_s = time.perf_counter() - started_s
    started_s = time.perf_counter()
    while not session.advance(1_000_000):
        pass
    replayed_s = time.perf_counter() - started_s
    blocks = int(np.diff(trace.prefix()[0]).sum())
    each = per_resident_block(session)
    print(f"agentic trace: {len(trace):,} requests, {blocks:,} block references; loaded in {loaded_s:.1f} s, state and "
          f"trie in {built_s:.1f} s, replayed in {replayed_s:.2f} s; {each:.1f} B a resident block")
    return gate(f"agentic trace replayed in {built_s + replayed_s:.1f} s", built_s + replayed_s < MOST_AGENTIC_S)


if __name__ == "__main__":
    sys.exit(main())

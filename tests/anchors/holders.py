"""Clusters whose KV hierarchy is one plain thing to measure: a holder, a card, an index; and block references to it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from replay.cluster import Cluster
from replay.session import Session
from tests.anchors.stations import LONGEST_TOKENS, Run, servers
from traces.schema import Trace, build

BLOCK_TOKENS = 512
BLOCK_BYTES = 131_072 * BLOCK_TOKENS  # of conf/hardware/linear.yaml
GIB = 1 << 30
TOKEN_S = 1e-12  # a prefill takes a nanosecond: nothing ever queues for an instance
FLUSH_S = 1e-6
MANY = 1 << 20
POOL: dict[str, Any] = {
    "base": "dram", "dram_nodes": 1, "dram_gib": 1e6, "dram_bytes_per_s": 1e18, "dram_latency_s": 0.0,
    "in_flight": MANY, "overlap": False,
}  # fmt: skip


def gib(blocks: int) -> float:
    """Return a memory that holds so many blocks."""
    return (blocks + 0.5) * BLOCK_BYTES / GIB


def quick(kv: Mapping[str, Any], count: int = 1, **changes: Any) -> Cluster:
    """Build instances of next to no service time above a hierarchy.

    kv : a base of conf/kv and changes to it
    """
    return servers(
        count, prefix_cache=True, trace_block_tokens=BLOCK_TOKENS, block_tokens=BLOCK_TOKENS,
        token_budget=LONGEST_TOKENS, **{"prefill_token_s": TOKEN_S, "kv": dict(kv), **changes},
    )  # fmt: skip


def chains(arrival_s: np.ndarray, offsets: np.ndarray, ids: np.ndarray, **columns: Any) -> Trace:
    """Make a trace of prompts that are chains of blocks, ids[offsets[r]:offsets[r + 1]], and one token."""
    prompts = np.diff(offsets) * BLOCK_TOKENS + 1
    given = {"arrival_s": arrival_s, "prompt_tokens": prompts, "output_tokens": np.ones_like(prompts)} | columns
    return build("chains", given | {"prefix_blocks": (offsets, ids)}, BLOCK_TOKENS)


def singles(arrival_s: np.ndarray, ids: np.ndarray) -> Trace:
    """Make a trace of prompts of one block."""
    return chains(arrival_s, np.arange(len(ids) + 1), ids)


def flushed(arrival_s: np.ndarray, offsets: np.ndarray, ids: np.ndarray) -> tuple[Trace, int]:
    """Make a trace of chains in even rows, each followed by a prompt that fills the HBM and that nobody shares.

    In an HBM of the returned number of blocks it evicts what the chain left: whatever hits, hits in the store below.
    """
    room = int(np.diff(offsets).max()) + 1
    after_s = np.minimum(arrival_s + FLUSH_S, np.append((arrival_s[:-1] + arrival_s[1:]) / 2, np.inf))
    lengths = np.diff(offsets)
    prompts = np.column_stack([lengths * BLOCK_TOKENS + 1, np.full_like(lengths, room * BLOCK_TOKENS)]).ravel()
    columns = {"arrival_s": np.column_stack([arrival_s, after_s]).ravel(), "prompt_tokens": prompts}
    columns |= {"output_tokens": np.ones_like(prompts)}
    ends = np.append(0, np.repeat(offsets[1:], 2))
    return build("flushed", columns | {"prefix_blocks": (ends, ids)}, BLOCK_TOKENS), room


def finished(trace: Trace, on: Cluster, policies: Mapping[str, Any] | None = None) -> Run:
    """Replay a trace to its end; every request must finish."""
    session = Session(trace, on, policies, slo="none")
    while not session.advance(1_000_000):
        pass
    run = Run(session.state, held=False)
    assert run.finished.all()
    return run


def through(holder: str, trace: Trace, **kv: Any) -> tuple[np.ndarray, Run]:
    """Send chains through one holder; returns the blocks that each finds, (requests,), and the run.

    holder : "hbm", or "dram": one pool node, fetched from with patience, below an HBM that keeps nothing
    """
    if holder == "hbm":
        run = finished(trace, quick({"base": "none", **kv}))
        return run.jobs["hit_tokens"] // BLOCK_TOKENS, run
    apart, room = flushed(trace.column("arrival_s"), *trace.prefix())
    run = finished(apart, quick({**POOL, **kv}, kv_blocks=room), {"fetch": "wait"})
    assert (run.jobs["hit_tokens"] == run.state.hierarchy.loads["dram_tokens"]).all()
    return run.jobs["hit_tokens"][::2] // BLOCK_TOKENS, run

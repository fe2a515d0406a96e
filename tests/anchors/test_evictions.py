"""Eviction policies against plain caches written from their papers, and against Belady's bound on a recorded trace."""

from functools import cache

import numpy as np
import pytest

from replay.policy import load_all, registry
from tests.anchors import caches
from tests.anchors.stations import LONGEST_TOKENS, Run, compiled, serve, servers
from tests.anchors.test_hit_rates import BLOCK_TOKENS, INFINITE, block_hit_rate, conversation, references
from traces import Trace

pytestmark = compiled
EXACT = ("lru", "fifo", "lfu", "sieve", "gdsf", "length_aware", "oracle_belady")
ITEMS, COUNT, EXPONENT = 500, 20_000, 0.8
CAPACITIES = (1, 2, 7, 50, 250)
RECORDED = (1_000, 3_000, 10_000, 30_000)
TOKEN_S = 1e-9  # a prompt of 100,000 tokens is done before the next one comes a second later


def one_by_one(offsets: np.ndarray, ids: np.ndarray) -> Trace:
    """Make a trace of block references, one a second."""
    return references(np.arange(len(offsets) - 1, dtype=np.float64), offsets, ids)


def evicting(trace: Trace, policy: str, capacity_blocks: int) -> Run:
    """Replay references on one instance under an evict policy, with room for so many blocks and the last token's own."""
    on = servers(
        prefix_cache=True, trace_block_tokens=BLOCK_TOKENS, block_tokens=BLOCK_TOKENS, token_budget=LONGEST_TOKENS,
        prefill_token_s=TOKEN_S, kv_blocks=capacity_blocks + 1,
    )  # fmt: skip
    run = serve(trace, on, {"evict": policy})
    assert run.finished.all()
    assert (run.wait_s == 0).all()
    return run


@cache
def independent() -> tuple[Trace, list[int]]:
    """Return independent references to single blocks of Zipf popularity, as a trace and as a list."""
    _, ids = caches.zipf(ITEMS, COUNT, EXPONENT, seed=229)
    return one_by_one(np.arange(COUNT + 1), ids), ids.tolist()


@cache
def scans() -> tuple[Trace, list[int]]:
    """Return independent references with scans of blocks that never come again, and loops, between them."""
    random = np.random.default_rng(233)
    parts: list[np.ndarray] = []
    for number in range(40):
        parts.append(random.choice(60, 150))
        parts.append(1_000 + 100 * number + np.arange(80))
        parts.append(np.tile(100 + np.arange(random.integers(5, 60)), 3))
    ids = np.concatenate(parts)
    return one_by_one(np.arange(len(ids) + 1), ids), ids.tolist()


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("policy", EXACT)
def test_every_reference_hits_as_in_the_plain_cache(policy: str, capacity: int) -> None:
    """One block a prompt: no structure, so each policy is the textbook's, reference by reference."""
    for trace, blocks in (independent(), scans()):
        hit = evicting(trace, policy, capacity).jobs["hit_tokens"] > 0
        expected = np.array(getattr(caches, policy)(blocks, capacity))
        wrong = np.flatnonzero(hit != expected)
        assert not len(wrong), f"{len(wrong)} references differ, the first is {wrong[0]}"
        assert capacity == 1 or 0 < hit.mean() < 1

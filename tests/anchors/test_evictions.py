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


def evicting(trace: Trace, policy: str, capacity_blocks: int, queues: bool = False) -> Run:
    """Replay references on one instance under an evict policy, with room for so many blocks and one more.

    queues : whether requests have to wait for each other; if not, none may
    """
    on = servers(
        prefix_cache=True, trace_block_tokens=BLOCK_TOKENS, block_tokens=BLOCK_TOKENS, token_budget=LONGEST_TOKENS,
        prefill_token_s=TOKEN_S, kv_blocks=capacity_blocks + 1,
    )  # fmt: skip
    run = serve(trace, on, {"evict": policy})
    assert run.finished.all()
    assert (run.wait_s > 0).any() == queues
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


@pytest.mark.parametrize(("capacity", "most"), [(50, 0.06), (250, 0.01)])
def test_s3_fifo_is_near_its_three_queues(capacity: int, most: float) -> None:
    """The policy is one queue without ghosts: its small part is not a tenth of the cache but what promotion leaves.

    So its hit rate, not its hits, is compared with the published algorithm, at a tenth and at half of the items. Where
    few are promoted the small part is too large, and the rate falls short; it still gains on a plain queue.
    """
    for trace, blocks in (independent(), scans()):
        rate = float((evicting(trace, "s3_fifo", capacity).jobs["hit_tokens"] > 0).mean())
        assert rate == pytest.approx(float(np.mean(caches.s3_fifo(blocks, capacity))), abs=most)
    trace, blocks = independent()
    assert (evicting(trace, "s3_fifo", capacity).jobs["hit_tokens"] > 0).mean() > np.mean(caches.fifo(blocks, capacity))


@cache
def spaced() -> Trace:
    """Return the conversation trace as block references, one a second."""
    return one_by_one(*conversation().prefix())


@cache
def found(policy: str, capacity: int) -> np.ndarray:
    """Return the tokens that each request of the conversation trace finds under a policy, (requests,)."""
    return np.asarray(evicting(spaced(), policy, capacity).jobs["hit_tokens"])


@pytest.mark.parametrize("capacity", RECORDED)
def test_no_policy_passes_belady(capacity: int) -> None:
    """Belady 1966: evicting what is used again last gives the most hits, of all policies that let every block in.

    The blocks of a chain are used with their parents, so the bound never asks for a child without its parent.
    """
    load_all()
    others = set(registry()["evict"]) - {"oracle_belady"}
    assert others >= {*EXACT, "s3_fifo"} - {"oracle_belady"}
    bound = int(found("oracle_belady", capacity).sum())
    passed = {policy: int(found(policy, capacity).sum()) for policy in others}
    assert max(passed.values()) <= bound, passed


def test_the_oracle_knows_what_waiting_requests_need() -> None:
    """Requests that queue make their uses when they are admitted: the bound holds with the trace's own arrivals too."""
    queued = {policy: int(evicting(conversation(), policy, 10_000, queues=True).jobs["hit_tokens"].sum())
              for policy in ("oracle_belady", "lru", "fifo", "gdsf")}  # fmt: skip
    assert queued["oracle_belady"] == max(queued.values()) > 1.5 * queued["lru"], queued


def test_more_memory_finds_no_less_under_lru_and_belady() -> None:
    """Inclusion (Mattson et al. 1970): both are stack algorithms, so that request by request more memory finds no less.

    LRU orders blocks by their last use and Belady by their next one, neither by the size of the cache.
    """
    for policy in ("lru", "oracle_belady"):
        hits = [found(policy, capacity) for capacity in RECORDED]
        pairs = list(zip(hits[:-1], hits[1:], strict=True))
        assert len(pairs) == 3
        assert all((small <= large).all() for small, large in pairs)
        assert hits[0].sum() < hits[1].sum() < hits[2].sum()


@pytest.mark.parametrize("policy", [*EXACT, "s3_fifo"])
def test_an_infinite_cache_finds_the_same_under_every_policy(policy: str) -> None:
    run = evicting(spaced(), policy, 10**6)
    assert block_hit_rate(run) == pytest.approx(INFINITE, abs=1e-4)
    assert int(run.state.instances["evicted_blocks"][0]) == 0

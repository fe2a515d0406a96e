"""Prefix cache hits against exact caches: the conversation trace's LRU points, and LRU under independent references."""

from collections import OrderedDict
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.anchors import formulas
from tests.anchors.stations import LONGEST_TOKENS, Run, compiled, poisson, serve, servers
from tests.recorded import recorded
from traces import Trace, build, load

pytestmark = compiled
BLOCK_TOKENS = 512
# share of blocks found by an LRU cache of so many blocks that touches a prompt's blocks front to back
FRONT_TO_BACK = {1_000: 0.0445, 10_000: 0.2112, 30_000: 0.3257, 50_000: 0.3546, 100_000: 0.3637}
INFINITE = 0.3664


@cache
def conversation() -> Trace:
    """Return the conversation trace as block references: prompts of whole blocks and one token more.

    The last token is always computed; here it is outside the blocks, so that every block may hit.
    """
    source = load(str(recorded("traces/mooncake/conversation_trace.jsonl.gz")))
    return references(source.column("arrival_s"), *source.prefix())


def references(arrival_s: np.ndarray, offsets: np.ndarray, ids: np.ndarray) -> Trace:
    """Make a trace that refers to chains of blocks, ids[offsets[r]:offsets[r + 1]] for request r."""
    prompts = np.diff(offsets) * BLOCK_TOKENS + 1
    columns = {"arrival_s": arrival_s, "prompt_tokens": prompts, "output_tokens": np.ones_like(prompts)}
    return build("references", columns | {"prefix_blocks": (offsets, ids)}, BLOCK_TOKENS)


def through_cache(trace: Trace, capacity_blocks: int | None) -> Run:
    """Replay references on one instance, one at a time, with room for so many blocks and the last token's own."""
    limits: dict[str, Any] = {} if capacity_blocks is None else {"kv_blocks": capacity_blocks + 1}
    on = servers(
        prefix_cache=True,
        trace_block_tokens=BLOCK_TOKENS,
        block_tokens=BLOCK_TOKENS,
        token_budget=LONGEST_TOKENS,
        **limits,
    )
    run = serve(trace, on)
    assert run.finished.all()
    return run


def block_hit_rate(run: Run) -> float:
    """Return blocks found over blocks asked for."""
    return float(run.jobs["hit_tokens"].sum() / (run.requests["prompt_tokens"] - 1).sum())


def plain_lru(trace: Trace, capacity_blocks: int, tail_first: bool) -> np.ndarray:
    """Return the blocks that each request finds in a plain LRU list of blocks, (requests,).

    A request finds the front part of its chain; then its blocks, all of them now in the cache, are touched one by one.

    tail_first : touch the last block first, so that it is the oldest of its chain, as vLLM frees them
    """
    offsets, ids = trace.prefix()
    bounds, blocks = offsets.tolist(), ids.tolist()
    held: OrderedDict[int, None] = OrderedDict()
    hits = []
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        chain = blocks[start:end]
        found = 0
        while found < len(chain) and chain[found] in held:
            found += 1
        hits.append(found)
        for block in reversed(chain) if tail_first else chain:
            held.pop(block, None)
            held[block] = None
        while len(held) > capacity_blocks:
            held.popitem(last=False)
    return np.array(hits)


def test_an_infinite_cache_finds_every_block_seen_before() -> None:
    trace = conversation()
    run = through_cache(trace, None)
    offsets, ids = trace.prefix()
    assert int(run.jobs["hit_tokens"].sum()) == BLOCK_TOKENS * (len(ids) - len(np.unique(ids)))
    assert block_hit_rate(run) == pytest.approx(INFINITE, abs=1e-4)


@pytest.mark.parametrize("capacity", list(FRONT_TO_BACK))
def test_every_request_finds_what_a_plain_lru_list_of_blocks_holds(capacity: int) -> None:
    trace = conversation()
    run = through_cache(trace, capacity)
    expected = plain_lru(trace, capacity, tail_first=True)
    assert (run.jobs["hit_tokens"] == BLOCK_TOKENS * expected).all()


@pytest.mark.parametrize(("capacity", "published"), FRONT_TO_BACK.items())
def test_lru_points_of_the_conversation_trace(capacity: int, published: float) -> None:
    """The published points touch a chain front to back; the engine, as vLLM, frees the tail first.

    Touched front to back, a chain loses its front first, and what stays behind it is dead: no prefix reaches it.
    Tail first wastes none, so it finds a little more: 4e-4 at 10,000 blocks, elsewhere at most 1e-4.
    """
    trace = conversation()
    found = block_hit_rate(through_cache(trace, capacity))
    assert found == pytest.approx(published, abs=5e-4)
    front_to_back = plain_lru(trace, capacity, tail_first=False).sum() / trace.prefix()[0][-1]
    assert front_to_back == pytest.approx(published, abs=5e-5 + 1e-9)
    assert found >= front_to_back


def test_more_memory_never_finds_less() -> None:
    """Inclusion (Mattson 1970): request by request, a larger LRU cache holds all that a smaller one does."""
    trace = conversation()
    hits = [through_cache(trace, capacity).jobs["hit_tokens"] for capacity in (*FRONT_TO_BACK, None)]
    assert all((small <= large).all() for small, large in zip(hits[:-1], hits[1:], strict=True))


@pytest.mark.parametrize("capacity", [50, 200, 500])
def test_independent_references_hit_as_che_approximates(capacity: int) -> None:
    """Zipf popularity over 2,000 single blocks; the approximation is within a few parts in a thousand at this size."""
    items, count = 2_000, 200_000
    popularity = np.arange(1, items + 1) ** -0.8
    popularity /= popularity.sum()
    ids = np.random.default_rng(113).choice(items, count, p=popularity)
    run = through_cache(references(poisson(113, count, 1.0), np.arange(count + 1), ids), capacity)
    hit = (run.jobs["hit_tokens"] > 0)[count // 20 :]
    error = float(np.sqrt(hit.mean() * (1 - hit.mean()) / len(hit)))
    assert hit.mean() == pytest.approx(formulas.che(popularity, capacity), abs=4 * error + 0.002)

"""Describe: plain numbers against plain definitions, and the exact values of the conversation trace."""

from collections import OrderedDict

import numpy as np
import pytest

import traces
from tests.recorded import recorded
from traces import TraceError, build
from traces.describe import describe, render
from traces.reuse import first_hits, lru_hit_rate


@pytest.fixture(scope="module")
def conversation():
    return traces.load(recorded("traces/mooncake/conversation_trace.jsonl.gz"))


def tree_trace(seed, requests=200, block_tokens=4):
    """A trace of random paths through a random tree."""
    draw = np.random.default_rng(seed)
    children: dict[tuple[int, int], int] = {}
    lists = []
    for _ in range(requests):
        node, ids = -1, []
        for branch in draw.integers(0, 3, draw.integers(0, 7)).tolist():
            node = children.setdefault((node, branch), 10**12 * seed + len(children))
            ids.append(node)
        lists.append(ids)
    prompts = [max(1, block_tokens * len(ids) - 1) for ids in lists]
    columns = {"arrival_s": np.arange(requests) * 0.5, "prompt_tokens": prompts, "output_tokens": [2] * requests}
    return build("tree", {**columns, "prefix_blocks": lists}, block_tokens), lists


def plain_lru(lists, capacity):
    """Strict LRU by definition, one ordered dictionary."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = total = 0
    for ids in lists:
        prefix = True
        for block in ids:
            total += 1
            prefix = prefix and block in cache
            hits += prefix
            cache[block] = None
            cache.move_to_end(block)
            if len(cache) > capacity:
                cache.popitem(last=False)
    return hits / total


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lru_equals_its_plain_definition(seed):
    trace, lists = tree_trace(seed)
    capacities = [1, 2, 3, 5, 8, 40, 10_000]
    assert lru_hit_rate(trace, capacities) == pytest.approx([plain_lru(lists, c) for c in capacities], abs=1e-15)


def test_infinite_cache_equals_its_plain_definition():
    trace, lists = tree_trace(3)
    seen: set[int] = set()
    hits = []
    for ids in lists:
        hits.append(sum(block in seen for block in ids))
        seen.update(ids)
    assert first_hits(trace).tolist() == hits
    numbers = describe(trace)
    assert numbers["unique_blocks"] == len(seen)
    assert numbers["infinite_hit_rate_blocks"] == sum(hits) / sum(map(len, lists))
    tokens = sum(min(4 * hit, prompt) for hit, prompt in zip(hits, trace.column("prompt_tokens"), strict=True))
    assert numbers["infinite_hit_rate_tokens"] == tokens / trace.column("prompt_tokens").sum()


def test_conversation_trace_has_the_published_values(conversation):
    numbers = describe(conversation)
    assert numbers["requests"] == 12_031 and numbers["distinct_arrivals"] == 1_180
    assert round(numbers["infinite_hit_rate_blocks"], 4) == 0.3664
    assert round(numbers["infinite_hit_rate_tokens"], 3) == 0.374
    rates = lru_hit_rate(conversation, [1_000, 10_000, 30_000, 50_000, 100_000])
    assert [round(rate, 4) for rate in rates] == [0.0445, 0.2112, 0.3257, 0.3546, 0.3637]


def test_describe_counts_arrivals_lengths_and_sessions():
    columns = {
        "arrival_s": [0.0, 1.0, 4.0],
        "prompt_tokens": [1, 2, 9],
        "output_tokens": [5, 5, 5],
        "session": ["a", "b", "a"],
        "tier": ["gold"] * 3,
        "parent": [-1, -1, 0],
        "think_s": [0.0, 0.0, 1.5],
    }
    numbers = describe(build("three", columns))
    assert numbers["span_s"] == 4.0 and numbers["rate_per_s"] == 0.5 and numbers["gap_cv"] == 0.5
    assert numbers["prompt_tokens_p50"] == 2.0 and numbers["prompt_tokens_max"] == 9
    assert numbers["prompt_tokens_total"] == 12 and numbers["output_tokens_mean"] == 5.0
    assert numbers["sessions"] == 2 and numbers["tiers"] == 1 and numbers["session_turns_max"] == 2
    assert numbers["closed_loop_requests"] == 1 and numbers["think_s_mean"] == 1.5
    assert render(build("three", columns), numbers).row_count == len(numbers)


def test_a_single_request_has_no_rate():
    numbers = describe(build("one", {"arrival_s": [3.0], "prompt_tokens": [1], "output_tokens": [1]}))
    assert numbers["span_s"] == 0.0 and "rate_per_s" not in numbers


def test_a_cache_needs_a_block():
    with pytest.raises(TraceError, match="at least 1 block, but got 0"):
        lru_hit_rate(tree_trace(0)[0], [0])

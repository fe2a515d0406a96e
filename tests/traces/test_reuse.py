"""Reuse: plain caches and the LRU curve against simple twins, the figures of the conversation trace, the laws."""

import csv
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import traces
from tests.recorded import recorded
from tests.traces.plain_caches import TWINS, corrected, lru_tokens, most_hits
from traces import Trace, TraceError, build
from traces import reuse_kernels as kernels
from traces.reuse import POLICIES, first_hits, hit_rates, lru_curve, lru_hit_rate, lru_token_curve, plain_hits
from traces.reuse.curve import reuse_distances

BLOCK_TOKENS = 4
CAPACITIES = [1_000, 10_000, 30_000, 50_000, 100_000]
LRU = [0.0445, 0.2112, 0.3257, 0.3546, 0.3637]
INFINITE = 0.3664
NEVER = 2**62


@cache
def conversation() -> Trace:
    """Return the recorded trace whose hit rates are known."""
    return traces.load(recorded("traces/mooncake/conversation_trace.jsonl.gz"))


@st.composite
def chains(draw, most_requests=25, most_blocks=6):
    """Draw chained requests, each a list of (id, tokens): paths in a tree, some ending in a partial block.

    returns : the chains, and the prompts' tokens: some prompts are longer than their blocks
    """
    paths = draw(st.lists(st.lists(st.integers(0, 3), max_size=most_blocks), min_size=1, max_size=most_requests))
    spread = draw(st.sampled_from([1, 10**12]))  # ids far apart are renumbered
    children: dict[tuple[int, int], int] = {}
    drawn, prompts = [], []
    for path in paths:
        node, chain = -1, []
        for branch in path:
            node = children.setdefault((node, branch), len(children))
            chain.append((spread * node, BLOCK_TOKENS if branch < 3 else 1))
            if branch == 3:  # a partial block ends its chain
                break
        tokens = sum(size for _, size in chain)
        prompts.append(tokens + (draw(st.integers(0, 3)) if not chain or chain[-1][1] > 1 else 0) + (not chain))
        drawn.append(chain)
    return drawn, prompts


def as_trace(drawn, prompts) -> Trace:
    """Make a trace of drawn chains."""
    columns = {"arrival_s": np.arange(len(drawn)) * 1.0, "prompt_tokens": prompts, "output_tokens": [1] * len(drawn)}
    return build("drawn", columns | {"prefix_blocks": ids_of(drawn)}, BLOCK_TOKENS)


def ids_of(drawn) -> list[list[int]]:
    """Return the ids of drawn chains."""
    return [[block for block, _ in chain] for chain in drawn]


@pytest.mark.parametrize("policy", POLICIES)
@given(example=chains(), capacity=st.integers(1, 30))
@settings(max_examples=150, deadline=None)
def test_a_plain_cache_equals_its_twin_request_by_request(policy, example, capacity):
    prefix, anywhere = plain_hits(as_trace(*example), policy, capacity)
    assert list(zip(prefix.tolist(), anywhere.tolist(), strict=True)) == TWINS[policy](ids_of(example[0]), capacity)


@given(example=chains())
@settings(max_examples=150, deadline=None)
def test_the_curve_equals_the_plain_lru_cache_at_every_capacity(example):
    trace = as_trace(*example)
    curve = lru_curve(trace)
    sizes = range(1, curve.total + 3)
    assert [curve.rate(size) for size in sizes] == lru_hit_rate(trace, sizes)
    twins = [sum(prefix for prefix, _ in TWINS["lru"](ids_of(example[0]), size)) for size in sizes]
    assert [round(curve.rate(size) * curve.total) for size in sizes] == twins
    assert curve.rate(0) == 0.0 and curve.rate(float("inf")) * curve.total == pytest.approx(first_hits(trace).sum())
    offsets, _ = trace.prefix()
    hits = np.array([hit for hit, _ in TWINS["lru"](ids_of(example[0]), 5)])
    found = np.concatenate(([0], np.cumsum(reuse_distances(trace) <= 5)))
    assert (found[offsets[1:]] - found[offsets[:-1]] == hits).all()


@given(lists=st.lists(st.lists(st.integers(0, 7), max_size=6), min_size=1, max_size=15))
@settings(max_examples=150, deadline=None)
def test_distances_need_no_chains(lists):
    """Where an end may be nearer than its front, or come twice: the prefix rule is the largest distance so far."""
    offsets = np.concatenate(([0], np.cumsum([len(part) for part in lists]))).astype(np.int64)
    ids = np.array([block for part in lists for block in part], np.int64)
    distances = kernels.stack_distances(offsets, ids, np.ones(8, np.int64))
    for size in range(1, 10):
        assert (distances <= size).sum() == sum(prefix for prefix, _ in TWINS["lru"](lists, size))


@given(example=chains(), first=st.integers(0, 12), more=st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_the_token_curve_equals_a_cache_that_counts_tokens(example, first, more):
    drawn, prompts = example
    trace = as_trace(drawn, prompts)
    plain, fine = lru_token_curve(trace), lru_token_curve(trace, first, more)
    assert plain.total == fine.total == sum(prompts)
    for size in range(1, sum(prompts) + 2):
        found = lru_tokens(drawn, size)
        assert round(plain.rate(size) * plain.total) == sum(tokens for _, tokens in found)
        wanted = sum(corrected(one, prompt, first, more) for one, prompt in zip(found, prompts, strict=True))
        assert round(fine.rate(size) * fine.total) == wanted


@given(example=chains(), capacity=st.integers(1, 12))
@settings(max_examples=150, deadline=None)
def test_no_cache_finds_more_than_belady(example, capacity):
    """In either way of counting; and with LRU and Belady a chain never loses its front before its end."""
    trace = as_trace(*example)
    prefix, anywhere = plain_hits(trace, "belady", capacity)
    assert (prefix == anywhere).all()
    for policy in ("lru", "fifo", "lfu"):
        of_prefix, of_any = plain_hits(trace, policy, capacity)
        assert of_prefix.sum() <= of_any.sum() <= prefix.sum()
    assert (plain_hits(trace, "lru", capacity)[0] == plain_hits(trace, "lru", capacity)[1]).all()


@given(example=chains(most_requests=5, most_blocks=3), capacity=st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_belady_is_the_best_of_all_that_a_cache_can_do(example, capacity):
    stream = tuple(block for chain in ids_of(example[0]) for block in chain)
    assert plain_hits(as_trace(*example), "belady", capacity)[1].sum() == most_hits(stream, capacity)


@given(example=chains())
@settings(max_examples=100, deadline=None)
def test_a_larger_lru_cache_holds_all_that_a_smaller_one_does(example):
    """Inclusion (Mattson 1970), request by request; with unequal sizes the curve in tokens never falls either."""
    trace = as_trace(*example)
    hits = [plain_hits(trace, "lru", size)[0] for size in range(1, 20)]
    assert all((small <= large).all() for small, large in zip(hits[:-1], hits[1:], strict=True))
    assert (np.diff(lru_token_curve(trace).hits) >= 0).all() and (np.diff(lru_curve(trace).hits) >= 0).all()


@pytest.mark.parametrize(
    ("policy", "capacity", "ids", "hits"),
    [
        ("fifo", 3, [[0], [1], [0, 2], [3], [0, 2]], [(0, 0), (0, 0), (1, 1), (0, 0), (0, 1)]),
        ("lfu", 2, [[0, 1], [0, 1, 2], [0, 1]], [(0, 0), (2, 2), (0, 1)]),
    ],
)
def test_some_policies_keep_a_chain_without_its_front(policy, capacity, ids, hits):
    """Hence the two ways of counting."""
    trace = as_trace([[(block, BLOCK_TOKENS) for block in chain] for chain in ids], [4 * len(chain) for chain in ids])
    prefix, anywhere = plain_hits(trace, policy, capacity)
    assert list(zip(prefix.tolist(), anywhere.tolist(), strict=True)) == hits


def test_the_conversation_trace_has_the_known_lru_points():
    curve = lru_curve(conversation())
    assert lru_hit_rate(conversation(), CAPACITIES) == pytest.approx(LRU, abs=5e-5)
    assert [curve.rate(size) for size in CAPACITIES] == pytest.approx(LRU, abs=5e-5)
    assert curve.rate(float("inf")) == pytest.approx(INFINITE, abs=5e-5)


def test_the_conversation_trace_has_the_known_points_of_other_policies():
    """FIFO's known point counts every block found; the others do not tell the two ways of counting apart."""
    trace = conversation()
    assert hit_rates(trace, "belady", [10_000]) == pytest.approx([0.3664], abs=5e-5)
    assert hit_rates(trace, "lfu", [10_000]) == pytest.approx([0.1318], abs=5e-5)
    assert hit_rates(trace, "lfu", [10_000], anywhere=True) == pytest.approx([0.1318], abs=5e-5)
    assert hit_rates(trace, "fifo", [10_000], anywhere=True) == pytest.approx([0.1865], abs=5e-5)
    assert hit_rates(trace, "fifo", [10_000]) == pytest.approx([0.1815], abs=5e-5)


def test_the_curve_of_the_conversation_trace_equals_the_plain_cache():
    """At the edges of its steps and at capacities drawn between them."""
    trace, curve = conversation(), lru_curve(conversation())
    draw = np.random.default_rng(5)
    edges = draw.choice(curve.capacity[1:], 12)
    sizes = [1, 2, *edges, *(edges - 1), *draw.integers(1, 190_000, 12), curve.capacity[-1], curve.capacity[-1] - 1]
    sizes = [int(size) for size in sizes if size >= 1]
    assert [curve.rate(size) for size in sizes] == lru_hit_rate(trace, sizes)
    assert len(curve.capacity) > 4_000


@pytest.mark.parametrize("capacity", [10, 300, *CAPACITIES])
def test_belady_bounds_every_policy_on_the_conversation_trace(capacity):
    rates = {policy: hit_rates(conversation(), policy, [capacity], anywhere=True)[0] for policy in POLICIES}
    assert max(rates, key=lambda policy: rates[policy]) == "belady" and rates["belady"] <= INFINITE + 1e-4


def test_the_published_curve_of_the_conversation_trace():
    """Figure 9 of Mooncake (FAST 2025): plain within .035, with the sub-block correction within .006, at 12 points."""
    with recorded("measured/published/mooncake_fast25_fig9_lru_hit_rate.csv").open() as file:
        points = [(float(row["capacity_tokens"]), float(row["conversation"])) for row in csv.DictReader(file)]
    plain, fine = lru_token_curve(conversation()), lru_token_curve(conversation(), 880, 256)
    assert len(points) == 12
    assert all(-0.035 < plain.rate(size) - published < 0 for size, published in points)
    assert all(abs(fine.rate(size) - published) < 0.006 for size, published in points)
    assert plain.rate(float("inf")) == pytest.approx(0.3736, abs=5e-5)


def test_a_trace_without_reuse_has_a_flat_curve():
    empty = as_trace([[], []], [3, 2])
    assert lru_curve(empty).rate(10) == 0.0 and lru_hit_rate(empty, [1]) == [0.0]
    once = as_trace([[(0, 4)], [(1, 4)]], [4, 4])
    assert lru_curve(once).capacity.tolist() == [0] and (reuse_distances(once) == NEVER).all()


def test_wrong_caches_are_refused():
    trace = as_trace([[(0, 4)]], [4])
    with pytest.raises(TraceError, match="at least 1 block, but got 0"):
        plain_hits(trace, "fifo", 0)
    with pytest.raises(TraceError, match="one of lru, fifo, lfu, belady, but got 'arc'"):
        plain_hits(trace, "arc", 1)
    with pytest.raises(TraceError, match="at least 0 tokens, but got -1 and 0"):
        lru_token_curve(trace, -1)
    bare = build("bare", {"arrival_s": [0.0], "prompt_tokens": [1], "output_tokens": [1]})
    with pytest.raises(TraceError, match="'prefix_blocks' is not in bare"):
        lru_curve(bare)

"""What requests generate stays in the prefix cache: against the twin, by hand, and the trie that it needs."""

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from replay import cli
from replay.session import replay
from tests.conversations import case_of, conversations
from tests.odd_policies import registered
from tests.sessions import SLICES, engine_run
from tests.small import small_cluster, small_instance, small_policies, small_profile, small_trace
from tests.test_twin import differences
from tests.twin.chains import context_of
from traces.outputs import with_outputs
from traces.schema import Trace
from traces.trie import full_blocks

SEEDS, SLICED_SEEDS = 40, 8


@pytest.fixture(autouse=True)
def odd() -> Iterator[None]:
    """Offer the odd policies to the scenarios."""
    with registered():
        yield


def test_engine_equals_twin() -> None:
    for seed in range(SEEDS):
        assert not differences(case_of(seed)), seed


def test_leaps_and_slices_change_nothing() -> None:
    for seed in range(SEEDS, SEEDS + SLICED_SEEDS):
        case = case_of(seed)
        digests = {engine_run(case, leap=leap).digest for leap in (True, False)}
        assert len(digests | {engine_run(case, events).digest for events in SLICES}) == 1, seed


def replayed(trace: Trace, caches: bool, kv_blocks: int) -> dict[str, list[Any]]:
    """Replay on one instance of so many blocks of 4 tokens: 100 ps an iteration, 10 a token of a prompt."""
    instance = small_instance("mixed", small_profile(iteration_ps=100, prefill_token_ps=10), kv_blocks=kv_blocks)
    cluster = replace(small_cluster([instance]), cache_outputs=caches)
    return replay(trace, cluster, small_policies()).requests.to_dict(as_series=False)


@pytest.mark.parametrize(("caches", "hits"), [(False, [0, 4]), (True, [0, 12])])
def test_a_next_turn_finds_the_answer(caches: bool, hits: list[int]) -> None:
    """5 tokens and 9 generated: 13 have KV, 3 blocks of 4; the next turn of 16 begins with all 14."""
    trace = small_trace([(0, 5, 9), (0, 16, 1)], [[1], [1, 2, 3, 4]], parent=[-1, 0], think_s=[0.0, 0.0])
    assert replayed(trace, caches, 64)["hit_tokens"] == hits


@pytest.mark.parametrize("prompt", [13, 16])
def test_what_does_not_go_on_finds_the_prompt_alone(prompt: int) -> None:
    """A turn shorter than prompt and answer, or with other blocks behind the prompt, is no continuation."""
    chain = [1, 2, 3] if prompt == 13 else [1, 2, 3, 4]
    parents = {"parent": [-1, 0], "think_s": [0.0, 0.0]} if prompt == 13 else {}
    trace = small_trace([(0, 5, 9), (10_000, prompt, 1)], [[1], chain], **parents)
    assert replayed(trace, True, 64)["hit_tokens"] == [0, 4]


@pytest.mark.parametrize(("caches", "finish_ps", "gap_ps"), [(False, 1760, 480), (True, 1720, 440)])
def test_what_is_preempted_finds_what_it_generated(caches: bool, finish_ps: int, gap_ps: int) -> None:
    """Two of 4 and 12 tokens in 6 blocks: at 980 ps they need 7, and the second gives way with 8 tokens generated.

    When the first is done at 1,280 ps, it computes 12 tokens but for its prompt's 4, or for the 8 of its 11 with KV
    that fill blocks: 180 or 140 ps, and 3 tokens more.
    """
    rows = replayed(small_trace([(0, 4, 12), (1, 4, 12)], [[1], [2]]), caches, 6)
    assert rows["preemptions"] == [0, 1] and rows["hit_tokens"] == [0, 0]
    assert rows["finish_ps"] == [1280, finish_ps] and rows["max_itl_ps"][1] == gap_ps


@pytest.mark.parametrize("seed", range(12))
def test_tails_are_the_contexts(seed: int) -> None:
    """Requests agree in as many blocks of the trie as their contexts, worked out one by one, have in common."""
    random = Random(f"tails {seed}")
    trace = conversations(random, 12, random.choice([2, 4, 5]))
    trie = with_outputs(trace)
    assert trie.tails is not None
    offsets, ids = trace.prefix()
    counts = full_blocks(trace)
    full = [ids[offsets[row] : offsets[row] + counts[row]].tolist() for row in range(len(trace))]
    chains = full + [context_of(trace, full, row) for row in range(len(trace))]
    leaves = np.concatenate((trie.leaf, trie.tails))
    paths = [blocks_of(trie, int(leaf)) for leaf in leaves]
    for one in range(len(chains)):
        assert len(paths[one]) == len(chains[one])
        for other in range(one):
            assert common(paths[one], paths[other]) == common(chains[one], chains[other]), (one, other)


def blocks_of(trie: Any, node: int) -> list[tuple[int, int]]:
    """List the blocks of a path as (node, place in it)."""
    found: list[tuple[int, int]] = []
    while node >= 0:
        found = [(node, place) for place in range(int(trie.blocks[node]))] + found
        node = int(trie.parent[node])
    return found


def common(one: list[Any], other: list[Any]) -> int:
    """Count the items with which both begin."""
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return count


def test_huge_ids_leave_room_for_more() -> None:
    trace = small_trace([(0, 4, 9), (1, 4, 9)], [[2**63 - 1], [2**63 - 2]])
    trie = with_outputs(trace)
    assert trie.tails is not None and trie.tails[0] != trie.tails[1] and trie.blocks.sum() == 6


def test_with_a_hierarchy_it_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "trace.requests=10", "kv=dram", "cluster.cache_outputs=true"]) == 1
    assert "cluster.cache_outputs must be false with a KV hierarchy" in capsys.readouterr().err

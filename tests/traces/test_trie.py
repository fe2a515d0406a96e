"""The compressed trie against a plain Python twin, its sidecar and its errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.recorded import recorded
from traces.errors import TraceError
from traces.schema import Trace, assemble
from traces.trie import Trie, compress, load, save

BLOCK = 4


def make_trace(paths: list[list[int]], tail: list[int] | None = None, spread: int = 1) -> Trace:
    """Build a trace whose request r walks the tokens paths[r]; equal prefixes get equal ids.

    tail   : tokens after the last full block, a request each; > 0 lists a partial block with an id of its own
    spread : distance between ids; a large one takes the hash table, 1 the plain table
    """
    known: dict[tuple[int, ...], int] = {}
    tail = tail or [0] * len(paths)
    rows: list[list[int]] = []
    prompts: list[int] = []
    for path, extra in zip(paths, tail, strict=True):
        ids = [known.setdefault(tuple(path[: k + 1]), len(known) * spread) for k in range(len(path))]
        if extra:
            ids.append(10_000_000_000_000 + spread * len(rows) if spread > 1 else 5000 + len(rows))
        rows.append(ids)
        prompts.append(max(1, BLOCK * len(path) + extra))
    columns = {
        "arrival_s": np.arange(len(paths), dtype=float),
        "prompt_tokens": prompts,
        "output_tokens": [1] * len(paths),
        "prefix_blocks": rows,
    }
    return assemble("made", columns, BLOCK)


def naive(trace: Trace) -> list[list[list[int]]]:
    """Return each request's nodes as lists of ids: a run is cut where a request ends or two ids follow."""
    offsets, ids = trace.prefix()
    prompts = trace.column("prompt_tokens")
    chains = [list(ids[offsets[r] : offsets[r + 1]])[: prompts[r] // BLOCK] for r in range(len(trace))]
    followers: dict[int, set[int]] = {}
    ends = {chain[-1] for chain in chains if chain}
    for chain in chains:
        for before, after in zip(chain[:-1], chain[1:], strict=True):
            followers.setdefault(before, set()).add(after)
    cut = []
    for chain in chains:
        nodes: list[list[int]] = []
        for place, block in enumerate(chain):
            if place == 0 or chain[place - 1] in ends or len(followers[chain[place - 1]]) > 1:
                nodes.append([])
            nodes[-1].append(int(block))
        cut.append(nodes)
    return cut


def check_invariants(trie: Trie) -> None:
    nodes = np.arange(len(trie.parent))
    assert (trie.parent < nodes).all() and (trie.blocks >= 1).all()
    inner = trie.parent >= 0
    above = trie.parent[inner]
    assert (trie.start_blocks[~inner] == 0).all()
    assert (trie.start_blocks[inner] == trie.start_blocks[above] + trie.blocks[above]).all()
    children = np.bincount(above, minlength=len(nodes))
    mergeable = (children == 1) & ~np.isin(nodes, trie.leaf)
    assert not mergeable.any()
    # preorder: a node's first child follows it at once, and a branch is finished before the next begins
    ends = nodes + 1
    for node in nodes[::-1]:
        if trie.parent[node] >= 0:
            ends[trie.parent[node]] = max(ends[trie.parent[node]], ends[node])
    sizes = np.ones(len(nodes), int)
    for node in nodes[::-1]:
        if trie.parent[node] >= 0:
            sizes[trie.parent[node]] += sizes[node]
    assert (ends - nodes == sizes).all()


@settings(max_examples=60, deadline=None)
@given(
    paths=st.lists(st.lists(st.integers(0, 2), max_size=7), min_size=1, max_size=14),
    tails=st.lists(st.integers(0, BLOCK - 1), min_size=14, max_size=14),
    spread=st.sampled_from([1, 97, -1_234_567_891_011]),
)
def test_equals_the_naive_twin(paths: list[list[int]], tails: list[int], spread: int) -> None:
    trace = make_trace(paths, tails[: len(paths)], spread)
    trie = compress(trace)
    check_invariants(trie)
    expected = naive(trace)
    numbers: dict[tuple[int, ...], int] = {}
    for request, nodes in enumerate(expected):
        path = trie.path(request)
        assert [int(trie.blocks[n]) for n in path] == [len(node) for node in nodes]
        assert path == [numbers.setdefault(tuple(node), number) for node, number in zip(nodes, path, strict=True)]
    assert sorted(numbers.values()) == list(range(len(trie.parent)))


def test_chunks_do_not_change_the_trie(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    paths = [list(rng.integers(0, 2, rng.integers(0, 12))) for _ in range(300)]
    for spread in (1, 1 << 40):
        whole = compress(make_trace(paths, spread=spread))
        monkeypatch.setattr("traces.trie.CHUNK_BLOCKS", 7)
        parts = compress(make_trace(paths, spread=spread))
        monkeypatch.undo()
        for left, right in zip(whole[:4], parts[:4], strict=True):
            np.testing.assert_array_equal(left, right)


def test_a_partial_last_block_is_no_node() -> None:
    trie = compress(make_trace([[0, 0], [0, 0], []], tail=[3, 0, 1]))
    assert trie.blocks.tolist() == [2]
    assert trie.leaf.tolist() == [0, 0, -1]


def test_a_trace_without_blocks_has_no_nodes() -> None:
    columns = {"arrival_s": [0.0, 1.0], "prompt_tokens": [5, 6], "output_tokens": [1, 1]}
    trie = compress(assemble("plain", columns))
    assert len(trie.parent) == 0
    assert trie.leaf.tolist() == [-1, -1] and trie.block_tokens == 0


@pytest.mark.parametrize("rows", [[[1, 2], [3, 2]], [[1, 2], [2]], [[7, 7]], [[1, 2, 1]]])
@pytest.mark.parametrize("spread", [1, 1 << 45])
def test_unchained_ids_are_refused(rows: list[list[int]], spread: int) -> None:
    ids = [[spread * i for i in row] for row in rows]
    count = len(rows)
    columns = {
        "arrival_s": [0.0] * count,
        "prompt_tokens": [BLOCK * len(row) for row in rows],
        "output_tokens": [1] * count,
        "prefix_blocks": ids,
    }
    with pytest.raises(TraceError, match=rf"must be chained: id \d+ \(request {count - 1}, block \d\) .*made"):
        compress(assemble("made", columns, BLOCK))


def test_a_block_size_is_needed() -> None:
    columns = {"arrival_s": [0.0], "prompt_tokens": [8], "output_tokens": [1], "prefix_blocks": [[1, 2]]}
    with pytest.raises(TraceError, match="block_tokens of odd is None"):
        compress(assemble("odd", columns))


def test_the_sidecar_round_trips_and_refuses_another_trace(tmp_path) -> None:  # type: ignore[no-untyped-def]
    trace, other = make_trace([[0, 1], [0, 2], []]), make_trace([[0, 1], [0, 1]])
    trie = compress(trace)
    path = tmp_path / "made.trie.arrow"
    save(trie, path, trace.digest())
    for loaded in (load(path), load(path, trace.digest())):
        for left, right in zip(trie[:4], loaded[:4], strict=True):
            np.testing.assert_array_equal(left, right)
        assert loaded.block_tokens == BLOCK
    with pytest.raises(TraceError, match="must belong to its trace"):
        load(path, other.digest())
    assert [p.name for p in tmp_path.iterdir()] == ["made.trie.arrow"]


def test_a_broken_sidecar_is_one_sentence(tmp_path) -> None:  # type: ignore[no-untyped-def]
    trace = make_trace([[0, 1], [0, 2]])
    path = tmp_path / "cut.trie.arrow"
    save(compress(trace), path, trace.digest())
    whole = path.read_bytes()
    for size in (0, 5, 100, len(whole) - 8):
        path.write_bytes(whole[:size])
        with pytest.raises(TraceError, match="trie sidecar"):
            load(path)
    with pytest.raises(TraceError, match="does not exist"):
        load(tmp_path / "absent.arrow")
    with pytest.raises(TraceError, match="cannot be written"):
        save(compress(trace), tmp_path / "no_folder" / "x", trace.digest())


def test_the_conversation_trace_expands_to_its_full_blocks() -> None:
    from traces import load as load_trace

    trace = load_trace(recorded("traces/mooncake/conversation_trace.jsonl.gz"))
    trie = compress(trace)
    check_invariants(trie)
    full = trace.column("prompt_tokens") // 512
    depth = np.where(trie.leaf >= 0, trie.start_blocks[trie.leaf] + trie.blocks[trie.leaf], 0)
    np.testing.assert_array_equal(depth, full)
    offsets, ids = trace.prefix()
    kept = np.concatenate([ids[offsets[r] : offsets[r] + full[r]] for r in range(len(trace))])
    assert int(trie.blocks.sum()) == len(np.unique(kept))

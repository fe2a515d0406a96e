"""Drawing sessions again keeps every one whole, carries what was recorded, and keeps copies apart."""

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces import TraceError, build, check
from traces.resample import bootstrap, sessions, windows
from traces.schema import Trace
from traces.trie import compress

BLOCK = 4
ROW = st.tuples(st.sampled_from([0.0, 0.25, 3.0]), st.integers(0, 5), st.integers(0, 3), st.booleans())


def trace_of(rows: list[tuple[float, int, int, bool]], opening: int, linked: bool, labelled: bool) -> Trace:
    """Make sessions whose prompts grow; all begin with the same opening. output_tokens is the row's number plus 1.

    rows : (seconds after the one before, session, own blocks more, closed loop)
    """
    arrival_s = np.cumsum([row[0] for row in rows])
    grown: dict[int, int] = defaultdict(int)
    last: dict[int, int] = {}
    chains, parents = [], []
    for k, (_, session, more, closed) in enumerate(rows):
        grown[session] += more
        chains.append([*range(opening), *(1000 * (session + 1) + j for j in range(grown[session]))])
        parents.append(last[session] if closed and session in last else -1)
        last[session] = k
    columns: dict[str, Any] = {
        "arrival_s": arrival_s,
        "prompt_tokens": [BLOCK * len(chain) + 1 + k for k, chain in enumerate(chains)],
        "output_tokens": np.arange(len(rows)) + 1,
        "prefix_blocks": chains,
        "tier": [f"t{row[1] % 2}" for row in rows],
        "e2e_s": arrival_s + 0.5,
    }
    if labelled:
        columns["session"] = [f"s{row[1]}" for row in rows]
    if linked:
        columns |= {"parent": parents, "think_s": [0.5 * (parent >= 0) for parent in parents]}
    return build("drawn", columns, BLOCK)


TRACES = st.builds(trace_of, st.lists(ROW, min_size=1, max_size=25), st.integers(0, 2), st.booleans(), st.booleans())


@settings(max_examples=60, deadline=None)
@given(TRACES, st.integers(0, 2**63 - 1), st.sampled_from([0.0, 0.3, 100.0]))
def test_a_drawn_trace_is_valid_and_made_of_whole_sessions(trace: Trace, seed: int, shift_s: float) -> None:
    groups = sessions(trace)
    again = check(bootstrap(trace, groups, (seed, 1), shift_s))
    source = again.column("output_tokens") - 1
    for name in ("prompt_tokens", "tier", "e2e_s", *(["think_s"] if "think_s" in trace else [])):
        assert again.column(name).tolist() == trace.column(name)[source].tolist()
    drawn = np.bincount(groups[source], minlength=groups.max() + 1) / np.bincount(groups)
    assert (drawn == drawn.astype(int)).all() and drawn.sum() == groups.max() + 1
    first, last = trace.column("arrival_s")[[0, -1]]
    assert again.column("arrival_s")[0] >= first and again.column("arrival_s")[-1] <= last + 1e-9
    if "parent" in trace:
        for row, parent in enumerate(again.column("parent").tolist()):
            wanted = int(trace.column("parent")[source[row]])
            assert (source[parent] if parent >= 0 else -1) == wanted
    assert again.digest(True) == bootstrap(trace, groups, (seed, 1), shift_s).digest(True)
    compress(again)


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=25), st.integers(0, 2), st.booleans(), st.integers(0, 10**6))
def test_labelled_copies_keep_order_spacing_and_their_own_blocks(
    rows: list[tuple[float, int, int, bool]], opening: int, linked: bool, seed: int
) -> None:
    trace = trace_of(rows, opening, linked, True)
    again = bootstrap(trace, sessions(trace), (seed, 0), 2.0)
    chains = again.table.column("prefix_blocks").to_pylist()
    source = (again.column("output_tokens") - 1).tolist()
    copies: dict[str, list[int]] = defaultdict(list)
    for row, label in enumerate(again.column("session")):
        copies[label].append(row)
    old = [set(chain) for chain in trace.table.column("prefix_blocks").to_pylist()]
    shared = {block for block in set().union(*old)
              if len({row[1] for row, chain in zip(rows, old, strict=True) if block in chain}) > 1}  # fmt: skip
    holders: dict[int, set[str]] = defaultdict(set)
    meaning: dict[int, int] = {}
    for label, members in copies.items():
        origins = [source[row] for row in members]
        assert origins == [k for k, row in enumerate(rows) if f"s{row[1]}" == label.partition("~")[0]]
        moved = again.column("arrival_s")[members] - trace.column("arrival_s")[origins]
        assert np.ptp(moved) < 1e-9
        for row in members:
            before = trace.table.column("prefix_blocks")[source[row]].as_py()
            for new, block in zip(chains[row], before, strict=True):
                holders[new].add(label)
                assert meaning.setdefault(new, block) == block
    assert all(meaning[block] in shared for block, labels in holders.items() if len(labels) > 1)
    kept = [block for block in meaning.values() if block in shared]
    assert len(kept) == len(set(kept)), "a shared block stays one block"


def test_sessions_by_prefix_are_chains_of_growing_prompts() -> None:
    """Two conversations behind one opening, a regenerated turn, a prompt of the opening alone: each its own."""
    chains = [[0, 1], [0], [0, 9], [0, 1, 2], [0, 1, 2, 3], [0, 9, 10], [0, 1, 2, 7], [0, 5], []]
    columns = {"arrival_s": np.arange(9.0), "prompt_tokens": [4 * len(chain) + 1 for chain in chains],
               "output_tokens": np.ones(9), "prefix_blocks": chains}  # fmt: skip
    assert sessions(build("chat", columns, BLOCK)).tolist() == [0, 1, 2, 0, 0, 2, 3, 4, 5]
    del columns["prefix_blocks"]
    assert sessions(build("plain", columns)).tolist() == list(range(9))


def test_sessions_join_what_a_parent_joins() -> None:
    columns = {"arrival_s": np.arange(5.0), "prompt_tokens": np.ones(5), "output_tokens": np.ones(5),
               "parent": [-1, -1, 0, 2, -1], "think_s": np.zeros(5)}  # fmt: skip
    assert sessions(build("linked", columns)).tolist() == [0, 1, 0, 0, 2]
    labelled = build("called", {**columns, "session": ["a", "b", "c", "c", "b"]})
    assert sessions(labelled).tolist() == [0, 1, 0, 0, 1]


def test_a_copy_is_wrapped_into_the_span() -> None:
    """Singles that are moved far stay within the first and the last arrival, and spread over all of it."""
    ones = np.ones(2001)
    columns = {"arrival_s": np.linspace(10.0, 110.0, 2001), "prompt_tokens": ones, "output_tokens": ones}
    trace = build("singles", columns)
    times = bootstrap(trace, sessions(trace), (3,), 1e4).column("arrival_s")
    assert times[0] >= 10.0 and times[-1] <= 110.0
    counts = np.histogram(times, 10, (10.0, 110.0))[0]
    assert abs(counts - 200.1).max() < 60  # 4.5 standard deviations of a uniform law
    still = bootstrap(trace, sessions(trace), (3,), 0.0).column("arrival_s")
    assert set(still) <= set(trace.column("arrival_s")) and len(still) == 2001


def test_windows_are_equal_in_time_and_refused_when_one_is_empty() -> None:
    columns = {"arrival_s": [0.0, 1.0, 5.0, 9.0, 10.0], "prompt_tokens": np.ones(5), "output_tokens": np.ones(5),
               "parent": [-1, 0, 1, 1, 3], "think_s": [0.0, 1.0, 1.0, 1.0, 1.0]}  # fmt: skip
    trace = build("five", columns)
    first, second = windows(trace, 2)
    assert first.column("arrival_s").tolist() == [0.0, 1.0] and second.column("arrival_s").tolist() == [0.0, 4.0, 5.0]
    assert second.column("parent").tolist() == [-1, -1, 1] and second.column("think_s").tolist() == [0.0, 0.0, 1.0]
    with pytest.raises(TraceError, match="each of 4 equal windows of five must hold a request"):
        windows(trace, 4)

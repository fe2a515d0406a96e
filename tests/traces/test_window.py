"""Cutting, scaling, thinning and sorting keep what they promise."""

import numpy as np
import pytest

from traces import TraceError, build, check
from traces.schema import assemble
from traces.window import scale_rate, slice_rows, slice_time, sort_arrivals, split_time, take, thin


@pytest.fixture
def chat():
    """Two sessions of three and two turns, interleaved."""
    return build(
        "chat",
        {
            "arrival_s": [1.0, 2.0, 3.0, 4.0, 5.0],
            "prompt_tokens": [4, 8, 12, 16, 20],
            "output_tokens": [1, 2, 3, 4, 5],
            "prefix_blocks": [[0], [1, 2], [0, 3, 4], [1, 2, 5], [0, 3, 4, 6]],
            "session": ["a", "b", "a", "b", "a"],
            "parent": [-1, -1, 0, 1, 2],
            "think_s": [0.0, 0.0, 1.0, 2.0, 3.0],
        },
        4,
    )


def test_slice_time_cuts_and_opens_the_loop_of_orphans(chat):
    part = check(slice_time(chat, 2.0, 5.0))
    assert part.column("prompt_tokens").tolist() == [8, 12, 16]
    assert part.column("arrival_s").tolist() == [0.0, 1.0, 2.0]
    assert part.column("parent").tolist() == [-1, -1, 0]
    assert part.column("think_s").tolist() == [0.0, 0.0, 2.0]
    assert part.prefix()[1].tolist() == [1, 2, 0, 3, 4, 1, 2, 5]


def test_slice_rows_counts_from_its_first_arrival(chat):
    part = check(slice_rows(chat, 3, 99))
    assert part.column("arrival_s").tolist() == [0.0, 1.0]
    assert part.column("output_tokens").tolist() == [4, 5]


@pytest.mark.parametrize("bounds", [(5.0, 5.0), (-1.0, 2.0), (3.0, 2.0), (float("nan"), 1.0), (50.0, 60.0)])
def test_an_impossible_window_is_refused(chat, bounds):
    with pytest.raises(TraceError, match="start_s|hold a request"):
        slice_time(chat, *bounds)


def test_scale_rate_divides_arrivals_and_keeps_think_times(chat):
    fast = scale_rate(scale_rate(chat, 2.0), 2.0)
    assert fast.column("arrival_s").tolist() == [0.25, 0.5, 0.75, 1.0, 1.25]
    assert fast.column("think_s").tolist() == chat.column("think_s").tolist()
    assert fast.notes["rate_factor"] == 4.0
    for factor in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(TraceError, match="factor must be positive and finite"):
            scale_rate(chat, factor)


def test_split_time_covers_every_row_once(chat):
    parts = split_time(chat, (0.5, 0.5))
    assert [part.column("output_tokens").tolist() for part in parts] == [[1, 2], [3, 4, 5]]
    assert all(check(part) is part for part in parts)
    with pytest.raises(TraceError, match="add up to 1"):
        split_time(chat, (0.5, 0.6))


def test_thin_keeps_sessions_whole_and_is_seeded():
    sessions = np.repeat(np.arange(400), 3)
    order = np.random.default_rng(1).permutation(len(sessions))
    columns = {
        "arrival_s": np.arange(1200.0),
        "prompt_tokens": np.full(1200, 5),
        "output_tokens": np.full(1200, 5),
        "session": [f"s{i}" for i in sessions[order]],
    }
    trace = build("many", columns)
    kept = thin(trace, 0.25, seed=3)
    counts = np.unique(kept.column("session").astype(str), return_counts=True)[1]
    assert set(counts) == {3}
    # binomial(400, 1/4): mean 100, standard deviation 8.7; five of them
    assert abs(len(counts) - 100) < 44
    assert kept.digest() == thin(trace, 0.25, seed=3).digest() != thin(trace, 0.25, seed=4).digest()
    assert len(thin(trace, 1.0)) == 1200
    with pytest.raises(TraceError, match="0 < keep <= 1"):
        thin(trace, 0.0)


def test_thin_follows_parents_without_sessions(chat):
    alone = assemble("chat", {n: chat.table[n] for n in chat.table.column_names if n != "session"}, 4)
    seen = {tuple(thin(alone, 0.5, seed).column("output_tokens")) for seed in range(30) if _keeps(alone, seed)}
    assert seen == {(1, 3, 5), (2, 4), (1, 2, 3, 4, 5)}


def _keeps(trace, seed):
    return bool((np.random.default_rng(seed).random(2) < 0.5).any())


def test_sort_is_stable_and_renumbers_parents(chat):
    shuffled = take(chat, np.array([4, 1, 0, 3, 2]))
    assert shuffled.column("parent").tolist() == [4, -1, -1, 1, 2]
    again = check(sort_arrivals(shuffled))
    assert again.digest() == chat.digest()
    assert sort_arrivals(chat) is chat
    ties = assemble("t", {"arrival_s": [1.0, 0.0, 1.0, 0.0], "prompt_tokens": [1, 2, 3, 4], "output_tokens": [1] * 4})
    assert sort_arrivals(ties).column("prompt_tokens").tolist() == [2, 4, 1, 3]

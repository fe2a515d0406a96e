"""Windows and counts over time, against counting by hand and by brute force."""

import numpy as np
import polars as pl
import pytest

from replay.metrics import PS_PER_S
from replay.report.curves import cdf, heavy_tailed
from replay.report.lanes import clipped, lanes, levels
from replay.report.windows import Windows, by_window, counts, horizon_ps, length_ps, merged, phase, windows
from replay.result import Result
from tests.handmade import request, session, waiting

S = 10**12


def drawn(seed: int, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    starts = draw.integers(0, 100, count)
    return starts, starts + draw.integers(0, 30, count)


@pytest.mark.parametrize("seed", range(4))
def test_counts_are_those_of_looking_at_every_instant(seed):
    starts, ends = drawn(seed)
    cut = Windows(0, 7, 19, 0, 130)
    mean, most = counts(starts, ends, cut)
    at = np.array([((starts <= t) & (t < ends)).sum() for t in range(130)])
    for k in range(cut.count):
        inside = at[7 * k : min(7 * k + 7, 130)]
        assert mean[k] == pytest.approx(inside.mean()) and most[k] == inside.max()


@pytest.mark.parametrize("seed", range(3))
def test_merged_intervals_are_the_time_that_any_is_open(seed):
    starts, ends = drawn(seed, 25)
    at = np.array([((starts <= t) & (t < ends)).any() for t in range(130)])
    low, high = merged(starts, ends)
    assert (low[1:] > high[:-1]).all() and (high > low).all()
    assert (at == [((low <= t) & (t < high)).any() for t in range(130)]).all()
    assert [len(one) for one in merged(starts[:0], ends[:0])] == [0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_lanes_never_overlap_and_are_as_few_as_needed(seed):
    starts, ends = drawn(seed)
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], ends[order]
    taken = np.array(lanes(starts.tolist(), ends.tolist()))
    for lane in range(taken.max() + 1):
        own = taken == lane
        assert (ends[own][:-1] <= starts[own][1:]).all()
    assert taken.max() + 1 <= max(((starts <= t) & (t <= ends)).sum() for t in range(131))


def test_levels_and_clipping_keep_to_the_window():
    frame = pl.DataFrame({"start_ps": [0, 10, 20, 40, 15], "end_ps": [12, 30, 20, 50, 15]})
    assert levels(frame, (5, 25)) == [(5, 1), (10, 2), (12, 1)]
    assert levels(frame, (25, 60)) == [(25, 1), (30, 0), (40, 1), (50, 0)]
    assert clipped(frame, (11, 25)).rows() == [(11, 12), (11, 25), (20, 20), (15, 15)]


def frame() -> pl.DataFrame:
    """Return rows made by hand: finished, refused, never arrived, waiting, and decoding at the end."""
    rows = [
        request(0.0), request(1.0, tier="bronze"), waiting(1.5, "rejected"), waiting(None),
        waiting(2.0), request(2.0, status="unfinished", finish_s=None), request(2.5, first_token_s=9.0, finish_s=10.0),
    ]  # fmt: skip
    return Result.from_session(session(rows)).requests


def test_windows_of_a_run_made_by_hand():
    rows = frame()
    assert horizon_ps(rows) == (0, 10 * S)
    cut = windows(rows, length_ps([rows], 5))
    assert (cut.length_ps, cut.count, cut.lengths_s.tolist()) == (2 * S, 5, [2.0] * 5)
    found = by_window(rows, cut, 3600.0)
    assert found["arrivals_per_s"].to_list() == [1.5, 1.5, 0, 0, 0]  # 3 of them each in 2 s
    assert found["goodput_per_s"].to_list() == [0.5, 0.5, 0, 0, 0]
    assert found["slo_attainment"].to_list() == [pytest.approx(2 / 3), 0.0, None, None, None]
    assert found["hit_rate"].to_list() == [0.2, 0.2, None, None, None]
    # waits: 0 to .25, 1 to 1.25, 2 to the end, 2 to 2.25, 2.5 to 2.75
    assert found["waiting"].to_list() == pytest.approx([0.25, 1 + 0.25, 1, 1, 1])
    assert found["most_waiting"].to_list() == [1, 2, 1, 1, 1]
    assert found["prefill"].to_list() == pytest.approx([0.25, 0.125 + 0.625, 1, 1, 0.5])
    assert found["decoding"].to_list() == pytest.approx([0.75, 0.25 + 0.75, 1, 1, 1.5])
    assert found["usd_so_far"].to_list() == [2, 4, 6, 8, 10]
    assert found["usd_per_million_tokens"].to_list() == pytest.approx([2e6 / 11, 2e6 / 11, None, None, 2e6 / 11])
    assert "usd_so_far" not in by_window(rows, cut, None).columns


def test_time_in_phases_adds_up_to_that_of_the_requests():
    rows = frame()
    cut = windows(rows, length_ps([rows], 7))
    for name in ("waiting", "prefill", "decoding"):
        starts, ends = phase(rows, name)
        mean, _ = counts(starts, ends, cut)
        assert (mean * cut.lengths_s).sum() == pytest.approx((ends - starts).sum() / PS_PER_S)


@pytest.mark.parametrize(
    ("span_s", "most", "length_s"), [(3570, 120, 30), (0.0123, 100, 2e-4), (100, 100, 1), (0, 9, 1e-6)]
)
def test_windows_have_round_lengths(span_s, most, length_s):
    rows = Result.from_session(session([request(0.0, scheduled_s=0, first_token_s=0, finish_s=span_s)])).requests
    length = length_ps([rows], most)
    assert length == round(length_s * S) and windows(rows, length).count <= max(1, most)


def test_cdf_is_thinned_but_keeps_ends_and_shares():
    values = np.exp(2 * np.random.default_rng(5).standard_normal(100_000))
    points = cdf(values)
    assert points.height < 260 and points["value"][-1] == values.max() and points["share"][-1] == 1.0
    for value, share in points.sample(20, seed=1).iter_rows():
        assert share == pytest.approx((values <= value).mean())
    assert heavy_tailed(values) and not heavy_tailed(np.linspace(1, 2, 100)) and not heavy_tailed(np.zeros(100))
    assert cdf(np.array([3.0, 1.0, 1.0])).rows() == [(1.0, 2 / 3), (3.0, 1.0)] and cdf(np.zeros(0)).height == 0

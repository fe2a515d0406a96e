"""Features are what is known at arrival: nothing that happens later changes a row."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors.errors import PredictorError
from predictors.features import META, Pace, build, feature_names, needs
from traces.schema import Trace
from traces.schema import build as build_trace

PACE = Pace(first_token_s=0.5, token_s=0.1)


def random_trace(seed: int, rows: int = 60) -> dict[str, list]:
    """Draw the columns of a trace with everything that features read: prefixes, sessions, tenants, kinds, tiers."""
    draw = np.random.default_rng(seed)
    chains: list[list[int]] = []
    for row in range(rows):
        earlier = chains[draw.integers(row)] if row and draw.random() < 0.7 else []
        fresh = [1000 * (row + 1) + k for k in range(draw.integers(0, 4))]
        chains.append([*earlier[: draw.integers(0, len(earlier) + 1)], *fresh])
    return {
        "arrival_s": np.cumsum(draw.choice([0.0, 0.3, 2.0, 40_000.0], rows, p=[0.2, 0.4, 0.38, 0.02])).tolist(),
        "prompt_tokens": [16 * len(chain) + int(draw.integers(1, 16)) for chain in chains],
        "output_tokens": draw.integers(1, 60, rows).tolist(),
        "prefix_blocks": chains,
        **{name: draw.choice(list("abc"), rows).tolist() for name in ("tier", "tenant", "session", "kind")},
    }


def trace_of(columns: dict[str, list]) -> Trace:
    """Build a trace of columns."""
    return build_trace("random", columns, 16)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 58))
def test_the_future_changes_nothing(seed: int, cut: int) -> None:
    """Rows up to a request stay the same bytes when all later rows, and every output not finished by then, change."""
    columns = random_trace(seed)
    before = build(trace_of(columns), PACE)
    now_s, other = columns["arrival_s"][cut], random_trace(seed + 1)
    finished = np.array(columns["arrival_s"]) + 0.5 + 0.1 * np.array(columns["output_tokens"]) < now_s
    changed = {name: values[: cut + 1] + other[name][cut + 1 :] for name, values in columns.items()}
    changed["arrival_s"] = (
        columns["arrival_s"][: cut + 1] + (now_s + np.cumsum(other["output_tokens"])).tolist()[cut + 1 :]
    )
    changed["prefix_blocks"] = columns["prefix_blocks"][: cut + 1] + [
        [10**6 + 1000 * row + k for k in range(n)] for row, n in enumerate(map(len, other["prefix_blocks"][cut + 1 :]))
    ]
    changed["output_tokens"] = [
        output if row <= cut and finished[row] else 60 + row for row, output in enumerate(columns["output_tokens"])
    ]
    after = build(trace_of(changed), PACE)
    names = feature_names(before)
    assert before[: cut + 1].select(names).equals(after[: cut + 1].select(names))


def test_the_past_changes_something() -> None:
    columns = random_trace(3)
    before = build(trace_of(columns), PACE)
    columns["output_tokens"][0] += 500
    assert not build(trace_of(columns), PACE)[-1].equals(before[-1]) or columns["arrival_s"][-1] < 60


def test_features_by_hand() -> None:
    """Three prompts of one conversation and one stranger: 10 tokens finish 1.5 s after arrival, 100 after 10.5 s."""
    columns = {
        "arrival_s": [0.0, 1.0, 5.0, 20.0], "prompt_tokens": [20, 10, 40, 70], "output_tokens": [10, 100, 10, 10],
        "prefix_blocks": [[1], [], [1, 2], [1, 2, 3, 4]], "session": ["a", "b", "a", "a"],
    }  # fmt: skip
    frame = build(trace_of(columns), PACE)
    ten = pytest.approx(np.log(10), rel=1e-6)
    assert frame["session_known"].to_list() == [0, 0, 1, 2]
    assert frame["session_recent"].to_list() == [-1, -1, ten, ten]
    assert frame["prefix_4_known"].to_list() == [0, 0, 0, 0] and frame["prefix_1_known"].to_list() == [0, 0, 1, 2]
    assert frame["shared_log"].to_list() == [0, 0, pytest.approx(np.log1p(16)), pytest.approx(np.log1p(32))]
    assert frame["prefix_growth_tokens"].to_list() == [-1, -1, 20, 30]
    assert frame["prefix_since_log_s"].to_list() == [-1, -1, pytest.approx(np.log1p(5)), pytest.approx(np.log1p(15))]
    assert frame["prefix_output_log"].to_list() == [-1, -1, ten, ten]
    assert frame["prefix_turn"].to_list() == [0, 0, 1, 2]
    assert frame["arrivals_10s"].to_list() == [0, 1, 2, 0] and frame["in_flight"].to_list() == [0, 1, 1, 0]
    # of all: weights halve in 64 completions
    weight = 0.5 ** (1 / 64)
    assert frame["all_recent"][3] == pytest.approx(
        (np.log(100) + weight * np.log(10) + weight**2 * np.log(10)) / (1 + weight + weight**2), rel=1e-6
    )


def test_time_of_day_is_told_from_the_second_day_on() -> None:
    day = 86_400.0
    frame = build(build_trace("days", {"arrival_s": [0.0, day / 4, day, 1.25 * day], "prompt_tokens": [1, 2, 3, 4],
                                       "output_tokens": [1, 1, 1, 1]}))  # fmt: skip
    assert frame["day_sin"].to_list() == [0, 0, pytest.approx(0, abs=1e-6), pytest.approx(1)]
    assert frame["day_cos"].to_list() == [0, 0, pytest.approx(1), pytest.approx(0, abs=1e-6)]


def test_recorded_times_count_where_there_are_any() -> None:
    columns = {"arrival_s": [0.0, 1.0], "prompt_tokens": [5, 5], "output_tokens": [2, 2], "e2e_s": [7.0, float("nan")]}
    assert build(build_trace("recorded", columns), PACE)["finish_s"].to_list() == [7.0, pytest.approx(1.7)]


def test_columns_that_features_need() -> None:
    frame = build(trace_of(random_trace(1)))
    assert isinstance(frame, pl.DataFrame) and set(META) <= set(frame.columns)
    assert set(needs(feature_names(frame))) == {"prefix_blocks", "session", "tenant", "kind", "tier"}
    plain = build(build_trace("plain", {"arrival_s": [0.0], "prompt_tokens": [5], "output_tokens": [2]}))
    assert needs(feature_names(plain)) == []
    with pytest.raises(PredictorError, match="predictor.token_s must be a number from 0"):
        Pace(token_s=-1.0)

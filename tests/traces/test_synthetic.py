"""Synthetic workloads: determinism, prefixes and sessions."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces.errors import TraceError
from traces.schema import check
from traces.synthetic import make
from traces.synthetic.prefixes import Shape, _enough_turns, system_prompts

ROOT = Path(__file__).resolve().parents[2]
SINGLE: dict[str, Any] = {"prompt_tokens": 100, "output_tokens": 10}
SESSIONS: dict[str, Any] = {
    "arrivals": {"law": "poisson", "rate_per_s": 2.0},
    "turns": {"law": "geometric", "mean": 3},
    "user_tokens": {"law": "geometric", "mean": 30},
    "output_tokens": {"law": "geometric", "mean": 20},
    "think_s": {"law": "exponential", "mean": 4.0},
    "system": {"prompts": 3, "tokens": {"law": "uniform", "low": 0, "high": 90}, "zipf": 1.0},
}
COUNT = 200_000


def test_the_same_inputs_give_the_same_bytes_in_another_process() -> None:
    code = (
        "import sys, json; from traces.synthetic import make; "
        "print(make('shared_prefix', 300, 5, **json.loads(sys.argv[1])).digest())"
    )
    command = [sys.executable, "-c", code, json.dumps(SESSIONS | {"branching": 0.3})]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == make("shared_prefix", 300, 5, **SESSIONS, branching=0.3).digest()
    assert run.stdout.strip() != make("shared_prefix", 300, 6, **SESSIONS, branching=0.3).digest()


def test_streams_are_independent() -> None:
    one = make("poisson", 1000, 1, rate_per_s=2.0, prompt_tokens={"law": "exponential", "mean": 50}, output_tokens=3)
    two = make("poisson", 1000, 1, rate_per_s=2.0, prompt_tokens=9, output_tokens={"law": "exponential", "mean": 50})
    np.testing.assert_array_equal(one.column("arrival_s"), two.column("arrival_s"))
    correlation = np.corrcoef(one.column("prompt_tokens"), two.column("output_tokens"))[0, 1]
    assert abs(correlation) < 5 / math.sqrt(1000)


@pytest.mark.parametrize("kind", ["shared_prefix", "sessions", "poisson", "onoff"])
def test_a_shorter_trace_is_the_start_of_a_longer_one(kind: str) -> None:
    params = {
        "poisson": SINGLE | {"rate_per_s": 1.0},
        "onoff": SINGLE | {"on_rate_per_s": 5.0, "on_s": 2.0, "off_s": 2.0},
    }.get(kind, SESSIONS | {"branching": 0.4})
    short, long = make(kind, 150, 8, **params), make(kind, 900, 8, **params)
    names = [name for name in short.table.column_names if name != "session"]
    assert short.table.select(names).equals(long.table.select(names).slice(0, 150))


def shape_of(block_tokens: int, branching: float, longest: int) -> Shape:
    nodes = {
        name: SESSIONS[name] for name in ("arrivals", "turns", "user_tokens", "output_tokens", "think_s", "system")
    }
    return Shape(**nodes, branching=branching, answer_token_s=0.1, block_tokens=block_tokens, max_prompt_tokens=longest)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    block_tokens=st.sampled_from([1, 7, 16]),
    branching=st.sampled_from([0.0, 0.5, 1.0]),
    longest=st.sampled_from([60, 200, 100_000]),
)
def test_block_ids_equal_where_the_tokens_before_them_do(
    seed: int, block_tokens: int, branching: float, longest: int
) -> None:
    shape = shape_of(block_tokens, branching, longest)
    params = SESSIONS | {"branching": branching, "block_tokens": block_tokens, "max_prompt_tokens": longest}
    trace = make("shared_prefix", 40, seed, **params, answer_token_s=0.1)
    prompts = system_prompts(shape.system, seed, shape)
    turns, chosen = _enough_turns(shape, seed, 40, prompts, 0.1)
    context: list[list[tuple[Any, ...]]] = []
    asked = []
    for turn in range(len(turns.session)):
        system = int(chosen[turns.session[turn]])
        start = [("system", system, k) for k in range(int(prompts.blocks[system]) * block_tokens)]
        start = context[turns.before[turn]] if turns.before[turn] >= 0 else start
        asked.append(start + [("user", turn, k) for k in range(int(turns.prompt[turn]) - len(start))])
        context.append(asked[-1] + [("answer", turn, k) for k in range(int(turns.output[turn]))])
    offsets, ids = trace.prefix()
    known: dict[tuple[Any, ...], int] = {}
    for row, turn in enumerate(np.argsort(turns.arrival_s, kind="stable")[:40]):
        assert len(asked[turn]) == trace.column("prompt_tokens")[row] <= longest
        assert offsets[row + 1] - offsets[row] == len(asked[turn]) // block_tokens
        for k in range(len(asked[turn]) // block_tokens):
            key = tuple(asked[turn][: (k + 1) * block_tokens])
            assert known.setdefault(key, int(ids[offsets[row] + k])) == ids[offsets[row] + k]
    assert len(set(known.values())) == len(known)


def test_system_prompts_are_chosen_by_zipf() -> None:
    shape = shape_of(16, 0.0, 1000)
    prompts = system_prompts({"prompts": 5, "tokens": 32, "zipf": 1.2}, 1, shape)
    counts = np.bincount(prompts.choose(1, COUNT), minlength=5)
    weights = np.arange(1, 6) ** -1.2
    shares = weights / weights.sum()
    assert (np.abs(counts / COUNT - shares) < 5 * np.sqrt(shares * (1 - shares) / COUNT)).all()
    assert (prompts.blocks == 2).all()


def test_closed_loop_turns_wait_for_the_turn_before() -> None:
    trace = check(make("sessions", 2000, 3, **SESSIONS))
    parent, session = trace.column("parent"), trace.column("session")
    child = np.flatnonzero(parent >= 0)
    assert len(child) > 500
    assert (session[child] == session[parent[child]]).all()
    assert len(set(parent[child])) == len(child)
    prompts, outputs = trace.column("prompt_tokens"), trace.column("output_tokens")
    assert (prompts[child] > prompts[parent[child]] + outputs[parent[child]]).all()
    think, arrival = trace.column("think_s"), trace.column("arrival_s")
    np.testing.assert_allclose(arrival[child] - arrival[parent[child]], think[child], atol=1e-9)
    assert (think[parent < 0] == 0).all()
    assert abs(think[child].mean() / 4.0 - 1) < 5 / math.sqrt(len(child)) + 0.1  # the cut at 2000 drops long waits


def test_open_loop_turns_leave_time_for_the_answer() -> None:
    params = SESSIONS | {"think_s": 2.0, "answer_token_s": 0.5, "output_tokens": 10, "turns": 3}
    trace = make("shared_prefix", 600, 3, **params)
    arrival, session = trace.column("arrival_s"), trace.column("session")
    gaps = np.concatenate([np.diff(arrival[session == name]) for name in set(session)])
    assert len(gaps) > 300 and np.allclose(gaps, 7.0)
    assert "parent" not in trace


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"arrivals": {"law": "poisson", "rate_per_s": 0}}, "must be above 0"),
        ({"arrivals": 4}, "'arrivals' must be a node"),
        ({"branching": 1.5}, "'branching' must be in 0 .. 1"),
        ({"block_tokens": 0}, "'block_tokens' must be"),
        ({"system": {"prompts": 2}}, "'system' needs the parameter 'tokens'"),
        ({"system": 3}, "'system' must be a node"),
        ({"turns": {"law": "geometric", "mean": 0.5}}, "'mean' must be at least 1"),
    ],
)
def test_a_bad_session_parameter_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TraceError, match=sentence):
        make("shared_prefix", 10, 0, **SESSIONS | changes)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "x", True])
def test_a_bad_seed_is_one_sentence(seed: Any) -> None:
    with pytest.raises(TraceError, match="a seed must be an integer"):
        make("poisson", 10, seed, rate_per_s=1.0, **SINGLE)

"""Profiles from per-layer times: a made-up GPU whose formula is known comes back, and graphs are padded."""

from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from replay.errors import ConfigError
from replay.fidelity.experts import Link, Spread, exchange_us, experts_us
from replay.fidelity.layers import CAPTURED, padded, profile_of, read, recognises
from replay.hardware import iteration_ps
from replay.hardware.conf import load
from replay.hardware.model import Model, model_of
from replay.hardware.profile import shared_ps
from tests.recorded import recorded

TOKENS = [*range(1, 17), *range(24, 513, 8), 1024, 2048, 4096]


@pytest.fixture
def model() -> Model:
    return model_of(load("model", "llama3_8b"))


def dense_us(tokens: float) -> float:
    return 200.0 + 0.5 * tokens


def attention_us(chunk: float, before: float, batch: float, each: float) -> float:
    squares = (before + chunk) ** 2 - before**2
    if chunk:
        return 10.0 + 5e-5 * squares + 8e-3 * batch * each + 0.7 * batch
    return 9.0 + 0.1 * batch + 4e-3 * batch * each


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write the tables of the made-up GPU, in the layout of the profiler."""
    layers = {"layernorm": 0.1, "qkv_proj": 0.5, "down_proj": 0.3, "embedding": 0.05, "final_layernorm": 0.01}
    rows = [(name, tokens, share * dense_us(tokens)) for name, share in layers.items() for tokens in TOKENS]
    pl.DataFrame(rows, ["layer", "tokens", "time_us"], orient="row").write_parquet(tmp_path / "dense.parquet")
    chunks, sizes, contexts = [0, 128, 512, 2048], [0, 1, 2, 4, 8, 16, 32, 64, 128, 256], [128, 512, 1024, 4096]
    grid = [(c, k, n, e) for c, k, n, e in product(chunks, [0, 1024], sizes, contexts) if (c or (n and not k))]
    rows = [(*point, attention_us(*point)) for point in grid]
    names = ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"]
    pl.DataFrame(rows, names, orient="row").write_parquet(tmp_path / "attention.parquet")
    rows = [(name, n, 500.0 + n) for name in ("lm_head", "sampler") for n in (1, 8, 64, 256)]
    pl.DataFrame(rows, ["layer", "sequences", "time_us"], orient="row").write_parquet(tmp_path / "per_sequence.parquet")
    return tmp_path


def test_a_known_formula_comes_back(folder: Path, model: Model) -> None:
    assert recognises(folder) and not recognises(folder.parent)
    host_s = 0.001
    profile = profile_of(read(folder), model, host_s)
    assert profile.interpolation_error < 0.005
    for chunk, before, batch, each in [(0, 0, 8, 700), (0, 0, 40, 1000), (0, 0, 100, 2000), (512, 0, 0, 0),
                                       (1024, 512, 16, 900), (2000, 0, 48, 1500), (300, 0, 100, 600)]:  # fmt: skip
        tokens = chunk + batch if chunk else float(padded(np.array([batch]))[0])
        # layernorm counts twice: two of them a layer
        expected_us = model.layers * (1.0 * dense_us(tokens) + attention_us(chunk, before, batch, each))
        expected_us += 0.06 * dense_us(tokens) + 2 * (500.0 + max(batch, 1)) + host_s * 1e6
        squares = (before + chunk) ** 2 - before**2
        found_us = iteration_ps(profile, chunk, batch, batch * each, squares) / 1e6
        assert found_us == pytest.approx(expected_us, rel=0.02), (chunk, before, batch, each)


def test_iterations_without_prefill_run_as_captured_graphs(folder: Path, model: Model) -> None:
    profile = profile_of(read(folder), model)
    costs = [iteration_ps(profile, 0, batch, 0, 0) for batch in range(1, 130)]
    assert costs == sorted(costs)
    steps = np.diff(costs)
    inside = [steps[batch - 1] for batch in range(17, 24)]  # 17 to 24 all run as 24
    assert max(inside) < 0.25 * steps[15]
    assert padded(np.array([1, 3, 9, 17, 512, 700])).tolist() == [1, 4, 16, 24, 512, 700] and CAPTURED[-1] == 512


def test_ranks_share_experts_and_send_each_other_tokens(folder: Path) -> None:
    """Of two ranks each touches half of the experts, at its share of all tokens; tokens pass a link twice a layer."""
    mixture = model_of(load("model", "qwen3_30b_a3b"))
    rows = [(tokens, size, 10.0 * size + 0.5 * tokens) for tokens in (1, 64, 2048) for size in (8, 64, 128)]
    pl.DataFrame(rows, ["tokens", "activated_experts", "time_us"], orient="row").write_parquet(folder / "moe.parquet")
    layers, spread = read(folder), Spread(2, Link(1e9, 5e-6))
    alone, pair = profile_of(layers, mixture), profile_of(layers, mixture, spread=spread)
    assert alone.ranks == 1 and alone.together_table is None and pair.ranks == 2
    many = experts_us(layers.experts, np.array([1000.0]), mixture, 2)
    assert many == pytest.approx(10.0 * 64 + 0.5 * 500, rel=1e-3)  # all 64 of a rank
    sent_us = 2 * (5 + 300 * mixture.hidden * 2 / 1e9 * 1e6)
    assert exchange_us(np.array([300.0]), mixture, spread) == pytest.approx(sent_us)
    assert shared_ps(pair, 1000, 300, 1) / 1e6 == pytest.approx(mixture.layers * float(many[0] + sent_us), rel=1e-3)
    captured_us = experts_us(layers.experts, np.array([48.0]), mixture, 2)
    captured_us = captured_us + exchange_us(np.array([24.0]), mixture, spread)
    for batch in (17, 24):
        assert shared_ps(pair, 0, batch, 0) / 1e6 == pytest.approx(mixture.layers * float(captured_us[0]), rel=1e-3)
    own_ps = iteration_ps(pair, 300, 0, 0, 300**2) - shared_ps(pair, 600, 300, 1)
    experts = mixture.layers * experts_us(layers.experts, np.array([300.0]), mixture)
    assert own_ps / 1e6 == pytest.approx(iteration_ps(alone, 300, 0, 0, 300**2) / 1e6 - float(experts[0]), rel=0.02)
    with pytest.raises(ConfigError, match="more than 0 bytes"):
        Link(0.0, 1e-6)


def test_what_is_no_profile_is_refused(folder: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(folder / "dense.parquet")
    with pytest.raises(ConfigError, match="must hold per-layer times"):
        read(folder)


@pytest.mark.parametrize("gpu", ["RTX4090", "RTXPRO6000"])
def test_measured_iterations_come_back(gpu: str, model: Model) -> None:
    place = recorded(f"measured/llmservingsim/profiler/perf/{gpu}/meta-llama/Llama-3.1-8B/bf16/tp1")
    layers = read(place)
    assert profile_of(layers, model).interpolation_error < 0.015
    assert all((times >= 1.0).all() and times.max() > 1.05 for _, times in layers.skew.values())

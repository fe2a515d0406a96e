"""Composed iterations against sums by hand, and the integer tables against what they were fitted to."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from replay.errors import ConfigError
from replay.fidelity import kernel_costs, kernels
from replay.fidelity.asked import Asked
from replay.fidelity.form import errors, fit, table_s
from replay.fidelity.iterations import fitted, iterations
from replay.fidelity.kernel_tables import nearest
from replay.hardware.file import load, save
from tests.fidelity.kernel_folder import GPU, context_s, gemm_s, generation_s, make, reduce_s
from tests.recorded import recorded

LLAMA = Asked(gpu=GPU, model="llama3_8b", tp=2, host_s=1e-3, host_request_s=0.0)
LAYERS, HIDDEN, FFN = 32, 4096, 14336


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("kernels"))


def small_s(tokens: float, numbers: float) -> float:
    return 3e-6 + tokens * numbers * 2 / (3.35e12 * 0.8)


def rest_s(tokens: float) -> float:
    """Cost all but attention and the output projection of a layer of Llama 3 8B on two GPUs, by hand.

    The widths of qkv (3072) and of the feed-forward (14336, 7168) lie between those of the tables; on these GEMMs,
    far above the launch, log-log lines meet the made formula within a percent.
    """
    return (2 * small_s(tokens, 4 * HIDDEN) + gemm_s(tokens, 3072, HIDDEN) + gemm_s(tokens, HIDDEN, HIDDEN / 2)
            + gemm_s(tokens, FFN, HIDDEN) + small_s(tokens, 3 * FFN / 2) + gemm_s(tokens, HIDDEN, FFN / 2)
            + 2 * reduce_s(tokens * HIDDEN))  # fmt: skip


def once_s(tokens: float, rows: float) -> float:
    return 1e-3 + small_s(tokens, 2 * HIDDEN) + reduce_s(tokens * HIDDEN) + gemm_s(rows, 128256 / 2, HIDDEN)


def test_an_iteration_is_the_sum_of_its_kernels(folder: Path) -> None:
    made = kernels.measured(folder, LLAMA)
    asked = iterations([(1, 4096, 0, 0, 0), (0, 0, 0, 16, 1025), (1, 1024, 3072, 0, 0)])
    prefill = LAYERS * (rest_s(4096) + context_s(1, 4096, 16)) + once_s(4096, 1)
    decode = LAYERS * (rest_s(16) + generation_s(16, 1024, 4)) + once_s(16, 16)
    # The last quarter of a prompt costs 7/16 of its attention: what is measured, less what comes before.
    late = LAYERS * (rest_s(1024) + context_s(1, 4096, 16) - context_s(1, 3072, 16)) + once_s(1024, 1)
    assert made.seconds(asked) == pytest.approx([prefill, decode, late], rel=0.02)


def test_a_mixed_iteration_costs_both_attentions_once_and_weights_once(folder: Path) -> None:
    made = kernels.measured(folder, LLAMA)
    mixed, prefill, decode = made.seconds(iterations([(1, 1024, 0, 64, 2048), (1, 1024, 0, 0, 0), (0, 0, 0, 64, 2048)]))
    assert max(prefill, decode) < mixed < prefill + decode - 0.5e-3


def test_experts_and_both_ways_to_split_them(folder: Path) -> None:
    made = kernels.measured(folder, Asked(gpu=GPU, model="mixtral_8x7b", tp=4))
    assert made.numbers == {"gemm": "bfloat16", "moe": "bfloat16", "kv": "bfloat16"}
    assert (made.split.expert_tp, made.split.expert_ep) == (4, 1)
    wide = kernels.measured(folder, Asked(gpu=GPU, model="mixtral_8x7b", tp=2))
    asked = iterations([(0, 0, 0, 16, 1024)])
    assert wide.seconds(asked)[0] - wide.host.iteration_s > (made.seconds(asked)[0] - made.host.iteration_s) * 1.5
    with pytest.raises(ConfigError, match="moe_ep must divide the 4 GPUs"):
        kernels.measured(folder, Asked(gpu=GPU, model="mixtral_8x7b", tp=4, moe_ep=3))


def test_the_tables_are_near_what_they_were_fitted_to_and_say_how_near(folder: Path, tmp_path: Path) -> None:
    profile = kernels.build(folder, LLAMA)
    grid = fitted(profile.kv_capacity_tokens or 0)
    exact = kernels.measured(folder, LLAMA).seconds(grid)
    off = errors(profile, exact, grid)
    assert off["all"][0] < 0.02 and off["all"][1] < 0.05 and off["all"][2] < 0.2
    assert profile.interpolation_error == pytest.approx(off["all"][2], rel=1e-9)
    assert f"{100 * off['all'][0]:.1f} % (median)" in profile.provenance
    assert profile.decode_table is not None and profile.gpus == 2
    save(profile, tmp_path / "profile.json")
    assert (table_s(load(tmp_path / "profile.json"), grid) == table_s(profile, grid)).all()


def test_a_cost_that_a_profile_can_say_exactly_is_found_exactly() -> None:
    grid = fitted(10**6)
    exact = (np.where(grid.prompts > 0, 5e-3, 2e-3 + 1e-5 * grid.decoding) + 4e-5 * grid.prefill_tokens
             + 2e-8 * grid.kv_tokens + 3e-12 * grid.quadratic)  # fmt: skip
    found = fit(lambda asked: exact, grid)
    assert found.errors["all"][2] < 1e-4
    assert found.prefill_token_sq_fs == pytest.approx(3000, rel=1e-2)


def test_a_model_that_costs_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="must take a positive time"):
        fit(lambda asked: np.zeros(len(asked)), fitted(10**6))


def test_beyond_the_grid_the_last_slope_goes_on() -> None:
    grid = fitted(20_000)
    found = fit(lambda asked: 1e-3 + 1e-6 * asked.kv_tokens + 1e-5 * asked.prefill_tokens, grid)
    far = iterations([(0, 0, 0, 16, 8192)])
    assert table_s(found, far)[0] == pytest.approx(1e-3 + 1e-6 * 16 * 8192, rel=0.02)


def test_odd_token_counts_cost_what_padded_or_odd_products_do() -> None:
    """Below the largest captured graph only multiples of 8 count, above it points beside multiples of 16."""
    frame = pl.DataFrame([{"m": m, "n": 64, "k": 64, "seconds": s} for m, s in (
        (16, 1.0), (17, 5.0), (32, 2.0), (512, 3.0), (768, 4.0), (769, 8.0), (1024, 6.0))])
    points, values = kernel_costs._curves(frame)[(64, 64)]
    assert points.tolist() == [16, 32, 512, 769, 1024]
    assert values.tolist() == [1.0, 2.0, 3.0, 8.0, 6.0]


def test_the_nearest_version_is_the_first_not_older() -> None:
    versions = ["0.9.0", "0.24.0", "0.14.0"]
    assert [nearest(versions, wanted) for wanted in (None, "0.10", "0.24.0", "1.0", "0.1")] == [
        "0.24.0", "0.14.0", "0.24.0", "0.24.0", "0.9.0"]  # fmt: skip


def test_recorded_kernels_come_back_and_compile() -> None:
    folder = recorded("measured/aiconfigurator/data").parent
    asked = Asked(gpu="a100_sxm", model="llama3_8b", host_s=0.0, host_request_s=0.0)
    costs = kernels.measured(folder, asked).costs
    one = costs.tables.read("gemm_perf").filter(m=8, n=4096, k=4096)
    assert costs.gemm_s("bfloat16", np.array([8.0]), 4096, 4096)[0] == one["seconds"][0]
    shape = {"num_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "window_size": 0, "kv_cache_dtype": "bfloat16"}
    of_table = costs.tables.read("context_attention_perf").filter(
        num_heads=32, num_key_value_heads=8, head_dim=128, kv_cache_dtype="bfloat16", batch_size=1, isl=4096)
    assert costs.context_s(shape, np.array([1.0]), np.array([4096.0]))[0] == of_table["seconds"][0]
    profile = kernels.build(folder, asked)
    # 8 B weights of 2 bytes at 2.04 TB/s take 7.9 ms; 2 x 8 B x 2048 flops at 312 Tflop/s take 105 ms.
    shown = table_s(profile, iterations([(0, 0, 0, 1, 1024), (1, 2048, 0, 0, 0)]))
    assert 7.9e-3 < shown[0] < 14e-3 and 0.105 < shown[1] < 0.25
    assert profile.interpolation_error < 0.2 and "(median)" in profile.provenance

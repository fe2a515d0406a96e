"""Spec sheets and models: published sizes, memory arithmetic, and distance to measured runs."""

import numpy as np
import polars as pl
import pytest

from replay.errors import ConfigError
from replay.hardware import build, decode_s, iteration_ps, prefill_s
from replay.hardware.compile import values_ps
from replay.hardware.conf import load, names, node
from replay.hardware.model import model_of
from replay.hardware.roofline import gpu_of, kv_shards, token_s
from tests.recorded import recorded

GPUS = [name for name in names("hardware") if load("hardware", name)["kind"] == "roofline"]
SPLITS = [(1, 1), (2, 1), (8, 1), (8, 8), (7, 1)]


def profile(gpu, model, **changes):
    return build({"hardware": {**load("hardware", gpu), **changes}, "model": load("model", model)})


@pytest.mark.parametrize(
    ("name", "weights", "active", "kv_token_bytes"),
    [("llama3_8b", 8.03e9, 8.03e9, 131072), ("llama3_70b", 70.6e9, 70.6e9, 327680),
     ("llama3_405b", 405.9e9, 405.9e9, 516096),
     ("qwen2_5_72b", 72.7e9, 72.7e9, 327680), ("qwen3_32b", 32.8e9, 32.8e9, 262144),
     ("mixtral_8x7b", 46.7e9, 12.9e9, 131072), ("deepseek_v3", 671e9, 37e9, 70272), ("kimi_k2", 1.03e12, 32e9, 70272),
     ("qwen3_235b", 235e9, 22e9, 192512), ("minimax_m2", 229e9, 11e9, 253952),
     ("moe_100t", 100e12, 1.6e12, 327680)],
)  # fmt: skip
def test_published_sizes(name, weights, active, kv_token_bytes):
    model = model_of(load("model", name))
    assert model.weights == pytest.approx(weights, rel=0.02) and model.kv_token_bytes == kv_token_bytes
    assert model.active_weights == pytest.approx(active, rel=0.03)


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("model", names("model"))
def test_every_pair_builds_or_says_why(gpu, model):
    for tp, ep in SPLITS:
        try:
            built = profile(gpu, model, tp=tp, ep=ep)
        except ConfigError as error:
            assert any(reason in str(error) for reason in ("GB of weights", "must divide", "hardware.ep must be"))
        else:
            assert built.interpolation_error < 0.005 and len(built.token_table) <= 64 and built.gpus == tp * ep
            assert built.kv_capacity_tokens >= 1 and iteration_ps(built, 1, 0, 0, 1) >= 1


@pytest.mark.parametrize(("gpu", "model", "tp", "ep"), [("h100", "llama3_70b", 8, 1), ("h800", "deepseek_v3", 4, 8)])
def test_table_follows_the_formula(gpu, model, tp, ep):
    built = profile(gpu, model, tp=tp, ep=ep)
    spec, shape = gpu_of({**load("hardware", gpu), "tp": tp, "ep": ep}), model_of(load("model", model))
    tokens = np.arange(1, 8193)
    exact_ps = token_s(spec, shape, tokens.astype(float)) * 1e12
    error = np.abs(values_ps(built.token_table, tokens) - exact_ps) / exact_ps
    assert error.max() <= built.interpolation_error + 1e-4
    assert (np.diff(values_ps(built.token_table, tokens)) >= 0).all()


def test_capacity_is_the_stated_arithmetic():
    built, model = profile("h100", "llama3_70b", tp=4), model_of(load("model", "llama3_70b"))
    assert built.kv_capacity_tokens == int(((80e9 * 0.9 - 2e9) * 4 - model.weights * 2) // 327680)


@pytest.mark.parametrize(
    ("gpu", "model", "gpus"),
    [("h100", "llama3_8b", 1), ("h100", "llama3_70b", 4), ("h200", "llama3_70b", 2), ("l40s", "llama3_70b", 4),
     ("h200", "deepseek_v3", 8), ("gb200", "moe_10t", 64)],
)  # fmt: skip
def test_fewest_gpus_are_chosen(gpu, model, gpus):
    assert profile(gpu, model).gpus == gpus


def test_cache_is_shared_out_only_as_far_as_it_splits():
    spec = gpu_of({**load("hardware", "h100"), "tp": 16})
    assert kv_shards(spec, model_of(load("model", "llama3_70b"))) == 8
    assert kv_shards(spec, model_of(load("model", "deepseek_v3"))) == 1


def test_a_model_that_does_not_fit_is_refused_with_the_arithmetic():
    with pytest.raises(
        ConfigError, match=r"llama3_70b needs 141\.1 GB .* on 1 x l40s with 43\.2 GB usable .*tp=4 or more"
    ):
        profile("l40s", "llama3_70b", tp=1)
    profile("l40s", "llama3_70b", tp=4)
    with pytest.raises(ConfigError, match="hardware.tp=8 hardware.ep=256 or more"):
        profile("h100", "moe_100t")  # not even on the 8 GPUs of a node
    profile("h100", "moe_100t", tp=8, ep=256)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"tp": 3}, "must divide the 32 heads"), ({"ep": 2}, "1 for a dense model"), ({"tp": 0}, "hardware.tp must be"),
     ({"efficiency": {"compute": 2}}, "needs attention, memory, link"),
     ({"memory": 1}, "Did you mean hardware.memory_bytes"),
     ({"efficiency": 0.5}, "must be a mapping"), ({"gpu_memory_utilization": 1.1}, "at most 1")],
)  # fmt: skip
def test_bad_specs_are_refused(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        profile("h100", "llama3_8b", **changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"dtype": "int3"}, "model.dtype must be one of"), ({"kv_heads": 5}, "multiple of model.kv_heads"),
     ({"experts": 8}, "active_experts"), ({"kv_lora_rank": 512}, "rope_dim"),
     ({"layer": 3}, "Did you mean model.layers")],
)  # fmt: skip
def test_bad_models_are_refused(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        model_of({**load("model", "llama3_8b"), **changes})


def test_more_gpus_are_faster_and_experts_saturate():
    assert prefill_s(profile("h100", "llama3_8b", tp=2), 8192) < prefill_s(profile("h100", "llama3_8b"), 8192)
    experts = model_of(load("model", "deepseek_v3")).distinct_experts(np.array([1.0, 2.0, 1e6]))
    assert experts == pytest.approx([8, 15.75, 256])


def test_distance_to_mooncake():
    """Source: Mooncake (FAST 2025) Fig. 14, 8 x A800; the sheet is 5 to 12 % slow, no number fitted to it."""
    built = profile("a800", "llama3_70b", tp=8)
    for thousand, measured_s in {8: 1.002, 16: 2.056, 32: 4.479, 64: 10.587, 128: 27.51}.items():
        assert prefill_s(built, thousand * 1024) == pytest.approx(measured_s, rel=0.13)


@pytest.mark.parametrize("gpu", ["a100", "h100"])
def test_distance_to_splitwise(gpu):
    """Predict prefill of 512 to 2048 tokens after setting host_s from the decode time of one request.

    That engine of 2023 launched kernels one by one, so its host time is taken from the file; all else is the sheet.
    The worst point is 16 % off. Beyond 2048 tokens its times on 4 and 8 GPUs grow faster than arithmetic does (the
    sheet is up to 36 % low on A100 and 52 % on H100), and below 512 its launches dominate: neither is compared.
    """
    path = recorded("measured/splitwise-sim/perf_model.csv")
    rows = pl.read_csv(path, infer_schema_length=None).filter(
        (pl.col("model") == "llama2-70b") & (pl.col("hardware") == f"{gpu}-80gb") & (pl.col("batch_size") == 1)
    )
    errors = []
    for tp in (2, 4, 8):
        part = rows.filter(pl.col("tensor_parallel") == tp)
        token_ms = part.filter((pl.col("prompt_size") == 512) & (pl.col("token_size") == 128))["token_time"].median()
        host_s = token_ms / 1e3 - decode_s(profile(gpu, "llama2_70b", tp=tp, host_s=0.0), 512)
        built = profile(gpu, "llama2_70b", tp=tp, host_s=host_s)
        for prompt in (512, 1024, 2048):
            measured_s = part.filter(pl.col("prompt_size") == prompt)["prompt_time"].median() / 1e3
            errors.append(prefill_s(built, prompt) / measured_s - 1)
    assert len(errors) == 9 and max(map(abs, errors)) < 0.2 and np.mean(np.abs(errors)) < 0.12, errors


@pytest.mark.parametrize("gpu", ["h100", "h200"])
def test_distance_to_served_runs(gpu):
    """Median of predicted / measured TPOT of served Llama 3 70B in FP8; aggregated runs also pay for prefill."""
    path = recorded("measured/aiconfigurator/silicon_sample.parquet")
    rows = pl.read_parquet(path).filter(
        (pl.col("mode") == "agg") & (pl.col("model_path") == "meta-llama/Llama-3.1-70B") & (pl.col("backend") == "vllm")
        & (pl.col("system") == f"{gpu}_sxm") & (pl.col("gemm_quant_mode") == "fp8")
    )  # fmt: skip
    model = node("model", {"base": "llama3_70b", "dtype": "fp8"})
    profiles = {
        tp: build({"hardware": node("hardware", {"base": gpu, "tp": tp}), "model": model})
        for tp in rows["tp_size"].unique()
    }
    ratios = []
    for row in rows.iter_rows(named=True):
        context_tokens = row["isl"] + row["osl"] // 2
        predicted_s = decode_s(profiles[row["tp_size"]], context_tokens, row["batch_size"])
        ratios.append(predicted_s * 1e3 / row["silicon_tpot_ms"])
    assert len(ratios) > 10 and 0.8 < np.median(ratios) < 1.1, np.median(ratios)

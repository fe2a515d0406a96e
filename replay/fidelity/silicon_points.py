"""Read measured end-to-end points of served models: what was served how, and its TTFT and TPOT.

A point is one closed loop at a fixed concurrency. Public benchmark runs (InferenceX, formerly InferenceMAX) draw each
prompt and output uniformly from 80 to 100 % of the stated lengths, count every request from the first burst on, and
say in their launch scripts what is served how. The other sources use exact lengths; they are taken to be launched and
driven as AIConfigurator, which published them, launches and drives engines.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from replay.errors import ConfigError
from replay.fidelity.asked import Asked
from replay.fidelity.hosts import OTHER, PUBLISHED

MS_PER_S = 1e3
POINTS = "silicon_sample.parquet"
SHORTEST = 0.8  # source : InferenceMAX README, RANDOM_RANGE_RATIO
# source : SemiAnalysisAI/InferenceX, benchmarks/*.sh: type of the cache by model (SGLang on H200 leaves it alone), and
# tokens of one iteration by engine and model
CACHE_DTYPES = {"llama3_70b": "fp8", "deepseek_v3": "fp8"}
PLAIN_CACHE = ("sglang", "h200_sxm")
BUDGETS = {("trtllm", "llama3_70b"): 16384, ("sglang", "deepseek_v3"): 32768, ("vllm", "minimax_m2"): 16384}
BUDGET = 8192  # of the other scripts, and the default of the engines on these GPUs
# source : ai-dynamo/aiconfigurator, generator/rule_plugin: max_num_tokens is prompt + 1,500 + max_batch_size, of
# TensorRT-LLM without chunks of prompts, so that the batch takes nothing of it; the client of its eval (genai-perf)
# warms up with twice as many requests as are under way at once
MARGIN = 1500
MARGINS = ("vllm", "trtllm")
WARM_UP = 2
# Who forms a batch while the one before runs. source : --async-scheduling in InferenceX's scripts of vLLM (from 0.14 on
# the default); the overlap schedulers of TensorRT-LLM and SGLang, on by default
AHEAD = (("vllm", PUBLISHED), ("trtllm", PUBLISHED), ("trtllm", OTHER), ("sglang", PUBLISHED), ("sglang", OTHER))
PUBLIC = re.compile(r"^(db-dump|source_file=\d{4}-\d{2}-\d{2}\.csv)")
# Path of a model -> its shape in conf/model, and its numbers where weights are stored as published.
MODELS = {
    "meta-llama/Llama-3.1-70B": ("llama3_70b", {}),
    "meta-llama/Llama-3.1-8B-Instruct": ("llama3_8b", {}),
    "nvidia/Llama-3.1-8B-Instruct-FP8": ("llama3_8b", {}),
    "Qwen/Qwen3-32B": ("qwen3_32b", {}),
    "nvidia/Qwen3-32B-NVFP4": ("qwen3_32b", {}),
    "Qwen/Qwen3-235B-A22B-FP8": ("qwen3_235b", {"fp8": "fp8_block"}),
    "MiniMaxAI/MiniMax-M2.5": ("minimax_m2", {"fp8": "fp8_block"}),
    "deepseek-ai/DeepSeek-R1": ("deepseek_v3", {"fp8": "fp8_block"}),
    "deepseek-ai/DeepSeek-V3": ("deepseek_v3", {"fp8": "fp8_block"}),
    "nvidia/DeepSeek-R1-NVFP4": ("deepseek_v3", {}),
    "nvidia/DeepSeek-V3.1-NVFP4": ("deepseek_v3", {}),
    "moonshotai/Kimi-K2.5": ("kimi_k2", {}),
}
SHAPELESS = {
    "openai/gpt-oss-120b": "attention over a window in every other layer is in no model's shape",
    "Qwen/Qwen3.5-397B-A17B": "linear attention is in no model's shape",
    "zhipuai/GLM-5": "sparse attention is in no model's shape",
}
DENSE = ("llama3_70b", "llama3_8b", "qwen3_32b")
# gemm_quant_mode of a row -> types of numbers of GEMMs and of weights
QUANTITIES = {None: ("bfloat16", "bf16"), "fp8": ("fp8", "fp8"), "fp8_block": ("fp8_block", "fp8"),
              "nvfp4": ("nvfp4", "fp4"), "int4_wo": ("bfloat16", "fp4")}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One measured run: `prefill` x and `decode` x instances, or `decode` None and `prefill` x mixed ones.

    prefill, decode       : instance and number of them
    shortest              : least share of the stated lengths that a request may have
    launch                : how it was launched, as `replay.fidelity.hosts` names it
    warm_up               : turns of each client that do not count
    token_budget          : tokens of one iteration
    plan_ahead            : the batch of an iteration is formed while the one before runs
    ttft_s, tpot_s        : measured
    """

    id: str
    model: str
    backend: str
    prefill: tuple[Asked, int]
    decode: tuple[Asked, int] | None
    concurrency: int
    prompt_tokens: int
    output_tokens: int
    shortest: float
    launch: str
    warm_up: int
    token_budget: int
    ttft_s: float
    tpot_s: float
    plan_ahead: bool = False


def read(folder: str | Path) -> pl.DataFrame:
    """Read the measured points below a folder.

    raises : ConfigError if there are none, or a column is missing
    """
    path = Path(folder) / POINTS
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"the measured points cannot be read from '{path}': {str(error).splitlines()[0]}.") from None
    needed = ("id", "model_path", "system", "backend", "mode", "isl", "osl", "silicon_ttft_ms", "silicon_tpot_ms")
    if missing := [name for name in needed if name not in frame.columns]:
        raise ConfigError(f"the measured points in {path.name} must have the column {missing[0]}, but have not.")
    return frame


def point(row: Mapping[str, Any]) -> Point:
    """Make a point of a row.

    raises : ConfigError, with the reason, for a row that cannot be predicted
    """
    path = row["model_path"]
    if path not in MODELS:
        raise ConfigError(SHAPELESS.get(path, f"there is no shape of {path}"))
    split = row["mode"] == "disagg"
    sides = ("prefill_", "decode_") if split else ("",)
    if split and not (row["prefill_num_workers"] and row["decode_num_workers"]):
        raise ConfigError("the row does not say how many instances prefill and decode")
    instances = [(_asked(row, side), int(row[f"{side}num_workers"]) if split else 1) for side in sides]
    public = is_public(row)
    launch = PUBLISHED if public else OTHER
    concurrency = _concurrency(row, instances[-1])
    return Point(
        id=row["id"],
        model=MODELS[path][0],
        backend=row["backend"],
        prefill=instances[0],
        decode=instances[1] if split else None,
        concurrency=concurrency,
        prompt_tokens=int(row["isl"]),
        output_tokens=int(row["osl"]),
        shortest=SHORTEST if public else 1.0,
        launch=launch,
        warm_up=0 if public else WARM_UP,
        token_budget=_budget(row, MODELS[path][0], concurrency / (instances[-1][0].ep * instances[-1][1])),
        ttft_s=row["silicon_ttft_ms"] / MS_PER_S,
        tpot_s=row["silicon_tpot_ms"] / MS_PER_S,
        plan_ahead=(row["backend"], launch) in AHEAD,
    )


def _budget(row: Mapping[str, Any], model: str, batch: float) -> int:
    """Return the tokens of an iteration of one group of GPUs with a batch of so many requests."""
    if is_public(row):
        return BUDGETS.get((row["backend"], model), BUDGET)
    if row["backend"] not in MARGINS:
        return BUDGET
    return int(row["isl"]) + MARGIN + (int(batch) if row["backend"] == "vllm" and row["mode"] == "agg" else 0)


def is_public(row: Mapping[str, Any]) -> bool:
    """Return whether a row comes from public benchmark runs."""
    return bool(PUBLIC.match(row["silicon_data_source"] or ""))


def _asked(row: Mapping[str, Any], side: str) -> Asked:
    model, stored = MODELS[row["model_path"]]
    mode = row["gemm_quant_mode"]
    if mode not in QUANTITIES:
        raise ConfigError(f"numbers in {mode} are not known")
    gemm, dtype = QUANTITIES[mode]
    tp, groups, experts = (int(row[f"{side}{name}"] or 1) for name in ("tp_size", "attention_dp_size", "moe_ep_size"))
    if experts > 1 and row[f"{side}moe_tp_size"] == experts and tp * groups == experts**2:
        # Scripts say tp n and ep n of the same n GPUs, which these rows multiply to n x n.
        tp, groups = max(1, tp // experts), max(1, groups // experts)
    if row[f"{side}pp_size"] not in (None, 1):
        raise ConfigError("pipeline stages are not modelled")
    if model in DENSE and groups > 1:
        raise ConfigError("groups of a dense model are not modelled")
    return Asked(
        gpu=row["system"],
        model=model,
        tp=tp,
        ep=groups,
        moe_ep=None if model in DENSE else experts,
        backend=row["backend"],
        version=row["backend_version"],
        dtype=dtype,
        kv_dtype=CACHE_DTYPES.get(model) if is_public(row) and (row["backend"], row["system"]) != PLAIN_CACHE else None,
        gemm=stored.get(gemm, gemm),
        moe="int4_wo" if mode == "int4_wo" else None,
    )


def _concurrency(row: Mapping[str, Any], instance: tuple[Asked, int]) -> int:
    stated = re.search(r"silicon_concurrency=(\d+)", row["silicon_data_source"] or "") or re.search(r"_c(\d+)_",
                                                                                                  row["id"])
    if stated:
        return int(stated.group(1))
    asked, number_of = instance
    each = row["decode_batch_size"] if row["mode"] == "disagg" else row["batch_size"]
    if not each:
        raise ConfigError("the row does not say how many requests were under way")
    return int(each) * asked.ep * number_of

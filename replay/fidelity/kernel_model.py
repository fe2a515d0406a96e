"""Compose what an iteration costs from the kernels that it runs.

A layer: norm, qkv GEMM, attention (of prompt chunks and of decodes, one after the other), output GEMM, all-reduce,
norm, gate-up GEMM, activation, down GEMM or experts, all-reduce. Once an iteration: embedding, output projection of
the last token of each request, and the host. Latent attention is measured as a whole, with its GEMMs, where there is a
table of that; else from its parts.

Rules where nothing was measured: a chunk after cached tokens costs the difference of two whole prompts, at least what
its tokens alone cost; small kernels move their bytes at the stated share of the memory's bandwidth and cost a constant
launch each; the host costs what `replay.fidelity.hosts` says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from replay.errors import ConfigError
from replay.fidelity.hosts import Host
from replay.fidelity.iterations import Iterations
from replay.fidelity.kernel_costs import FULL, WINDOW, Costs
from replay.hardware.model import Model

HALF = "bfloat16"
HALF_BYTES = 2.0
# Of the model's weights -> tables of GEMMs and experts that serve them, the first that was measured.
GEMM_DTYPES = {"bf16": (HALF,), "fp8": ("fp8", "fp8_block"), "fp4": ("nvfp4",)}
EXPERT_DTYPES = {"bf16": (HALF,), "fp8": ("fp8_block", "fp8"), "fp4": ("nvfp4", "w4a16_mxfp4", "int4_wo")}
STAND_INS = {"fp8_block": "fp8"}  # where a table was timed with its launches, which a graph of kernels does not pay
KV_DTYPES = {"bf16": HALF, "fp8": "fp8", "fp4": "fp8"}
NORM_READS, ACTIVATION_READS = 4, 3  # hidden or feed-forward numbers that a small kernel reads and writes


@dataclass(frozen=True)
class Split:
    """How one instance spreads over GPUs: tp x dp = expert_tp x expert_ep.

    tp : GPUs that share a request's attention and the dense layers     dp : groups of these, each with its own requests
    expert_tp, expert_ep : parts into which each expert is cut, and groups over which the experts are spread
    """

    tp: int
    dp: int = 1
    expert_tp: int = 1
    expert_ep: int = 1

    @property
    def gpus(self) -> int:
        """GPUs of the instance."""
        return self.tp * self.dp


def split(tp: int, ep: int) -> Split:
    """Return the split of a `hardware` node: ep groups of tp GPUs; experts spread over all where ep is above 1."""
    return Split(tp, ep, *((1, tp * ep) if ep > 1 else (tp, 1)))


@dataclass(frozen=True)
class Composed:
    """What an iteration of a model costs on some GPUs.

    numbers : gemm, moe and kv: types of numbers as the tables name them
    host    : what it adds to an iteration and its requests, not hidden behind the GPU
    notes   : what else a reader has to know
    raises  : ConfigError where a kernel was not measured
    """

    costs: Costs
    model: Model
    split: Split
    numbers: Mapping[str, str]
    host: Host
    notes: tuple[str, ...] = ()

    def seconds(self, asked: Iterations) -> np.ndarray:
        """Cost iterations.

        returns : float64 (num_iterations,) [s]
        """
        tokens = (asked.prefill_tokens + asked.decoding) / self.split.dp
        rows = np.maximum((asked.prompts + asked.decoding) / self.split.dp, 1.0)
        attention = self.model.layers * (self._context_s(asked) + self._generation_s(asked))
        host_s = self.host.iteration_s + self.host.request_s * asked.decoding / self.split.dp
        return host_s + self._tokens_s(np.maximum(tokens, 1.0)) + self._head_s(rows) + attention

    def _tokens_s(self, tokens: np.ndarray) -> np.ndarray:
        model, numbers = self.model, tokens * self.model.hidden
        reduce_s = self.costs.all_reduce_s(self.split.tp, numbers)
        layer_s = reduce_s + 2 * self._small_s(tokens, NORM_READS * model.hidden) + self._projections_s(tokens)
        dense_s = self._feed_forward_s(tokens, model.ffn) + reduce_s
        total = model.layers * layer_s + (model.layers - model.mixture_layers) * dense_s
        if model.mixture_layers:
            total = total + model.mixture_layers * self._mixture_s(tokens)
        return total + self._small_s(tokens, 2 * model.hidden) + reduce_s  # embedding, spread over the vocabulary

    def _projections_s(self, tokens: np.ndarray) -> np.ndarray:
        model, tp = self.model, self.split.tp
        gemm = self.numbers["gemm"]
        if not model.kv_lora_rank:
            width = (model.heads // tp + 2 * self._kv_heads) * model.head_dim
            return (self.costs.gemm_s(gemm, tokens, width, model.hidden)
                    + self.costs.gemm_s(gemm, tokens, model.hidden, model.heads // tp * model.head_dim))
        if self._whole_latent:
            return np.zeros_like(tokens)
        heads, rank = model.heads // tp, model.q_lora_rank or model.hidden
        down = model.q_lora_rank + model.kv_lora_rank + model.rope_dim
        return (self.costs.gemm_s(gemm, tokens, down, model.hidden)
                + self.costs.gemm_s(gemm, tokens, heads * (model.head_dim + model.rope_dim), rank)
                + self.costs.gemm_s(gemm, tokens, heads * (model.head_dim + model.value_dim), model.kv_lora_rank)
                + self.costs.gemm_s(gemm, tokens, model.hidden, heads * model.value_dim))  # fmt: skip

    def _feed_forward_s(self, tokens: np.ndarray, width: int) -> np.ndarray:
        of_gpu = max(width // self.split.tp, 1)
        return (self.costs.gemm_s(self.numbers["gemm"], tokens, 2 * of_gpu, self.model.hidden)
                + self._small_s(tokens, ACTIVATION_READS * of_gpu)
                + self.costs.gemm_s(self.numbers["gemm"], tokens, self.model.hidden, of_gpu))  # fmt: skip

    def _mixture_s(self, tokens: np.ndarray) -> np.ndarray:
        model, split_ = self.model, self.split
        shape = experts_shape(model, split_) | {"moe_dtype": self.numbers["moe"]}
        every = tokens * split_.dp
        seconds = self.costs.experts_s(shape, every) + self.costs.gemm_s(HALF, tokens, model.experts, model.hidden)
        if model.shared_experts:
            seconds = seconds + self._feed_forward_s(tokens, model.shared_experts * model.expert_ffn)
        if split_.dp == 1:
            return seconds + self.costs.all_reduce_s(split_.tp, tokens * model.hidden)
        numbers = every * model.hidden
        return (seconds + self.costs.collective_s("all_gather", split_.gpus, numbers)
                + self.costs.collective_s("reduce_scatter", split_.gpus, numbers))  # fmt: skip

    def _head_s(self, rows: np.ndarray) -> np.ndarray:
        return self.costs.gemm_s(HALF, rows, self.model.vocab // self.split.tp, self.model.hidden)

    def _context_s(self, asked: Iterations) -> np.ndarray:
        seconds = np.zeros(len(asked))
        some = asked.where(asked.prompts > 0)
        if len(some):
            prompts = np.maximum(some.prompts / self.split.dp, 1.0)
            alone = self.costs.context_s(self._shape, prompts, some.chunk)
            whole = self.costs.context_s(self._shape, prompts, some.cached + some.chunk)
            before = np.where(some.cached > 0, self.costs.context_s(self._shape, prompts, some.cached), 0.0)
            seconds[asked.prompts > 0] = np.maximum(alone, whole - before)
        return seconds

    def _generation_s(self, asked: Iterations) -> np.ndarray:
        seconds = np.zeros(len(asked))
        some = asked.where(asked.decoding > 0)
        if len(some):
            requests = np.maximum(some.decoding / self.split.dp, 1.0)
            seconds[asked.decoding > 0] = self.costs.generation_s(self._shape, requests, some.context)
        return seconds

    def _small_s(self, tokens: np.ndarray, numbers: float) -> np.ndarray:
        launch_s, bytes_per_s = self._memory
        return launch_s + tokens * numbers * HALF_BYTES / bytes_per_s

    @property
    def _kv_heads(self) -> int:
        return max(1, self.model.kv_heads // self.split.tp)

    @cached_property
    def _memory(self) -> tuple[float, float]:
        gpu = self.costs.tables.system()["gpu"]
        share = float(gpu.get("mem_bw_empirical_scaling_factor", 1.0))
        return float(gpu.get("mem_empirical_constant_latency", 0.0)), float(gpu["mem_bw"]) * share

    @cached_property
    def _whole_latent(self) -> bool:
        return bool(self.model.kv_lora_rank) and self.costs.tables.has("mla_context_module_perf")

    @cached_property
    def _shape(self) -> dict[str, Any]:
        model, heads, kv = self.model, self.model.heads // self.split.tp, self.numbers["kv"]
        if not model.kv_lora_rank:
            return {"num_heads": heads, "num_key_value_heads": self._kv_heads, "head_dim": model.head_dim,
                    WINDOW: FULL, "kv_cache_dtype": kv}  # fmt: skip
        shape: dict[str, Any] = {"num_heads": heads, "kv_cache_dtype": kv}
        if self._whole_latent:
            shape["gemm_type"] = "fp8_block" if self.numbers["gemm"].startswith("fp8") else self.numbers["gemm"]
            known = set(self.costs.tables.read("mla_context_module_perf")["gemm_type"].unique())
            if shape["gemm_type"] not in known:
                shape["gemm_type"] = HALF
        return shape


def experts_shape(model: Model, split_: Split) -> dict[str, Any]:
    """Return how the table of experts names those of a model."""
    return {"hidden_size": model.hidden, "inter_size": model.expert_ffn, "topk": model.active_experts,
            "num_experts": model.experts, "moe_tp_size": split_.expert_tp, "moe_ep_size": split_.expert_ep}


def composed(costs: Costs, model: Model, split_: Split, host: Host, wanted: Mapping[str, str]) -> Composed:
    """Compose a model from the kernels of a GPU, in the numbers of its weights.

    wanted : gemm, moe or kv: types of numbers to use instead
    raises : ConfigError for a split that does not divide the model, or numbers that were not measured
    """
    _check_split(model, split_)
    gemm = wanted.get("gemm") or _first(GEMM_DTYPES[model.dtype], costs.gemm_dtypes(), "GEMMs", costs)
    notes: tuple[str, ...] = ()
    if gemm in STAND_INS and costs.launch_bound(gemm):
        notes = (f"GEMMs in {gemm} were timed with their launches: {STAND_INS[gemm]} stands in",)
        gemm = STAND_INS[gemm]
    moe = wanted.get("moe") or HALF
    if model.experts and not wanted.get("moe"):
        measured = costs.expert_dtypes(experts_shape(model, split_))
        moe = _first(EXPERT_DTYPES[model.dtype], measured, f"the experts of {model.name}", costs)
    kv = wanted.get("kv") or KV_DTYPES[model.kv_dtype]
    return Composed(costs, model, split_, {"gemm": gemm, "moe": moe, "kv": kv}, host, notes)


def _first(wanted: tuple[str, ...], measured: list[str], what: str, costs: Costs) -> str:
    for dtype in wanted:
        if dtype in measured:
            return dtype
    there = ", ".join(measured) or "no type for this split"
    raise ConfigError(f"{what} must have been measured in {' or '.join(wanted)} on {costs.tables.gpu}, but are there "
                      f"in {there} only. Choose another dtype, tp or ep.")


def _check_split(model: Model, split_: Split) -> None:
    if model.heads % split_.tp:
        raise ConfigError(f"tp must divide the {model.heads} heads of model {model.name}, but is {split_.tp}.")
    if split_.tp > model.kv_heads and split_.tp % model.kv_heads and not model.kv_lora_rank:
        raise ConfigError(f"tp must be a multiple of the {model.kv_heads} key heads of model {model.name} where it is "
                          f"more, but is {split_.tp}.")
    if split_.dp > 1 and not model.experts:
        raise ConfigError(f"ep must be 1 for the dense model {model.name}, but is {split_.dp}. Use tp.")
    if model.experts and split_.gpus != split_.expert_tp * split_.expert_ep:
        raise ConfigError(f"experts must be spread over all {split_.gpus} GPUs of an instance, but "
                          f"{split_.expert_tp} x {split_.expert_ep} are asked for.")

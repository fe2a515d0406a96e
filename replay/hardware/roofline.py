"""A profile from a spec sheet: every part of an iteration takes the longer of its arithmetic and its memory traffic.

Stated efficiencies scale the sheet's peaks. Not modelled: overlap of links and arithmetic, unequal load of experts or
of data-parallel groups, the arithmetic of the output projection, and the cached keys that a prefill chunk reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from replay.errors import ConfigError
from replay.hardware.compile import compile_table
from replay.hardware.fields import POWER, count, keys, number, watts
from replay.hardware.model import BYTES, Model, model_of
from replay.hardware.profile import Profile, table
from replay.hardware.units import fs, ps

ACTIVATION_BYTES = 2.0
DISPATCH_BYTES = 1.0
AMOUNTS = ("memory_bytes", "memory_bytes_per_s", "link_bytes_per_s", "nic_bytes_per_s")
TIMES = ("link_latency_s", "nic_latency_s", "host_s", "layer_s")
CACHE_SHARE = 0.1
COUNTS = ("gpus_per_node", "tp", "ep")
EFFICIENCIES = ("compute", "attention", "memory", "link")
OTHERS = ("flops_per_s", "efficiency", "gpu_memory_utilization", "reserve_bytes", "price_per_gpu_hour")


@dataclass(frozen=True)
class Gpu:
    """A spec sheet, its efficiencies applied, and how many GPUs make an instance.

    tp : GPUs that share every layer        ep : groups of tp GPUs; experts spread over all, the rest is repeated
    link_bytes_per_s : of one GPU, one way, inside a node; nic_bytes_per_s : of one GPU, one way, between nodes
    """

    name: str
    flops_per_s: Mapping[str, float]
    attention_flops_per_s: float
    memory_bytes: float
    memory_bytes_per_s: float
    link_bytes_per_s: float
    link_latency_s: float
    nic_bytes_per_s: float
    nic_latency_s: float
    gpus_per_node: int
    tp: int
    ep: int
    usable_bytes: float
    reserve_bytes: float
    host_s: float
    layer_s: float
    price_per_gpu_hour: float

    @property
    def gpus(self) -> int:
        """GPUs of one instance."""
        return self.tp * self.ep


def roofline(node: Mapping[str, Any], model_node: Mapping[str, Any]) -> Profile:
    """Compile a spec sheet and a model into a profile.

    node       : `hardware` node of kind roofline        model_node : `model` node
    returns    : Profile; its interpolation_error is that of token_table and of rounding the other coefficients
    raises     : ConfigError for an unknown key, a bad number, or a model that does not fit in memory
    source     : roofline (Williams et al., CACM 2009); the parts of an iteration as in Mooncake (FAST 2025) and Vidur
    """
    model, gpu = model_of(model_node), gpu_of(node)
    if node["tp"] is None:
        gpu = replace(gpu, tp=fewest_gpus(gpu, model))
    _check_split(gpu, model)
    capacity_tokens = kv_capacity_tokens(gpu, model)
    tokens, error = compile_table(lambda t: token_s(gpu, model, t))
    kv_ps, square_fs = ps(kv_token_s(gpu, model)), fs(prefill_token_sq_s(gpu, model))
    error = max(error, _rounding(kv_ps, kv_token_s(gpu, model) * 1e12))
    error = max(error, _rounding(square_fs, prefill_token_sq_s(gpu, model) * 1e15))
    return Profile(
        name=f"{gpu.gpus}x{gpu.name}/{model.name}",
        token_table=tokens,
        kv_table=table([(0, 0, kv_ps)]),
        prefill_token_ps=0,
        prefill_token_sq_fs=square_fs,
        decode_request_ps=0,
        kv_token_bytes=model.kv_token_bytes,
        kv_capacity_tokens=capacity_tokens,
        gpus=gpu.gpus,
        price_per_hour=gpu.gpus * gpu.price_per_gpu_hour,
        nic_bytes_per_s=gpu.gpus * gpu.nic_bytes_per_s,
        nic_latency_s=gpu.nic_latency_s,
        interpolation_error=error,
        provenance=f"roofline; {node.get('provenance', gpu.name)}; {model_node.get('provenance', model.name)}",
        **watts(node),  # type: ignore[arg-type]
    )


def gpu_of(node: Mapping[str, Any]) -> Gpu:
    """Read and check a `hardware` node of kind roofline.

    returns : Gpu, with tp 1 where the node leaves it null
    raises  : ConfigError for an unknown or missing key, or a number outside its range
    """
    keys(node, (*AMOUNTS, *TIMES, *COUNTS, *OTHERS), ("kind", "name", "provenance", *POWER), "hardware")
    _mapping(node, "flops_per_s")
    _mapping(node, "efficiency")
    keys(node["efficiency"], EFFICIENCIES, (), "hardware.efficiency")
    keys(node["flops_per_s"], ("bf16",), ("fp8", "fp4"), "hardware.flops_per_s")
    share = {key: _share(node["efficiency"][key], f"hardware.efficiency.{key}") for key in EFFICIENCIES}
    peak = {key: number(value, f"hardware.flops_per_s.{key}", above=0.0) for key, value in node["flops_per_s"].items()}
    amount = {key: number(node[key], f"hardware.{key}", above=0.0) for key in AMOUNTS}
    time = {key: number(node[key], f"hardware.{key}", most=3600.0) for key in TIMES}
    number_of = {key: count(node[key], f"hardware.{key}") for key in COUNTS if key != "tp" or node[key] is not None}
    return Gpu(
        name=str(node.get("name", "gpu")),
        flops_per_s={key: value * share["compute"] for key, value in peak.items()},
        attention_flops_per_s=peak["bf16"] * share["attention"],
        memory_bytes=amount["memory_bytes"],
        memory_bytes_per_s=amount["memory_bytes_per_s"] * share["memory"],
        link_bytes_per_s=amount["link_bytes_per_s"] * share["link"],
        nic_bytes_per_s=amount["nic_bytes_per_s"] * share["link"],
        usable_bytes=amount["memory_bytes"] * _share(node["gpu_memory_utilization"], "hardware.gpu_memory_utilization"),
        reserve_bytes=number(node["reserve_bytes"], "hardware.reserve_bytes"),
        price_per_gpu_hour=number(node["price_per_gpu_hour"], "hardware.price_per_gpu_hour"),
        link_latency_s=time["link_latency_s"],
        nic_latency_s=time["nic_latency_s"],
        host_s=time["host_s"],
        layer_s=time["layer_s"],
        gpus_per_node=number_of["gpus_per_node"],
        tp=number_of.get("tp", 1),
        ep=number_of["ep"],
    )


def token_s(gpu: Gpu, model: Model, tokens: np.ndarray) -> np.ndarray:
    """Cost everything of an iteration that depends on its number of tokens, prefill and decode alike.

    tokens  : float64 (n,) read only
    returns : float64 (n,) [s]: host, weights or arithmetic of common layers and of experts, and links
    """
    weight_bytes = BYTES[model.dtype]
    flops_per_s = _flops_per_s(gpu, model.dtype)
    arithmetic_s = 2 * (tokens / gpu.ep) * model.common_weights / gpu.tp / flops_per_s
    common_bytes = (model.common_weights + model.head_weights) * weight_bytes / gpu.tp
    common_s = np.maximum(arithmetic_s, common_bytes / gpu.memory_bytes_per_s)
    one_layer = model.mixture_layers * model.expert_weights / gpu.gpus
    expert_s = np.maximum(
        2 * tokens * model.active_experts * one_layer / flops_per_s,
        model.distinct_experts(tokens) * one_layer * weight_bytes / gpu.memory_bytes_per_s,
    )
    return gpu.host_s + model.layers * gpu.layer_s + common_s + expert_s + _links_s(gpu, model, tokens)


def kv_token_s(gpu: Gpu, model: Model) -> float:
    """Cost one token of context in one decode iteration: reading its keys and values, or the arithmetic on them."""
    read_s = model.kv_token_bytes / kv_shards(gpu, model) / gpu.memory_bytes_per_s
    return max(read_s, model.decode_pair_flops / gpu.tp / gpu.attention_flops_per_s) / gpu.ep


def prefill_token_sq_s(gpu: Gpu, model: Model) -> float:
    """Cost one unit of b^2 - a^2: half the arithmetic of a pair of tokens, since attention is causal."""
    return model.prefill_pair_flops / 2 / gpu.gpus / gpu.attention_flops_per_s


def kv_shards(gpu: Gpu, model: Model) -> int:
    """Return into how many parts the tp GPUs of a group split a token's cache; a latent is repeated on each."""
    return 1 if model.kv_lora_rank else min(gpu.tp, model.kv_heads)


def gpu_weight_bytes(model: Model, tp: int, ep: int) -> float:
    """Return the bytes of weights that each GPU of an instance holds."""
    repeated = model.weights - model.routed_weights
    return (repeated / tp + model.routed_weights / (tp * ep)) * BYTES[model.dtype]


def kv_capacity_tokens(gpu: Gpu, model: Model) -> int:
    """Return how many tokens of context the memory left by weights and reserve holds.

    raises : ConfigError with the arithmetic and the least tp that fits
    """
    weight_bytes = gpu_weight_bytes(model, gpu.tp, gpu.ep)
    free_bytes = gpu.usable_bytes - weight_bytes - gpu.reserve_bytes
    tokens = int(free_bytes * kv_shards(gpu, model) * gpu.ep // model.kv_token_bytes)
    if free_bytes <= 0 or tokens < 1:
        raise ConfigError(
            f"model {model.name} needs {model.weight_bytes / 1e9:.1f} GB of weights "
            f"({weight_bytes / 1e9:.1f} GB a GPU, and {gpu.reserve_bytes / 1e9:.1f} GB reserved) "
            f"on {gpu.gpus} x {gpu.name} with {gpu.usable_bytes / 1e9:.1f} GB usable each: {_remedy(gpu, model)}."
        )
    return tokens


def fewest_gpus(gpu: Gpu, model: Model) -> int:
    """Choose tp: the least power of two that leaves a tenth of the usable memory to the cache, within a node.

    returns : a divisor of the model's heads; the largest of a node when none suffices
    """
    splits = [tp for tp in _splits(model) if tp <= gpu.gpus_per_node]
    for tp in splits:
        if gpu_weight_bytes(model, tp, gpu.ep) + gpu.reserve_bytes <= (1 - CACHE_SHARE) * gpu.usable_bytes:
            return tp
    return splits[-1]


def _splits(model: Model) -> list[int]:
    return [tp for tp in (2**power for power in range(13)) if model.heads % tp == 0]


def _remedy(gpu: Gpu, model: Model) -> str:
    def fits(tp: int, ep: int) -> bool:
        return gpu_weight_bytes(model, tp, ep) + gpu.reserve_bytes < gpu.usable_bytes

    for tp in _splits(model):
        if fits(tp, gpu.ep):
            return f"use hardware.tp={tp} or more"
    node_tp = max(tp for tp in _splits(model) if tp <= gpu.gpus_per_node)
    for ep in (2**power for power in range(13)):
        if ep <= model.experts and fits(node_tp, ep):
            return f"use hardware.tp={node_tp} hardware.ep={ep} or more"
    return "use a larger GPU, or a narrower model.dtype"


def _check_split(gpu: Gpu, model: Model) -> None:
    if model.heads % gpu.tp:
        raise ConfigError(f"hardware.tp must divide the {model.heads} heads of model {model.name}, but is {gpu.tp}.")
    if gpu.ep > max(1, model.experts):
        raise ConfigError(
            f"hardware.ep must be at most the {model.experts} experts of model {model.name} (1 for a dense model), but "
            f"is {gpu.ep}. Use hardware.tp for a dense model."
        )


def _links_s(gpu: Gpu, model: Model, tokens: np.ndarray) -> np.ndarray:
    seconds = np.zeros_like(tokens)
    if gpu.tp > 1:
        latency_s, bytes_per_s = _link(gpu, gpu.tp)
        ring_bytes = 2 * (gpu.tp - 1) / gpu.tp * (tokens / gpu.ep) * model.hidden * ACTIVATION_BYTES
        seconds += 2 * model.layers * (latency_s + ring_bytes / bytes_per_s)
    if gpu.ep > 1:
        latency_s, bytes_per_s = _link(gpu, gpu.gpus)
        away = model.active_experts * (1 - 1 / gpu.ep) * (DISPATCH_BYTES + ACTIVATION_BYTES)
        seconds += model.mixture_layers * (2 * latency_s + tokens / gpu.gpus * model.hidden * away / bytes_per_s)
    return seconds


def _link(gpu: Gpu, gpus: int) -> tuple[float, float]:
    if gpus <= gpu.gpus_per_node:
        return gpu.link_latency_s, gpu.link_bytes_per_s
    return gpu.nic_latency_s, gpu.nic_bytes_per_s


def _flops_per_s(gpu: Gpu, dtype: str) -> float:
    wider = [name for name in BYTES if name in gpu.flops_per_s and BYTES[name] >= BYTES[dtype]]
    return gpu.flops_per_s[wider[-1]]


def _rounding(rounded: int, exact: float) -> float:
    return abs(rounded - exact) / exact


def _share(value: Any, place: str) -> float:
    return number(value, place, above=0.0, most=1.0)


def _mapping(node: Mapping[str, Any], key: str) -> None:
    if not isinstance(node[key], Mapping):
        raise ConfigError(f"hardware.{key} must be a mapping, but is {node[key]!r}.")

"""A transformer's shape: how many weights it has, which of them a batch touches, what a token caches."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from replay.errors import ConfigError
from replay.hardware.fields import count, keys

BYTES = {"bf16": 2.0, "fp8": 1.0, "fp4": 0.5}
GATED_MATRICES = 3
SHAPE = ("layers", "hidden", "heads", "head_dim", "ffn", "vocab")
MIXTURE = ("experts", "active_experts", "shared_experts", "expert_ffn", "dense_layers")
LATENT = ("kv_lora_rank", "q_lora_rank", "rope_dim", "value_dim")
TYPES = ("dtype", "kv_dtype")


@dataclass(frozen=True)
class Model:
    """The shape of a decoder-only transformer with gated feed-forward layers.

    experts      : 0 for a dense model; then active_experts of them run for each token, and shared_experts for all
    dense_layers : first layers of a mixture that are dense, with width ffn
    kv_lora_rank : 0 for grouped-query attention; else multi-head latent attention, with head_dim without rotation
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    dtype: str
    kv_dtype: str
    tied_embedding: bool = False
    experts: int = 0
    active_experts: int = 0
    shared_experts: int = 0
    expert_ffn: int = 0
    dense_layers: int = 0
    kv_lora_rank: int = 0
    q_lora_rank: int = 0
    rope_dim: int = 0
    value_dim: int = 0

    @property
    def mixture_layers(self) -> int:
        """Layers with experts."""
        return self.layers - self.dense_layers if self.experts else 0

    @property
    def expert_weights(self) -> int:
        """Weights of one expert of one layer."""
        return GATED_MATRICES * self.hidden * self.expert_ffn

    @property
    def routed_weights(self) -> int:
        """Weights of all routed experts of all layers."""
        return self.mixture_layers * self.experts * self.expert_weights

    @property
    def attention_weights(self) -> int:
        """Weights of one layer's attention."""
        if not self.kv_lora_rank:
            return self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        query_dim = self.heads * (self.head_dim + self.rope_dim)
        query = self.q_lora_rank * (self.hidden + query_dim) if self.q_lora_rank else self.hidden * query_dim
        latent = self.hidden * (self.kv_lora_rank + self.rope_dim)
        expand = self.kv_lora_rank * self.heads * (self.head_dim + self.value_dim)
        return query + latent + expand + self.heads * self.value_dim * self.hidden

    @property
    def common_weights(self) -> int:
        """Weights that every token passes: attention, dense feed-forward, shared experts and the gate."""
        dense = (self.layers - self.mixture_layers) * GATED_MATRICES * self.hidden * self.ffn
        shared = self.mixture_layers * (self.shared_experts * self.expert_weights + self.hidden * self.experts)
        return self.layers * self.attention_weights + dense + shared

    @property
    def head_weights(self) -> int:
        """Weights of the output projection, read once an iteration."""
        return self.vocab * self.hidden

    @property
    def weights(self) -> int:
        """All weights, embedding included; norms, far below a thousandth, are not counted."""
        embedding = 0 if self.tied_embedding else self.head_weights
        return self.common_weights + self.routed_weights + self.head_weights + embedding

    @property
    def active_weights(self) -> int:
        """Weights that one token passes, embeddings included."""
        return self.weights - self.routed_weights + self.mixture_layers * self.active_experts * self.expert_weights

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights."""
        return self.weights * BYTES[self.dtype]

    @property
    def kv_token_bytes(self) -> int:
        """Bytes that one token caches over all layers."""
        numbers = self.kv_lora_rank + self.rope_dim if self.kv_lora_rank else 2 * self.kv_heads * self.head_dim
        return int(self.layers * numbers * BYTES[self.kv_dtype])

    @property
    def prefill_pair_flops(self) -> int:
        """Flops of attention between one query token and one earlier token, over all layers, when prefilling."""
        width = self.head_dim + self.rope_dim + self.value_dim if self.kv_lora_rank else 2 * self.head_dim
        return 2 * self.layers * self.heads * width

    @property
    def decode_pair_flops(self) -> int:
        """The same when decoding; latent attention then works on the cached latent itself."""
        width = 2 * self.kv_lora_rank + self.rope_dim if self.kv_lora_rank else 2 * self.head_dim
        return 2 * self.layers * self.heads * width

    def distinct_experts(self, tokens: np.ndarray) -> np.ndarray:
        """Expect how many experts of a layer a batch touches, each token choosing uniformly without replacement.

        tokens  : float64 (n,) read only
        returns : float64 (n,), experts (1 - (1 - active / experts)^tokens): concave in tokens
        """
        if not self.experts:
            return np.zeros_like(tokens)
        return self.experts * (1 - (1 - self.active_experts / self.experts) ** tokens)


def model_of(node: Mapping[str, Any]) -> Model:
    """Read and check a `model` node.

    raises : ConfigError for an unknown or missing key, a number that is not whole and positive, an unknown dtype,
             or a mixture or latent attention described only in part
    """
    keys(node, (*SHAPE, *TYPES), ("name", "kv_heads", "tied_embedding", "provenance", *MIXTURE, *LATENT), "model")
    sizes = {key: count(node[key], f"model.{key}") for key in SHAPE}
    for key in (*MIXTURE, *LATENT):
        sizes[key] = count(node.get(key) or 0, f"model.{key}", least=0)
    sizes["kv_heads"] = count(node.get("kv_heads") or sizes["heads"], "model.kv_heads")
    for key in TYPES:
        if node[key] not in BYTES:
            raise ConfigError(f"model.{key} must be one of {', '.join(BYTES)}, but is {node[key]!r}.")
    tied = node.get("tied_embedding", False)
    if not isinstance(tied, bool):
        raise ConfigError(f"model.tied_embedding must be true or false, but is {tied!r}.")
    model = Model(
        name=str(node.get("name", "model")),
        dtype=node["dtype"],
        kv_dtype=node["kv_dtype"],
        tied_embedding=tied,
        **sizes,
    )
    _check(model)
    return model


def _check(model: Model) -> None:
    if model.heads % model.kv_heads:
        raise ConfigError(
            f"model.heads must be a multiple of model.kv_heads, but {model.heads} % {model.kv_heads} != 0."
        )
    if model.experts and not (0 < model.active_experts <= model.experts and model.expert_ffn > 0):
        raise ConfigError(
            f"a mixture needs 1 <= model.active_experts <= model.experts and model.expert_ffn > 0, but has "
            f"{model.active_experts}, {model.experts} and {model.expert_ffn}."
        )
    if model.dense_layers > model.layers:
        raise ConfigError(
            f"model.dense_layers must be at most model.layers, but {model.dense_layers} > {model.layers}."
        )
    if model.kv_lora_rank and not (model.rope_dim and model.value_dim):
        raise ConfigError("latent attention (model.kv_lora_rank > 0) needs model.rope_dim and model.value_dim above 0.")

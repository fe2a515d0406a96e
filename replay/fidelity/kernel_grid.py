"""Which kernels `kvreplay profile measure` times: those of one layer and of the head of a dense model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from replay.errors import ConfigError
from replay.hardware.model import Model

BYTES = 2  # of a bf16 number
TOKENS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
PROMPTS = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
PROMPT_BATCHES = (1, 2, 4, 8)
MOST_PROMPT_TOKENS = 32_768  # of a batch
STEPS = tuple(2**power - 1 for power in range(4, 18))  # 15 to 131,071 tokens of context before the one that is decoded
DECODE_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
KV_SHARE = 0.1  # of the GPU's memory: the longest contexts of a batch that are timed
COPY_BYTES = tuple(2**power for power in range(12, 31, 2))  # 4 KiB to 1 GiB
COLLECTIVE_NUMBERS = tuple(2**power for power in range(10, 27, 2))
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter")


@dataclass(frozen=True)
class Product:
    """A matrix product (m, k) x (k, n) of one GPU: m tokens, n numbers out, k in."""

    m: int
    n: int
    k: int


@dataclass(frozen=True)
class Attention:
    """Attention of one GPU's heads: whole prompts of `tokens` each, or one token each over `tokens` of context."""

    batch: int
    tokens: int
    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class Grid:
    """All that is timed."""

    products: tuple[Product, ...]
    prompts: tuple[Attention, ...]
    decodes: tuple[Attention, ...]


def grid(model: Model, splits: Sequence[int], memory_bytes: float) -> Grid:
    """Return the kernels of a model, for each number of GPUs that share a layer.

    splits       : values of tp, which `check` has found well
    memory_bytes : of the GPU; what would take too much of it is left out
    """
    shapes = dict.fromkeys(shape for tp in splits for shape in weights(model, tp))
    products = tuple(Product(m, n, k) for n, k in shapes for m in TOKENS)
    heads = dict.fromkeys((model.heads // tp, max(1, model.kv_heads // tp)) for tp in splits)
    prompts = tuple(Attention(batch, tokens, *one, model.head_dim) for one in heads for batch in PROMPT_BATCHES
                    for tokens in PROMPTS if batch * tokens <= MOST_PROMPT_TOKENS)  # fmt: skip
    decodes = tuple(one for shape in heads for one in _decodes(shape, model.head_dim, KV_SHARE * memory_bytes))
    return Grid(products, prompts, decodes)


def check(model: Model, splits: Sequence[int]) -> None:
    """Refuse what cannot be timed.

    raises : ConfigError for a mixture, latent attention, or a split that does not divide the heads
    """
    if model.experts or model.kv_lora_rank:
        raise ConfigError(f"kvreplay profile measure times dense models with grouped-query attention, but model "
                          f"{model.name} has {'experts' if model.experts else 'latent attention'}. Choose another, or "
                          f"build from published tables.")  # fmt: skip
    for tp in splits:
        if model.heads % tp:
            raise ConfigError(f"tp must divide the {model.heads} heads of model {model.name}, but is {tp}.")


def weights(model: Model, tp: int) -> list[tuple[int, int]]:
    """Return (n, k) of one GPU's matrices: queries, keys and values; output; gate and up; down; head."""
    width = model.heads // tp * model.head_dim
    kv_width = max(1, model.kv_heads // tp) * model.head_dim
    return [(width + 2 * kv_width, model.hidden), (model.hidden, width), (2 * model.ffn // tp, model.hidden),
            (model.hidden, model.ffn // tp), (model.vocab // tp, model.hidden)]  # fmt: skip


def _decodes(heads: tuple[int, int], head_dim: int, most_bytes: float) -> Iterator[Attention]:
    for batch in DECODE_BATCHES:
        for step in STEPS:
            if batch * (step + 1) * 2 * heads[1] * head_dim * BYTES <= most_bytes:
                yield Attention(batch, step + 1, *heads, head_dim)

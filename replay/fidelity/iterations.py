"""Sets of iterations in which a profile is fitted and shown: what each prefills and decodes."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

PROMPTS = (16, 32, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384)
CACHED = (0, 2048, 8192, 16384)
TOGETHER = (1, 4, 16)
DECODING = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
CONTEXTS = (128, 512, 1024, 2048, 4096, 8192, 16384, 32768)
BESIDE = (128, 512, 1024, 2048, 4096, 8192)
BESIDE_DECODING = (1, 4, 16, 64, 128, 256)
BESIDE_CONTEXTS = (512, 2048, 8192)


@dataclass(frozen=True)
class Iterations:
    """Iterations, one an element: `prompts` chunks of `chunk` tokens after `cached` ones; `decoding` with `context`.

    all : float64 (num_iterations,) read only
    """

    prompts: np.ndarray
    chunk: np.ndarray
    cached: np.ndarray
    decoding: np.ndarray
    context: np.ndarray

    @property
    def prefill_tokens(self) -> np.ndarray:
        """Prompt tokens computed: p of `replay.hardware.profile`."""
        return self.prompts * self.chunk

    @property
    def kv_tokens(self) -> np.ndarray:
        """Context read by the decodes: K."""
        return self.decoding * self.context

    @property
    def quadratic(self) -> np.ndarray:
        """Sum of b^2 - a^2 over the chunks [a, b): Q."""
        return self.prompts * ((self.cached + self.chunk) ** 2 - self.cached**2)

    def __len__(self) -> int:
        return len(self.prompts)

    def where(self, chosen: np.ndarray) -> "Iterations":
        """Return some of the iterations."""
        return Iterations(*(getattr(self, name)[chosen] for name in _FIELDS))


_FIELDS = ("prompts", "chunk", "cached", "decoding", "context")


def iterations(rows: Iterable[tuple[float, float, float, float, float]]) -> Iterations:
    """Make iterations of (prompts, chunk, cached, decoding, context)."""
    columns = np.array(list(rows), np.float64).reshape(-1, len(_FIELDS)).T
    return Iterations(*columns)


def fitted(kv_capacity_tokens: int) -> Iterations:
    """Return the iterations in which a profile is fitted: the grid of this module, as far as memory holds it.

    prefill alone : one prompt of 16 to 16,384 tokens after 0 to 16,384 cached; 4 or 16 prompts together
    decode alone  : batches of 1 to 512 with contexts of 128 to 32,768
    mixed         : chunks of 128 to 8,192 tokens beside 1 to 256 decodes
    """
    rows: list[tuple[float, float, float, float, float]] = []
    for together in TOGETHER:
        rows += [(together, chunk, cached, 0, 0) for chunk in PROMPTS if together * chunk <= PROMPTS[-1]
                 for cached in CACHED if together == 1 or cached == 0]  # fmt: skip
    rows += [(0, 0, 0, decoding, context) for decoding in DECODING for context in CONTEXTS]
    rows += [(1, chunk, 0, decoding, context) for chunk in BESIDE for decoding in BESIDE_DECODING
             for context in BESIDE_CONTEXTS]  # fmt: skip
    every = iterations(rows)
    held = every.kv_tokens + every.prompts * (every.cached + every.chunk)
    return every.where((held <= kv_capacity_tokens) | (every.decoding + every.prompts <= 1))

"""LRU hits at every capacity from one pass: reuse distances, counted in blocks or in tokens."""

from typing import NamedTuple

import numpy as np

from traces import reuse_kernels as kernels
from traces.errors import TraceError
from traces.reuse.plain import dense_ids
from traces.schema import Trace


class Curve(NamedTuple):
    """A step function from capacity to hits: between two capacities the hits of the lower one hold.

    capacity : (steps,) int64 ascending, from 0; in blocks or in tokens
    hits     : (steps,) int64, same unit or what the maker says
    total    : what the hits are a share of
    """

    capacity: np.ndarray
    hits: np.ndarray
    total: int

    def rate(self, capacity: float) -> float:
        """Return the hit rate at a capacity; infinity gives the last."""
        step = int(np.searchsorted(self.capacity, capacity, "right")) - 1
        return float(self.hits[step] / max(self.total, 1)) if step >= 0 else 0.0


def reuse_distances(trace: Trace, in_tokens: bool = False) -> np.ndarray:
    """Return for each block reference the least capacity of a plain LRU cache in which it is hit.

    A reference is hit if the distinct blocks touched since its last use, itself included, fit in the cache, and if
    all references before it in its prompt are hit: the distance is the largest so far along the prompt (of chained
    ids always the last, since the front was used no earlier). What the request itself has touched before counts, as
    in the plain cache, which touches front to back. In tokens a strict LRU cache evicts until all fits, hence holds
    just the blocks whose own and more recent ones' tokens fit; so inclusion holds with blocks of unequal size too.

    in_tokens : count tokens, a partial last block its own, instead of blocks; an id is as large as it ever is
    returns   : (references,) int64, in the order of `trace.prefix()`; 2^62 for a first use
    cost      : O(blocks log blocks); 24 bytes a reference
    source    : Mattson et al., IBM Systems Journal 1970 (inclusion); Bennett and Kruskal 1975 and Olken 1981 (a tree of
                latest uses), with the tree of Fenwick 1994
    """
    offsets, ids = trace.prefix()
    dense, count = dense_ids(ids)
    sizes = np.ones(count, np.int64)
    if in_tokens:
        sizes[:] = 0
        np.maximum.at(sizes, dense, block_sizes(trace))
    return kernels.stack_distances(offsets, dense, sizes)


def lru_curve(trace: Trace, count_tokens: bool = False) -> Curve:
    """Return hit blocks against capacity in blocks of a plain LRU cache: `lru_hit_rate` at every capacity at once.

    count_tokens : count the hits in tokens, a share of all prompt tokens; the capacity stays in blocks
    """
    distances = reuse_distances(trace)
    if count_tokens:
        return _curve(distances, block_sizes(trace), _prompt_tokens(trace))
    return _curve(distances, np.ones(len(distances), np.int64), len(distances))


def lru_token_curve(trace: Trace, first_block_tokens: int = 0, partial_tokens: int = 0) -> Curve:
    """Return hit tokens against capacity in tokens of a plain LRU cache, with a correction for a finer match.

    A partial last block takes and gives its own tokens. Recorded ids of large blocks hide what a match at a finer grain
    finds inside the first block that differs; the two numbers put a constant in its place.

    first_block_tokens : a request that hits block 0 only has hit at least so many tokens [tokens], up to its prompt
    partial_tokens     : a longer match that stops inside the prompt has hit so many more [tokens], up to its prompt
    returns            : Curve; its total is the sum of prompt tokens
    source             : Mooncake (Qin et al., FAST 2025), Figure 9; for its conversation trace the correction is
                         880 tokens, the common system prompt, and 256, half a block
    """
    if first_block_tokens < 0 or partial_tokens < 0:
        raise TraceError(
            f"a sub-block correction must be at least 0 tokens, but got {first_block_tokens} and {partial_tokens}."
        )
    distances = reuse_distances(trace, in_tokens=True)
    offsets, _ = trace.prefix()
    counts = np.diff(offsets)
    prompts = np.repeat(trace.column("prompt_tokens").astype(np.int64), counts)
    place = np.arange(len(distances)) - np.repeat(offsets[:-1], counts)
    matched = np.minimum((place + 1) * (trace.block_tokens or 0), prompts)
    finer = np.where(place == 0, np.maximum(matched, first_block_tokens), matched + partial_tokens)
    reached = np.where(matched < prompts, np.minimum(finer, prompts), matched)
    before = np.concatenate(([0], reached[:-1])) * (place > 0)
    return _curve(distances, reached - before, _prompt_tokens(trace))


def block_sizes(trace: Trace) -> np.ndarray:
    """Return the prompt tokens that each block reference covers, (references,) int64."""
    offsets, ids = trace.prefix()
    counts = np.diff(offsets)
    size = int(trace.block_tokens or 0)
    place = np.arange(len(ids)) - np.repeat(offsets[:-1], counts)
    return np.clip(np.repeat(trace.column("prompt_tokens").astype(np.int64), counts) - size * place, 0, size)


def _prompt_tokens(trace: Trace) -> int:
    return int(trace.column("prompt_tokens").sum(dtype=np.int64))


def _curve(distances: np.ndarray, gains: np.ndarray, total: int) -> Curve:
    """Add up what the references at each distance gain."""
    found = distances < kernels.NEVER
    steps, where = np.unique(distances[found], return_inverse=True)
    gained = np.zeros(len(steps), np.int64)
    np.add.at(gained, where, gains[found])
    return Curve(np.concatenate(([0], steps)), np.concatenate(([0], np.cumsum(gained))), total)

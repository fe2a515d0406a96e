"""Experts spread over data-parallel ranks: what a layer's experts take, and what the ranks send each other for them.

Each rank runs attention over requests of its own and holds a share of the experts. Before the experts of a layer every
rank gets the hidden state of every token (all-gather), and after them each gets back the sums of its own tokens
(reduce-scatter), over a ring: each rank passes on ranks - 1 pieces each way.

source : vLLM 0.19, all2all_backend allgather_reducescatter; collectives over a ring as NCCL runs them
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from replay.errors import ConfigError
from replay.hardware.model import BYTES, Model

COLLECTIVES = 2  # a layer: all-gather and reduce-scatter
US_PER_S = 1e6


@dataclass(frozen=True)
class Link:
    """What a rank's link to the next carries one way, and how long a collective takes to pass it before any byte."""

    bytes_per_s: float
    latency_s: float

    def __post_init__(self) -> None:
        if not (self.bytes_per_s > 0 and self.latency_s >= 0):
            raise ConfigError(f"a link between ranks must carry more than 0 bytes a second after at least 0 s, but has "
                              f"{self.bytes_per_s:g} and {self.latency_s:g}. Mend link_bw and link_latency.")


@dataclass(frozen=True)
class Spread:
    """How many ranks share the experts, and the links between them; None where what they send takes no time."""

    ranks: int = 1
    link: Link | None = None


ALONE = Spread()


def exchange_us(tokens: np.ndarray, model: Model, spread: Spread) -> np.ndarray:
    """Return what the ranks take in a layer to send each other the tokens of the fullest of them.

    tokens : of that rank
    """
    if spread.link is None:
        return np.zeros(len(tokens))
    bytes_each = tokens * model.hidden * BYTES[model.dtype]
    piece_us = (spread.link.latency_s + bytes_each / spread.link.bytes_per_s) * US_PER_S
    return COLLECTIVES * (spread.ranks - 1) * piece_us


def experts_us(measured: pl.DataFrame, tokens: np.ndarray, model: Model, ranks: int = 1) -> np.ndarray:
    """Return what the experts of a layer take on each rank: at as many distinct ones as random choices touch.

    measured : tokens, activated_experts, time_us
    tokens   : of all ranks together; a rank has an equal share of the experts, and of the tokens' choices
    """
    shares, touched = tokens / ranks, model.distinct_experts(tokens) / ranks
    grid = measured.pivot(on="activated_experts", index="tokens", values="time_us").sort("tokens")
    sizes = np.array([int(column) for column in grid.columns[1:]])
    counts = grid["tokens"].to_numpy().astype(float)
    found = np.empty(len(tokens))
    for place, (share, distinct) in enumerate(zip(shares, touched, strict=True)):
        times = []
        for size in sizes:
            known = grid[str(size)].is_not_null().to_numpy()
            times.append(interpolated(counts[known], grid[str(size)].to_numpy()[known], np.array([share]))[0])
        found[place] = np.interp(distinct, sizes, times)
    return found


def interpolated(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Interpolate linearly; beyond the last point go on with the last slope, before the first with its value."""
    inside = np.interp(at, x, y)
    slope = (y[-1] - y[-2]) / (x[-1] - x[-2])
    return np.where(at > x[-1], y[-1] + slope * (at - x[-1]), inside)

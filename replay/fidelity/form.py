"""Compile any iteration-time model into the integer tables of a profile, with the least relative error over a grid.

A profile is linear in its unknowns: the values of its three tables at fixed breakpoints and three coefficients. None of
them may be negative and no table may fall, so each table is written as steps up, and all are found at once as least
squares on the relative error with nonnegative unknowns.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from replay.errors import ConfigError
from replay.fidelity.iterations import Iterations
from replay.hardware.profile import Profile, iteration_ps, table
from replay.hardware.units import FS_PER_S, PS_PER_S

Seconds = Callable[[Iterations], np.ndarray]

# Tokens of iterations that prefill, batches of those that do not, and context tokens read.
TOKENS = (1, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384)
BATCHES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
CONTEXT = (0, *(2**power for power in range(9, 22)))
SHARES = (0.5, 0.9, 1.0)


@dataclass(frozen=True)
class Fit:
    """The tables of a profile, and how far they are off.

    errors : median, ninth decile and largest relative error over the grid, each alone and for each kind of iteration
    """

    token_table: np.ndarray
    decode_table: np.ndarray
    kv_table: np.ndarray
    prefill_token_ps: int
    decode_request_ps: int
    prefill_token_sq_fs: int
    errors: dict[str, tuple[float, float, float]]
    mixed_kv_table: None = None  # these of a profile stay as without them
    mixed_request_ps: int = 0
    ranks: int = 1
    together_table: None = None
    fullest_table: None = None
    captured_table: None = None


def fit(seconds: Seconds, grid: Iterations) -> Fit:
    """Fit integer tables to a model over a grid of iterations.

    seconds : iterations -> float64 (num,) [s], positive
    grid    : each counts with its relative error; each kind (prefill, decode, mixed) counts alike in all
    returns : Fit
    raises  : ConfigError where the model gives no positive time
    source  : Lawson and Hanson, Solving Least Squares Problems, 1974 (scipy.optimize.nnls)
    """
    from scipy.optimize import nnls  # takes a while to import

    exact = seconds(grid)
    if not (np.isfinite(exact).all() and (exact > 0).all()):
        raise ConfigError("every iteration of the grid must take a positive time, but the tables give "
                          f"{exact.min():g} s. Check the tables.")
    breaks = _breaks(grid)
    parts = _parts(grid, breaks)
    weights = np.zeros(len(grid))
    for chosen in kinds(grid).values():
        weights[chosen] = 1 / np.sqrt(max(chosen.sum(), 1))
    columns = np.concatenate(parts, axis=1)
    scale = np.maximum(columns.max(axis=0), 1e-30)
    found, _ = nnls(columns / scale * (weights / exact)[:, None], weights, maxiter=100 * columns.shape[1])
    widths = np.cumsum([part.shape[1] for part in parts])[:-1]
    tokens, decodes, context, coefficients = np.split(found / scale, widths)
    fitted = Fit(_table(breaks[0], tokens), _table(breaks[1], decodes), _table(breaks[2], context, free=True),
                 round(coefficients[0] * PS_PER_S), round(coefficients[1] * PS_PER_S),
                 round(coefficients[2] * FS_PER_S), {})  # fmt: skip
    return Fit(**{**vars(fitted), "errors": errors(fitted, exact, grid)})


def kinds(grid: Iterations) -> dict[str, np.ndarray]:
    """Return which iterations of a grid only prefill, only decode, or do both, as bool (num,)."""
    prefill, decode = grid.prompts > 0, grid.decoding > 0
    return {"prefill": prefill & ~decode, "decode": decode & ~prefill, "mixed": prefill & decode}


def errors(fitted: "Fit | Profile", exact: np.ndarray, grid: Iterations) -> dict[str, tuple[float, float, float]]:
    """Return how far tables are off: kind of iteration, and all -> median, ninth decile and largest relative error.

    exact : float64 (num,) [s], the truth for the grid, read only
    """
    off = np.abs(table_s(fitted, grid) / exact - 1)
    chosen = {"all": np.ones(len(grid), bool), **kinds(grid)}
    return {name: tuple(float(value) for value in np.quantile(off[rows], SHARES))  # type: ignore[misc]
            for name, rows in chosen.items() if rows.any()}  # fmt: skip


def table_s(fitted: "Fit | Profile", grid: Iterations) -> np.ndarray:
    """Cost iterations as the engine does, in its integers.

    returns : float64 (num,) [s]
    """
    rows = zip(grid.prefill_tokens, grid.decoding, grid.kv_tokens, grid.quadratic, strict=True)
    return np.array([iteration_ps(fitted, *(round(value) for value in row)) for row in rows]) / PS_PER_S  # type: ignore[arg-type]


def _breaks(grid: Iterations) -> list[tuple[int, ...]]:
    """Return the breakpoints of the three tables as far as the grid goes: beyond, the last slope goes on."""
    prefill = grid.prompts > 0
    tokens = (grid.prefill_tokens + grid.decoding)[prefill]
    reach = ((TOKENS, tokens), (BATCHES, grid.decoding[~prefill]), (CONTEXT, grid.kv_tokens))
    return [tuple(one for one in breaks if one <= max(x.max(initial=0), breaks[1])) for breaks, x in reach]


def _parts(grid: Iterations, breaks: list[tuple[int, ...]]) -> list[np.ndarray]:
    """Return the columns of the three tables and of the coefficients: what a unit of each unknown adds, in order."""
    prefill = grid.prompts > 0
    tokens = _steps(breaks[0], grid.prefill_tokens + grid.decoding) * prefill[:, None]
    decodes = _steps(breaks[1], grid.decoding) * ~prefill[:, None]
    context = _steps(breaks[2], grid.kv_tokens)[:, 1:]
    return [tokens, decodes, context, np.stack([grid.prefill_tokens, grid.decoding, grid.quadratic], axis=1)]


def _steps(breaks: tuple[int, ...], x: np.ndarray) -> np.ndarray:
    """Return the ramps of a table: its value at the first break, then how much of each step up counts at x.

    returns : float64 (num, num_breaks); the last ramp goes on
    """
    at = np.array(breaks, np.float64)
    share = (x[:, None] - at[None, :-1]) / np.diff(at)
    share[:, :-1] = np.minimum(share[:, :-1], 1.0)
    return np.concatenate([np.ones((len(x), 1)), np.maximum(share, 0.0)], axis=1)


def _table(breaks: tuple[int, ...], rises: np.ndarray, free: bool = False) -> np.ndarray:
    """Write steps up as integer segments; each slope is rounded down, so that no table falls at a break."""
    values = np.cumsum([0.0, *rises] if free else rises) * PS_PER_S
    bases = [round(float(value)) for value in values]
    segments = [(start, base, (following - base) // (end - start))
                for start, end, base, following in zip(breaks, breaks[1:], bases, bases[1:], strict=False)]  # fmt: skip
    if breaks[0] > 0:
        segments.insert(0, (0, bases[0], 0))
    merged = [segments[0]]
    for start, base, slope in segments[1:]:
        last_start, last_base, last_slope = merged[-1]
        if slope != last_slope or base != last_base + last_slope * (start - last_start):
            merged.append((start, base, slope))
    return table(merged)

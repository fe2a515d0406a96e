"""Compile a smooth or kinked cost curve into an integer piecewise-affine table, and say how far off it is."""

from collections.abc import Callable

import numpy as np

from replay.errors import ConfigError
from replay.hardware.profile import table
from replay.hardware.units import LARGEST_INT64, PS_PER_S

Curve = Callable[[np.ndarray], np.ndarray]

TOLERANCE = 0.004
MOST_SEGMENTS = 64
MOST_TOKENS = 2**20
GRID_RATIO = 1.01


def compile_table(cost_s: Curve, tolerance: float = TOLERANCE, most: int = MOST_SEGMENTS) -> tuple[np.ndarray, float]:
    """Fit a table to a rising curve with as few chords as the tolerance allows.

    Each segment is the chord between two exact values with its slope rounded down, so that a table never falls at a
    breakpoint, and is as long as the tolerance allows; the tolerance doubles until `most` segments suffice.

    cost_s    : tokens float64 (n,) -> seconds float64 (n,), positive and nondecreasing on [1, 2^20]
    tolerance : largest relative error of a chord at the points it is checked on
    returns   : SEGMENT rows (<= most,) and the largest relative error seen on [1, 2^20]
    raises    : ConfigError when the curve falls, is not positive, or leaves the kernel's range
    source    : greedy longest chord, own
    """
    points = grid()
    exact_ps = _exact_ps(cost_s, points)
    while len(breaks := _breaks(points, exact_ps, tolerance)) > most:
        tolerance *= 2
    rows = _rows(points[breaks], exact_ps[breaks])
    return rows, relative_error(rows, points, exact_ps)


def grid() -> np.ndarray:
    """Return the token counts on which a curve is fitted and checked.

    returns : int64 (n,) every number to 256, then steps of 1 % to 2^20
    """
    steps = int(np.log(MOST_TOKENS / 256) / np.log(GRID_RATIO)) + 2
    far = np.rint(np.geomspace(256, MOST_TOKENS, steps)).astype(np.int64)
    return np.unique(np.concatenate([np.arange(1, 257), far]))


def values_ps(rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Evaluate a table at many token counts.

    rows    : SEGMENT (num_segments,) read only
    tokens  : int64 (n,) read only
    returns : int64 (n,) [ps]
    """
    at = rows[np.searchsorted(rows["start"], tokens, side="right") - 1]
    return at["base_ps"] + at["slope_ps"] * (tokens - at["start"])


def relative_error(rows: np.ndarray, tokens: np.ndarray, exact_ps: np.ndarray) -> float:
    """Return the largest |table - exact| / exact over the given points."""
    return float(np.max(np.abs(values_ps(rows, tokens) - exact_ps) / exact_ps))


def _exact_ps(cost_s: Curve, points: np.ndarray) -> np.ndarray:
    exact_ps = cost_s(points.astype(np.float64)) * PS_PER_S
    if not (np.isfinite(exact_ps).all() and exact_ps.min() >= 1 and exact_ps.max() < LARGEST_INT64 / 2):
        raise ConfigError(
            f"an iteration must cost from 1 ps to {LARGEST_INT64 / 2 / PS_PER_S:.3g} s, but this hardware and model "
            f"give {exact_ps.min() / PS_PER_S:.3g} to {exact_ps.max() / PS_PER_S:.3g} s. Check the spec sheet's units."
        )
    falls = np.diff(exact_ps) < -1e-9 * exact_ps[:-1]
    if falls.any():
        first = points[int(np.argmax(falls))]
        raise ConfigError(f"more tokens cannot cost less, but the cost curve falls after {first} tokens.")
    return np.maximum.accumulate(exact_ps)  # float noise must not become a negative slope


def _breaks(points: np.ndarray, exact_ps: np.ndarray, tolerance: float) -> list[int]:
    breaks = [0]
    while breaks[-1] < len(points) - 1:
        breaks.append(_longest(points, exact_ps, breaks[-1], tolerance))
    return breaks


def _longest(points: np.ndarray, exact_ps: np.ndarray, first: int, tolerance: float) -> int:
    good, step = first + 1, 1
    while good + step < len(points) and _chord_error(points, exact_ps, first, good + step) <= tolerance:
        good, step = good + step, step * 2
    while step > 1:
        step //= 2
        if good + step < len(points) and _chord_error(points, exact_ps, first, good + step) <= tolerance:
            good += step
    return good


def _chord_error(points: np.ndarray, exact_ps: np.ndarray, first: int, last: int) -> float:
    inside = slice(first, last + 1)
    base, following = round(float(exact_ps[first])), round(float(exact_ps[last]))
    slope = (following - base) // int(points[last] - points[first])
    chord = base + slope * (points[inside] - points[first])
    chord[-1] = following
    return float(np.max(np.abs(chord - exact_ps[inside]) / exact_ps[inside]))


def _rows(starts: np.ndarray, exact_ps: np.ndarray) -> np.ndarray:
    bases = [round(float(value)) for value in exact_ps]
    segments = []
    for start, end, base, following in zip(starts[:-1], starts[1:], bases[:-1], bases[1:], strict=True):
        segments.append((int(start), base, (following - base) // int(end - start)))
    # A table starts at 0 tokens, the curve at 1: reach back along the first chord unless that would be negative.
    _, base, slope = segments[0]
    if base >= slope:
        segments[0] = (0, base - slope, slope)
    else:
        segments.insert(0, (0, 0, base))
    return table(segments)

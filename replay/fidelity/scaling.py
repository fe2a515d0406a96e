"""Scale what a profile says an iteration costs, in exact integers: what calibration fits."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from replay.errors import ConfigError
from replay.hardware.profile import Profile, table, table_ps
from replay.hardware.units import LARGEST_INT64, PS_PER_S

Segments = list[tuple[int, int, int]]


def scaled(
    profile: Profile, prefill: float = 1.0, decode: float = 1.0, kv: float = 1.0, host_s: float = 0.0
) -> Profile:
    """Return a profile whose iterations cost more or less.

    An iteration with p prefill tokens, D decoding requests, K tokens of their contexts and Q as in `Profile` takes

        prefill (token_table(p + D) + prefill_token_ps p + prefill_token_sq_fs Q // 1000)
        + decode decode_request_ps D + kv kv_table(K) + host_s,

    and where nothing is prefilled  decode (decode_table(D) + decode_request_ps D) + kv kv_table(K) + host_s; a
    mixed_kv_table goes with kv, mixed_request_ps with decode; what ranks in step share with prefill, and where nothing
    is prefilled with decode.
    A profile without a decode_table is given one as soon as the two need to differ.

    prefill, decode, kv : factors above 0
    host_s  : added to every iteration; negative at most down to `least_host_s`
    returns : Profile; each integer is rounded to the nearest, and raised by the least that keeps a table from falling
    raises  : ConfigError for a factor that is not above 0, or a host_s that would make an iteration free
    """
    factors = {"prefill": prefill, "decode": decode, "kv": kv}
    for name, factor in factors.items():
        if not (np.isfinite(factor) and factor > 0.0):
            raise ConfigError(f"the scale of {name} must be finite and above 0, but is {factor!r}.")
    if not np.isfinite(host_s) or host_s < (least := least_host_s(profile, prefill, decode)):
        raise ConfigError(f"host_s must be finite and at least {least:.6g} s, which is all that the shortest iteration "
                          f"of profile '{profile.name}' takes, but is {host_s!r} s.")
    host_ps = round(Fraction(host_s) * int(PS_PER_S))
    decodes = profile.decode_table
    if decodes is None and prefill != decode:
        decodes = profile.token_table
    return replace(
        profile,
        token_table=_table(profile.token_table, prefill, host_ps),
        decode_table=None if decodes is None else _table(decodes, decode, host_ps),
        kv_table=_table(profile.kv_table, kv, 0),
        mixed_kv_table=None if profile.mixed_kv_table is None else _table(profile.mixed_kv_table, kv, 0),
        mixed_request_ps=_times(profile.mixed_request_ps, decode),
        together_table=_shared(profile.together_table, prefill),
        fullest_table=_shared(profile.fullest_table, prefill),
        captured_table=_shared(profile.captured_table, decode),
        prefill_token_ps=_times(profile.prefill_token_ps, prefill),
        prefill_token_sq_fs=_times(profile.prefill_token_sq_fs, prefill),
        decode_request_ps=_times(profile.decode_request_ps, decode),
    )


def least_host_s(profile: Profile, prefill: float = 1.0, decode: float = 1.0) -> float:
    """Return the lowest host_s that `scaled` takes: iterations of one token cost 1 ps by their tables alone."""
    decodes = profile.token_table if profile.decode_table is None else profile.decode_table
    shortest_ps = min(_times(table_ps(profile.token_table, 1), prefill), _times(table_ps(decodes, 1), decode))
    return -max(0, shortest_ps - 2) / PS_PER_S


def _table(rows: np.ndarray, factor: float, host_ps: int) -> np.ndarray:
    segments: Segments = [(int(row["start"]), int(row["base_ps"]), int(row["slope_ps"])) for row in rows]
    if factor != 1.0:
        segments = [(start, _times(base, factor), _times(slope, factor)) for start, base, slope in segments]
    return table(_rising(_shifted(segments, host_ps)))


def _shared(rows: np.ndarray | None, factor: float) -> np.ndarray | None:
    return None if rows is None else _table(rows, factor, 0)


def _shifted(segments: Segments, host_ps: int) -> Segments:
    """Add a constant to a table; what would be negative at 0 tokens, where no iteration is, becomes 0."""
    if host_ps == 0:
        return segments
    moved = [(start, base + host_ps, slope) for start, base, slope in segments]
    _, base, slope = moved[0]
    if base < 0:  # an iteration has one token at least: the first segment begins there
        second = [] if len(moved) > 1 and moved[1][0] == 1 else [(1, base + slope, slope)]
        moved[:1] = [(0, 0, 0), *second]
    return [(start, max(base, 1 if start else 0), slope) for start, base, slope in moved]


def _rising(segments: Sequence[tuple[int, int, int]]) -> Segments:
    """Raise each segment's first value to at least the value before it: rounding must not make a table fall."""
    risen: Segments = [segments[0]]
    for start, base, slope in segments[1:]:
        before = risen[-1]
        risen.append((start, max(base, before[1] + before[2] * (start - before[0])), slope))
    return risen


def _times(value: int, factor: float) -> int:
    """Multiply exactly and round once, half to even."""
    product = round(Fraction(factor) * value)
    if product > LARGEST_INT64:
        raise ConfigError(f"a scaled cost must stay below {LARGEST_INT64} ps, but {value} times {factor:g} does not.")
    return product

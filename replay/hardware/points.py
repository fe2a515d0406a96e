"""A profile through measured points: prefills and decodes as they were timed, and straight lines between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from replay.errors import ConfigError
from replay.hardware.fields import POWER, count, keys, number
from replay.hardware.linear import beside_time
from replay.hardware.profile import Profile, table, table_ps
from replay.hardware.units import PS_PER_S, fs, ps

KEYS = ("prefills", "decodes", "prefill_token_sq_s", "decode_request_s", "kv_token_bytes", "kv_capacity_tokens",
        "nic_bytes_per_s", "nic_latency_s")
OPTIONAL = ("kind", "name", "gpus", "price_per_gpu_hour", *POWER, "layers", "provenance")


@dataclass(frozen=True)
class Measured:
    """Timed iterations of one instance.

    prefills : (prompt tokens, of these cached, seconds) of a prompt alone in one iteration
    decodes  : (requests, context tokens of each, seconds) of an iteration without prefill; those of one request say
               what context costs, the others what more requests do
    prefill_token_sq_s : what a unit of b^2 - a^2 adds to a prefill of [a, b); the points do not tell it apart
    decode_request_s   : what a request adds beyond the largest number of them that was timed
    """

    prefills: Sequence[tuple[int, int, float]]
    decodes: Sequence[tuple[int, int, float]]
    prefill_token_sq_s: float = 0.0
    decode_request_s: float = 0.0


def points(node: Mapping[str, Any]) -> Profile:
    """Return the profile of a `hardware` node of kind points: at each measured point it costs what was measured.

    node   : prefills [[tokens, cached, seconds], ...], decodes [[requests, context, seconds], ...], and keys as linear
    raises : ConfigError for an unknown or missing key, or points that no rising table goes through
    """
    keys(node, KEYS, OPTIONAL, "hardware")
    measured = Measured(
        prefills=_rows(node["prefills"], "hardware.prefills"),
        decodes=_rows(node["decodes"], "hardware.decodes"),
        prefill_token_sq_s=number(node["prefill_token_sq_s"], "hardware.prefill_token_sq_s"),
        decode_request_s=number(node["decode_request_s"], "hardware.decode_request_s"),
    )
    return Profile(**tables(measured), **beside_time(node, "points", "measured points"))


def tables(measured: Measured) -> dict[str, Any]:
    """Return the fields of a profile that say what an iteration costs.

    measured : at least one prefill, and one decode of a single request
    returns  : token_table, decode_table, kv_table, prefill_token_ps, prefill_token_sq_fs, decode_request_ps
    raises   : ConfigError where a cost would fall as tokens, context or requests grow
    """
    prefills: dict[int, float] = {}
    for tokens, cached, seconds in measured.prefills:
        square = measured.prefill_token_sq_s * (float(tokens) ** 2 - float(cached) ** 2)
        _once(prefills, tokens - cached, seconds - square, "prefills", "as many computed tokens")
    contexts: dict[int, float] = {}
    batches: dict[int, float] = {}
    for requests, context, seconds in measured.decodes:
        if requests == 1:
            _once(contexts, context, seconds, "decodes", "the same context")
    if not contexts:
        raise ConfigError("hardware of kind points must know a decode of 1 request, but hardware.decodes has none. Add "
                          "[1, context, seconds].")
    kv_table, alone_s = _kv_table(contexts)
    for requests, context, seconds in measured.decodes:
        if requests > 1:
            of_context_s = table_ps(kv_table, requests * context) / PS_PER_S
            _once(batches, requests, seconds - of_context_s, "decodes", "as many requests")
    return {
        "token_table": table(through(prefills, place="hardware.prefills, without their quadratic part,")),
        "decode_table": table(through({1: alone_s, **batches}, measured.decode_request_s, "hardware.decodes, without "
                                      "what their context costs,")),
        "kv_table": kv_table,
        "prefill_token_ps": 0,
        "prefill_token_sq_fs": fs(measured.prefill_token_sq_s, "hardware.prefill_token_sq_s"),
        "decode_request_ps": 0,
    }  # fmt: skip


def through(measured_s: Mapping[int, float], beyond_s: float | None = None, place: str = "the points",
            ) -> list[tuple[int, int, int]]:  # fmt: skip
    """Return the segments of a table that goes through points, beyond its ends along the nearest chord.

    measured_s : tokens >= 1 -> seconds
    beyond_s   : slope after the last point; None: that of the last chord
    returns    : (start, base_ps, slope_ps) from 0; flat there if the first chord would reach 0 before
    raises     : ConfigError where more would cost less
    """
    starts = sorted(measured_s)
    values = [ps(measured_s[start], place) for start in starts]
    segments = []
    for start, end, base, following in zip(starts[:-1], starts[1:], values[:-1], values[1:], strict=True):
        if following < base:
            raise ConfigError(f"{place} must not cost less for more, but {start} cost {base * 1e-12:.6g} s and {end} "
                              f"{following * 1e-12:.6g} s. Correct the measurement, or leave one of them out.")
        segments.append((start, base, (following - base) // (end - start)))
    last_slope = segments[-1][2] if segments else 0
    segments.append((starts[-1], values[-1], last_slope if beyond_s is None else ps(beyond_s, place)))
    start, base, slope = segments[0]
    if start > 0:
        back = slope if slope * start < base else 0
        segments[0:1] = [(0, base - back * start, back), segments[0]]
    return segments


def _kv_table(contexts: Mapping[int, float]) -> tuple[np.ndarray, float]:
    """Return what context costs, 0 for none, and what an iteration of one request without any would take, seconds."""
    through(contexts, place="hardware.decodes of 1 request")  # refuses what falls, in the user's own numbers
    ordered = sorted(contexts)
    first = ordered[0]
    slope_s = 0.0
    if len(ordered) > 1:
        slope_s = (contexts[ordered[1]] - contexts[first]) / (ordered[1] - first)
    alone_s = contexts[first] - slope_s * first
    rows = {context: contexts[context] - alone_s for context in ordered}
    return table(through({0: 0.0, **rows}, place="hardware.decodes of 1 request, less their common part,")), alone_s


def _once(found: dict[int, float], key: int, seconds: float, what: str, same: str) -> None:
    if key in found:
        raise ConfigError(f"hardware.{what} must differ, but two of them have {same} ({key}). Leave one out.")
    found[key] = seconds


def _rows(value: Any, place: str) -> list[tuple[int, int, float]]:
    if not isinstance(value, list | tuple) or not value:
        raise ConfigError(f"{place} must be a list of measured points, but is {value!r}.")
    rows = []
    for index, row in enumerate(value):
        if not isinstance(row, list | tuple) or len(row) != 3:
            raise ConfigError(f"{place}[{index}] must be two counts and seconds, but is {row!r}.")
        first, second = count(row[0], f"{place}[{index}]"), count(row[1], f"{place}[{index}]", least=0)
        rows.append((first, second, number(row[2], f"{place}[{index}]", above=0.0)))
        if place.endswith("prefills") and second >= first:
            raise ConfigError(f"{place}[{index}] must compute a token, but {second} of {first} are cached.")
    return rows

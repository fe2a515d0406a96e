"""Seeded random streams and checked parameters, for generators and rules."""

import inspect
import math
import os
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from traces.errors import TraceError

LARGEST = 1e18  # products of parameters stay finite


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the random stream `name` of a seed: streams of other names or seeds are independent of it.

    returns : NumPy Generator on Philox (counter-based), keyed by the seed and the CRC-32 of the name
    raises  : TraceError unless 0 <= seed < 2^64
    source  : Philox4x64 (Salmon et al., SC 2011)
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise TraceError(f"a seed must be an integer in 0 .. 2^64 - 1, but got seed={seed!r}.")
    key = np.array([int(seed), zlib.crc32(name.encode())], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf, above: float = -math.inf) -> float:
    """Return a finite parameter as float; raise TraceError unless low <= value <= high and value > above."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TraceError(f"trace parameter '{name}' must be a number, but got {value!r}.")
    size: Any = abs(value)
    if not size <= LARGEST:
        raise TraceError(f"trace parameter '{name}' must be finite and at most {LARGEST:g}, but got {value!r}.")
    if value <= above:
        raise TraceError(f"trace parameter '{name}' must be above {above:g}, but got {value!r}.")
    if not low <= value <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"in {low:g} .. {high:g}"
        raise TraceError(f"trace parameter '{name}' must be {bounds}, but got {value!r}.")
    return float(value)


def whole(name: str, value: Any, low: int = 1, high: int = 2**31 - 1) -> int:
    """Return a parameter as int; raise TraceError unless it is a whole number in low .. high."""
    checked = number(name, value, low, high)
    if checked != int(checked):
        raise TraceError(f"trace parameter '{name}' must be a whole number, but got {value!r}.")
    return int(checked)


def text(name: str, value: Any) -> str:
    """Return a parameter as text; raise TraceError unless it is a string or a path, and not empty."""
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise TraceError(f"trace parameter '{name}' must be text, but got {value!r}.")
    return str(value)


def given(node: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the entries of a config node that are null: null means "not given"."""
    return {str(key): value for key, value in node.items() if value is not None}


def names(function: Callable[..., Any], skip: int) -> dict[str, bool]:
    """Return a generator's parameter names after the first `skip`, with True where it must be given."""
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    return {p.name: p.default is inspect.Parameter.empty for p in parameters}


def accept(what: str, node: Mapping[str, Any], function: Callable[..., Any], skip: int) -> dict[str, Any]:
    """Return the parameters in `node` that are not null, checked against the signature of `function`.

    what   : who asks, for the sentence, e.g. "law 'lognormal' of prompt_tokens"
    skip   : leading arguments of the function that are not parameters (random stream, count)
    raises : TraceError for an unknown or a missing name
    """
    known = names(function, skip)
    values = given(node)
    unknown = [name for name in values if name not in known]
    if unknown:
        raise TraceError(
            f"{what} has the parameters {', '.join(known) or 'none'}, but got '{unknown[0]}'. "
            "Remove it, or set it to null."
        )
    missing = [name for name, needed in known.items() if needed and name not in values]
    if missing:
        raise TraceError(f"{what} needs the parameter '{missing[0]}', but it was not given. Set it.")
    return values


def choose(what: str, name: Any, options: Mapping[str, Any]) -> Any:
    """Return options[name]; raise TraceError that lists the options."""
    if not isinstance(name, str) or name not in options:
        raise TraceError(f"{what} must be one of {', '.join(options)}, but got {name!r}.")
    return options[name]

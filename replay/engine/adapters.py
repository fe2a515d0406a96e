"""Compile policies to the kernel's function types, one small adapter each, cached per version of the policy's file.

The kernel calls a policy through a first-class function, so that it is compiled once for all of them.
"""

import hashlib
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import types as t

from replay.engine import life_schema, schema
from replay.engine.answers import EXPECTED
from replay.engine.jit import COMPILING
from replay.engine.request_schema import SEEN
from replay.errors import PolicyError
from replay.policy import MAX_TUNABLES, MEMORY, SLOTS, Choice, Chosen, Policy, registry
from traces.jit import FOLDER, INTERPRETED

REQUEST_ROW = numba.from_dtype(SEEN)
VIEW_ROW = numba.from_dtype(schema.VIEW)
PREFIX_ROW = numba.from_dtype(schema.PREFIX)
OFFER_ROW = numba.from_dtype(schema.OFFER)
POOL_ROW = numba.from_dtype(life_schema.POOL)
VIEWS = t.Array(VIEW_ROW, 1, "C")
TUNABLES = t.Array(t.float64, 2, "C")
PAIR = t.UniTuple(t.int64, 2)

SIGNATURES = {
    "admit": t.int64(REQUEST_ROW, VIEWS, VIEWS, t.int64, TUNABLES),
    "route": PAIR(REQUEST_ROW, VIEWS, t.int64, TUNABLES),
    "decode": PAIR(REQUEST_ROW, VIEWS, t.int64, TUNABLES),
    "order": t.UniTuple(t.float64, 2)(REQUEST_ROW, t.int64, TUNABLES),
    "batch": t.UniTuple(t.int64, 3)(VIEW_ROW, t.int64, TUNABLES),
    "evict": t.float64(PREFIX_ROW, t.int64, TUNABLES),
    "fetch": t.Tuple((t.int64, t.float64))(REQUEST_ROW, VIEW_ROW, OFFER_ROW, t.int64, TUNABLES),
    "write": t.int64(PREFIX_ROW, t.int64, t.int64, TUNABLES),
    "migrate": PAIR(VIEWS, t.int64, TUNABLES),
    "scale": t.int64(POOL_ROW, t.Array(POOL_ROW, 1, "C"), t.int64, TUNABLES),
    "recover": t.int64(REQUEST_ROW, t.int64, t.int64, TUNABLES),
}
TIERS = t.int64(t.int64, t.int64, t.int64, t.int64)  # address of the state, operation, request or other, instance
FABRIC = t.int64(*[t.int64] * 7)  # address of the state, operation, two endpoints or other, bytes, kind, what for
FUNCTION_TYPES = {slot: t.FunctionType(signature)
                  for slot, signature in {**SIGNATURES, "tiers": TIERS, "fabric": FABRIC, "moves": TIERS,
                                          "learning": TIERS, "life": TIERS, "stages": TIERS,
                                          "drafting": TIERS}.items()}
ROWS = {"admit": schema.ADMIT, "route": schema.ROUTE, "decode": schema.DECODE_ROUTE, "order": schema.ORDER,
        "batch": schema.BATCH, "evict": schema.EVICT, "fetch": schema.FETCH, "write": schema.WRITE_SLOT,
        "migrate": schema.MIGRATE, "scale": schema.SCALE, "recover": schema.RECOVER}

_compiled: dict[Policy, Callable[..., Any]] = {}


def python_function(slot: str, name: str) -> Callable[..., Any]:
    """Return a registered policy for an adapter to call: compiled, or plain when interpreted."""
    function = registry()[slot][name].function
    return function if INTERPRETED else numba.njit(nogil=True, boundscheck=True)(function)


def adapter(chosen: Chosen) -> Callable[..., Any]:
    """Return the compiled form of a policy, ready to be passed to `advance`.

    raises : PolicyError if it cannot be compiled or returns something of another shape
    """
    with COMPILING:
        if chosen.policy not in _compiled:
            _compiled[chosen.policy] = _build(chosen.policy)
        return _compiled[chosen.policy]


def _build(policy: Policy) -> Callable[..., Any]:
    try:
        return _load(policy, _text(policy)).adapter
    except Exception as error:  # Numba lets many kinds of errors out of the code it compiles
        reason = f"rows have no field {error}" if isinstance(error, KeyError) else _first_line(error)
    raise PolicyError(
        f"{policy.slot} policy {policy.name!r} does not compile: it must return {EXPECTED[policy.slot]} and use only "
        f"what Numba compiles and the fields of its rows (replay/engine/schema.py), but {reason} ({policy.path.name})."
    )


def _text(policy: Policy) -> str:
    row, values = ROWS[policy.slot], []
    for k, (_, tunable) in enumerate(policy.tunables.items()):
        value = f"tunables[{row}, {k}]"
        truth = isinstance(tunable, Choice) and isinstance(tunable.values[0], bool)
        whole = isinstance(tunable, Choice) and isinstance(tunable.values[0], int) or getattr(tunable, "whole", False)
        values.append(f"{value} != 0.0" if truth else f"int({value})" if whole else value)
    given = [name for name in SLOTS[policy.slot] if name != "now_ps"]
    context = ", ".join([*given, *["decodes"] * (policy.slot == "admit"), "now_ps"])
    memory = {"memory": f"tunables[{row}, {MAX_TUNABLES}:]"}
    call = ", ".join([*SLOTS[policy.slot], *[memory.get(name, name) for name in policy.extras], *values])
    decorator = "" if INTERPRETED else "@numba.njit(SIGNATURES[SLOT], nogil=True, cache=CACHE)\n"
    return (f"import numba\nfrom replay.engine.adapters import SIGNATURES, python_function\n"
            f"from replay.engine.answers import {policy.slot}_answer\n"
            f"SLOT, CACHE = {policy.slot!r}, {FOLDER is not None}\n"
            f"policy = python_function(SLOT, {policy.name!r})\n\n\n"
            f"{decorator}def adapter({context}, tunables):\n    return {policy.slot}_answer(policy({call}))\n")


def _load(policy: Policy, text: str) -> Any:
    """Import the adapter from a file named by what it depends on, so that Numba's cache cannot be stale."""
    digest = hashlib.sha256(text.encode() + policy.content.encode())
    name = f"{policy.slot}_{policy.name}_{digest.hexdigest()[:16]}"
    folder = FOLDER / "adapters" if FOLDER is not None else Path(tempfile.mkdtemp(prefix="kvreplay-"))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.py"
    if not file.exists():
        part = file.with_suffix(f".{os.getpid()}.part")
        part.write_text(text)
        os.replace(part, file)
    spec = importlib.util.spec_from_file_location(f"kvreplay_adapter_{name}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # compiled code is found again by the name of its module
    spec.loader.exec_module(module)
    return module


def _first_line(error: Exception) -> str:
    """Return the line of Numba's long message that names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if shape := re.search(r"policy must return .*, but (returns .*)", str(error)):
        return f"it {shape.group(1)}"
    telling = ("No implementation", "Unknown attribute", "Cannot unify", "NameError", "Untyped global", "Field")
    for line in lines:
        if line.startswith(telling):
            return line[:200]
    return lines[min(1, len(lines) - 1)][:200] if lines else type(error).__name__


def tunables(chosen: dict[str, Chosen], tenants: int = 0) -> np.ndarray:
    """Return every chosen policy's tunables, then what it remembers, float64 (slots, MAX_TUNABLES + memory).

    tenants : of the trace; a memory has at least 4 numbers for each, and 1,024
    """
    remembers = any("memory" in choice.policy.extras for choice in chosen.values())
    table = np.zeros((len(ROWS), MAX_TUNABLES + remembers * max(MEMORY, 4 * (tenants + 1))))
    for slot, choice in chosen.items():
        table[ROWS[slot], : len(choice.vector)] = choice.vector
    return table

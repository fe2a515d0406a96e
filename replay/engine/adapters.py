"""Compile policies to the kernel's function types, one small adapter each, cached per version of the policy's file.

The kernel calls a policy through a first-class function, so that it is compiled once for all of them.
"""

import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import types as t

from replay.engine import schema
from replay.errors import PolicyError
from replay.policy import SLOTS, Chosen, Choice, Policy, registry
from traces.jit import FOLDER, INTERPRETED

REQUEST_ROW = numba.from_dtype(schema.REQUEST)
VIEW_ROW = numba.from_dtype(schema.VIEW)
SLOT_ROW = numba.from_dtype(schema.SLOT)
VIEWS = t.Array(VIEW_ROW, 1, "C")
TUNABLES = t.Array(t.float64, 2, "C")
PAIR = t.UniTuple(t.int64, 2)

SIGNATURES = {
    "admit": t.int64(REQUEST_ROW, VIEWS, t.int64, TUNABLES),
    "route": PAIR(REQUEST_ROW, VIEWS, t.int64, TUNABLES),
    "decode": PAIR(REQUEST_ROW, VIEWS, t.int64, TUNABLES),
    "order": t.UniTuple(t.float64, 2)(REQUEST_ROW, t.int64, TUNABLES),
    "batch": t.UniTuple(t.int64, 3)(VIEW_ROW, t.int64, TUNABLES),
    "evict": t.float64(SLOT_ROW, t.int64, TUNABLES),
}
FUNCTION_TYPES = {slot: t.FunctionType(signature) for slot, signature in SIGNATURES.items()}
ROWS = {"admit": schema.ADMIT, "route": schema.ROUTE, "decode": schema.DECODE_ROUTE, "order": schema.ORDER,
        "batch": schema.BATCH, "evict": schema.EVICT}

EXPECTED = {
    "admit": "True or False",
    "route": "an instance index, HOLD, or (instance index, index to fetch the prefix from)",
    "decode": "an instance index",
    "order": "a key, or (key, margin)",
    "batch": "(prefill_tokens, decode, whole)",
    "evict": "a score",
}

# how a policy's answer becomes the slot's return type; a wrong shape fails when it is compiled
_RETURN = {
    "admit": "1 if answer else 0",
    "route": "(answer[0] * 1, answer[1] * 1) if pair else (answer * 1, -1)",
    "decode": "(answer[0] * 1, answer[1] * 1) if pair else (answer * 1, -1)",
    "order": "(answer[0] * 1.0, answer[1] * 1.0) if pair else (answer * 1.0, inf)",
    "batch": "(answer[0] * 1, 1 if answer[1] else 0, 1 if answer[2] else 0)",
    "evict": "answer * 1.0",
}
_compiled: dict[Policy, Callable[..., Any]] = {}


def python_function(slot: str, name: str) -> Callable[..., Any]:
    """Return a registered policy for an adapter to call: compiled, or plain when interpreted."""
    function = registry()[slot][name].function
    return function if INTERPRETED else numba.njit(nogil=True)(function)


def adapter(chosen: Chosen) -> Callable[..., Any]:
    """Return the compiled form of a policy, ready to be passed to `advance`.

    raises : PolicyError if it cannot be compiled or returns something of another shape
    """
    if chosen.policy not in _compiled:
        _compiled[chosen.policy] = _build(chosen.policy)
    return _compiled[chosen.policy]


def _build(policy: Policy) -> Callable[..., Any]:
    failures = []
    for pair in _shapes(policy):
        try:
            return _load(policy, _text(policy, pair)).adapter
        except (numba.core.errors.NumbaError, TypeError) as error:
            failures.append(error)
    reason = _first_line(failures[0])
    raise PolicyError(f"{policy.slot} policy {policy.name!r} does not compile: it must return {EXPECTED[policy.slot]} "
                      f"and use only what Numba compiles ({reason}; {policy.path.name})")


def _shapes(policy: Policy) -> list[bool]:
    """Whether the answer is a tuple: tried in turn, since only the compiler knows."""
    return [False, True] if policy.slot in ("route", "decode", "order") and not INTERPRETED else [False]


def _text(policy: Policy, pair: bool) -> str:
    row, values = ROWS[policy.slot], []
    for k, (_, tunable) in enumerate(policy.tunables.items()):
        value = f"tunables[{row}, {k}]"
        truth = isinstance(tunable, Choice) and isinstance(tunable.values[0], bool)
        whole = isinstance(tunable, Choice) and isinstance(tunable.values[0], int) or getattr(tunable, "whole", False)
        values.append(f"{value} != 0.0" if truth else f"int({value})" if whole else value)
    context = ", ".join(SLOTS[policy.slot])
    answer = _RETURN[policy.slot]
    if INTERPRETED:
        answer = answer.replace(" if pair ", " if isinstance(answer, tuple) ")
    elif " if pair else " in answer:
        answer = answer.split(" if pair else ")[0 if pair else 1]
    call = ", ".join([context, *values])
    decorator = "" if INTERPRETED else "@numba.njit(SIGNATURES[SLOT], nogil=True, cache=CACHE)\n"
    return (f"import numba\nfrom math import inf\nfrom replay.engine.adapters import SIGNATURES, python_function\n"
            f"SLOT, CACHE = {policy.slot!r}, {FOLDER is not None}\n"
            f"policy = python_function(SLOT, {policy.name!r})\n\n\n"
            f"{decorator}def adapter({context}, tunables):\n    answer = policy({call})\n    return {answer}\n")


def _load(policy: Policy, text: str) -> Any:
    """Import the adapter from a file named by what it depends on, so that Numba's cache cannot be stale."""
    digest = hashlib.sha256(text.encode())
    try:
        digest.update(policy.path.read_bytes())
    except OSError:
        digest.update(policy.function.__code__.co_code)
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
    lines = [ln.strip() for ln in str(error).splitlines() if ln.strip()]
    for ln in lines:
        if ln.startswith(("No implementation", "Unknown attribute", "Cannot unify", "NameError", "Untyped global", "Field")):
            return ln[:160]
    return lines[min(1, len(lines) - 1)][:160] if lines else type(error).__name__


def tunables(chosen: dict[str, Chosen]) -> np.ndarray:
    """Return every chosen policy's tunables, float64 (slots, MAX_TUNABLES)."""
    from replay.policy import MAX_TUNABLES

    table = np.zeros((len(ROWS), MAX_TUNABLES))
    for slot, choice in chosen.items():
        table[ROWS[slot], : len(choice.vector)] = choice.vector
    return table

"""Compile the kernel's helpers each for one signature, read from the names of their parameters.

A name means one type everywhere (the index letters of the glossary, `state`, `view`, ...). So a helper is compiled
once, not once for every mixture of int32 and int64 that its callers happen to hold, which would double the time to
compile.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numba
from numba import types as t

from traces.jit import INTERPRETED

_helpers: list[Any] = []
TRUTHS = ("decodes", "pressed", "ours", "fetched", "able")
NUMBERS = ("score", "amount", "factor")  # a float that is not named here would be cut to an integer, without a word

def kernel(function: Callable[..., Any]) -> Any:
    """Compile a helper that other compiled code calls; not callable from Python unless interpreted."""
    return _register(numba.njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)(function))

def inlined(function: Callable[..., Any]) -> Any:
    """Compile a helper that is always inlined: small leaves, and steps of the event loop with one caller."""
    return _register(numba.njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)(function))

def _register(dispatcher: Any) -> Any:
    if not INTERPRETED:
        _helpers.append(dispatcher)
    return dispatcher

def compile_helpers(modules: frozenset[str] | None = None) -> None:
    """Compile helpers in the order of definition, callees first; done once, if what needs them is not cached.

    modules : only those defined in these modules; None for all so far
    """
    from replay.engine.state import POLICIES, STATE, TYPES

    arrays = {name: TYPES[name] for name in ("jobs", "slots", "segments", "tree")} | {
        "heap": TYPES["timer_heap"], "fragments": TYPES["fragments"], "flows": TYPES["flows"], "links": TYPES["links"],
        "series": TYPES["series"]}
    rows = {"view": TYPES["views"].dtype, "job": TYPES["jobs"].dtype, "instance": TYPES["instances"].dtype,
            "store": TYPES["stores"].dtype, "load": TYPES["loads"].dtype,
            "part": TYPES["parts"].dtype, "owner": TYPES["owners"].dtype, "request": TYPES["requests"].dtype,
            "asker": TYPES["seen"].dtype, "life": TYPES["life"].dtype}
    named = {"state": STATE, "cache": STATE, "cost": STATE, "hierarchy": STATE, "policies": POLICIES, **arrays, **rows,
             **dict.fromkeys(TRUTHS, t.boolean), **dict.fromkeys(NUMBERS, t.float64)}
    level = numba.config.OPT
    # Helpers are optimised fully where they end up, inside the event loop: this halves the time to compile.
    numba.config.OPT = type(level)(1)
    try:
        for helper in list(_helpers):
            if modules is not None and helper.py_func.__module__ not in modules:
                continue
            _helpers.remove(helper)
            names = inspect.signature(helper.py_func).parameters
            helper.compile(tuple(named.get(name, t.int64) for name in names))
            helper.disable_compile()
    finally:
        numba.config.OPT = level

"""Compile the kernel's helpers each for one signature, read from the names of their parameters.

A name means one type everywhere (the index letters of the glossary, `state`, `view`, ...). So a helper is compiled
once, not once for every mixture of int32 and int64 that its callers happen to hold, which would double the time to
compile.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock, local
from typing import Any

import numba
from numba import _dynfunc
from numba import types as t
from numba.core.codegen import CPUCodeLibrary
from numba.core.cpu import CPUContext

from traces.jit import INTERPRETED

COMPILING = RLock()  # of the threads of a process: one compiles at a time, and none what another has compiled
_helpers: list[Any] = []
_linking = local()
OF_A_LIBRARY = ("_finalize_final_module", "_finalize_dynamic_globals", "_verify_declare_only_symbols")
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
    with _to_be_linked():
        for helper in list(_helpers):
            if modules is not None and helper.py_func.__module__ not in modules:
                continue
            _helpers.remove(helper)
            names = inspect.signature(helper.py_func).parameters
            helper.compile(tuple(named.get(name, t.int64) for name in names))
            helper.disable_compile()


@contextmanager
def _to_be_linked() -> Iterator[None]:
    """Compile for other compiled code alone meanwhile: with little optimisation, and without making machine code.

    Helpers are optimised fully, and become machine code, where they end up: inside the event loop. Numba has no switch
    for that, so two of its methods are replaced for a while; if a later Numba has others, compiling takes longer.
    """
    level = numba.config.OPT
    known = all(hasattr(CPUCodeLibrary, name) for name in OF_A_LIBRARY) and hasattr(CPUContext, "get_executable")
    methods = [(CPUCodeLibrary, OF_A_LIBRARY[0], _keep_module), (CPUContext, "get_executable", _no_entry)]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in methods if known]
    numba.config.OPT = type(level)(1)
    _linking.here = True
    for (owner, name, usual), (_, _, method) in zip(before, methods, strict=False):
        setattr(owner, name, _in_this_thread(method, usual))
    try:
        yield
    finally:
        for owner, name, usual in before:
            setattr(owner, name, usual)
        _linking.here = False
        numba.config.OPT = level


def _in_this_thread(method: Callable[..., Any], usual: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that is `method` in the thread that compiles helpers, and as usual in others, which need code."""
    def either(*given: Any) -> Any:
        return method(*given) if getattr(_linking, "here", False) else usual(*given)

    return either


def _keep_module(library: Any) -> None:
    """Take a module of LLVM as done, for others to link: Numba's own, but for handing it to the JIT."""
    library._finalize_dynamic_globals()
    library._verify_declare_only_symbols()
    library._finalized = True


def _no_entry(context: Any, library: Any, descriptor: Any, environment: Any) -> Any:
    """Return a function object that nobody calls: its library is linked into others."""
    library._ensure_finalized()
    name = descriptor.qualname.rpartition(".")[2]
    return _dynfunc.make_function(descriptor.lookup_module(), name, "", 0, environment, (library,))

"""Compile the event loop once per version; later processes load it from the cache."""

from collections.abc import Callable
from typing import Any

from numba import types as t

from replay.engine.adapters import FUNCTION_TYPES
from replay.engine.jit import compile_helpers
from replay.engine.kernel import advance
from replay.engine.schema import Policies, State
from replay.engine.state import policies_at, state_at, table
from replay.policy import SLOTS
from traces.jit import FOLDER, INTERPRETED, entry

USUAL_SECONDS = 20  # on the machine of the README's figures

_compiled: list[Callable[..., int]] = []


def is_compiled() -> bool:
    """Whether the event loop is at hand without compiling: loaded already, in the cache, or interpreted."""
    return bool(_compiled) or INTERPRETED or (FOLDER is not None and any(FOLDER.rglob("compile.advance_table*.nbc")))


def advance_table(words, admit, route, decode, order, batch, evict, max_events):
    """Run `advance` on the state behind a table of addresses (see replay.engine.state)."""
    return advance(state_at(words), policies_at(words, admit, route, decode, order, batch, evict), max_events)


def run(state: State, functions: list[Callable[..., Any]], max_events: int) -> int:
    """Run `advance` on a state, modified in place; compiled before first use, in seconds when the cache is empty.

    functions : adapters in the order of SLOTS
    returns   : DONE, PAUSED or FAULT
    """
    if INTERPRETED:
        return advance(state, Policies(*functions), max_events)
    load()
    return _compiled[0](table(state), *functions, max_events)


def load() -> None:
    """Compile or load the event loop; its types are the same for every trace and cluster."""
    if not _compiled and not INTERPRETED:
        if not is_compiled():
            compile_helpers()
        types = [FUNCTION_TYPES[slot] for slot in SLOTS]
        _compiled.append(entry(t.int64(t.Array(t.int64, 1, "C"), *types, t.int64))(advance_table))

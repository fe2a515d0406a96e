"""Compile the event loop once per version; later processes load it from the cache."""

import sys
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

from numba import types as t

from replay.engine.adapters import FABRIC, FUNCTION_TYPES, SIGNATURES, TIERS
from replay.engine.jit import COMPILING, compile_helpers
from replay.engine.kernel import advance
from replay.engine.schema import Policies, State
from replay.engine.state import policies_at, state_at, state_from, table
from traces.jit import FOLDER, INTERPRETED, entry

USUAL_SECONDS, USUAL_TIERS_SECONDS, USUAL_FABRIC_SECONDS = 35, 20, 10  # on a machine like that of the README's figures
USUAL_STAGES_SECONDS, USUAL_DRAFTING_SECONDS = 4, 3

_compiled: list[Callable[..., int]] = []
_operate: Any = None  # replay.engine.tiers.operate, once a run needs it
_operate_fabric: Any = None  # replay.engine.fabric.operate_fabric, likewise
_operate_moves: Any = None  # replay.engine.moves.operate_moves, likewise
_operate_learning: Any = None  # replay.engine.learning.operate_learning, likewise
_operate_life: Any = None  # replay.engine.life.operate_life, likewise
_operate_stages: Any = None  # replay.engine.stages.operate_stages, likewise
_operate_drafting: Any = None  # replay.engine.drafting.operate_drafting, likewise


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have a function keep its results, and run by one thread at a time: the runs of a multirun compile in threads."""
    kept = cache(function)

    @wraps(function)
    def alone(*given: Any) -> Any:
        with COMPILING:
            return kept(*given)

    return alone


def is_compiled(name: str = "advance_table") -> bool:
    """Whether the event loop, or a part of it, is at hand without compiling: loaded, in the cache, or interpreted.

    name : the function of this module that is compiled: advance_table, tiers_at or fabric_at
    """
    if INTERPRETED or (name == "advance_table" and _compiled):
        return True
    return FOLDER is not None and any(FOLDER.rglob(f"compile.{name}*.nbc"))


def advance_table(
    words, admit, route, decode, order, batch, evict, fetch, write, migrate, scale, recover,
    tiers, fabric, moves, learning, life, stages, drafting, max_events
):
    """Run `advance` on the state behind a table of addresses (see replay.engine.state)."""
    policies = policies_at(words, admit, route, decode, order, batch, evict, fetch, write, migrate, scale, recover,
                           tiers, fabric, moves, learning, life, stages, drafting)  # fmt: skip
    return advance(state_at(words), policies, max_events)


def tiers_at(address, operation, what, i):
    """Run `operate` on the state at an address."""
    return _operate(state_from(address), operation, what, i)


def fabric_at(address, operation, a, b, size_bytes, kind, what):
    """Run `operate_fabric` on the state at an address."""
    return _operate_fabric(state_from(address), operation, a, b, size_bytes, kind, what)


def moves_at(address, operation, what, i):
    """Run `operate_moves` on the state at an address."""
    return _operate_moves(state_from(address), operation, what, i)


def learning_at(address, operation, what, i):
    """Run `operate_learning` on the state at an address."""
    return _operate_learning(state_from(address), operation, what, i)


def life_at(address, operation, what, i):
    """Run `operate_life` on the state at an address."""
    return _operate_life(state_from(address), operation, what, i)


def stages_at(address, operation, what, i):
    """Run `operate_stages` on the state at an address."""
    return _operate_stages(state_from(address), operation, what, i)


def drafting_at(address, operation, what, i):
    """Run `operate_drafting` on the state at an address."""
    return _operate_drafting(state_from(address), operation, what, i)


def no_migrate(instances, now_ps, tunables):
    """Stand in for a migrate policy where nothing migrates."""
    return -1, -1


def no_scale(pool, pools, now_ps, tunables):
    """Stand in for a scale policy where nothing grows or shrinks."""
    return 0


def no_recover(request, losses, now_ps, tunables):
    """Stand in for a recover policy where nothing fails."""
    return 0


def no_fetch(request, instance, offer, now_ps, tunables):
    """Stand in for a fetch policy where there is no hierarchy."""
    return 0, 0.0


def no_write(node, evicting, now_ps, tunables):
    """Stand in for a write policy where there is no hierarchy."""
    return 0


def no_tiers(address, operation, what, i):
    """Stand in for the hierarchy where there is none."""
    return 0


def no_fabric(address, operation, a, b, size_bytes, kind, what):
    """Stand in for the fabric where there is none."""
    return 0


def run(state: State, functions: list[Callable[..., Any]], max_events: int) -> int:
    """Run `advance` on a state, modified in place; compiled before first use, in seconds when the cache is empty.

    functions : adapters in the order of SLOTS, then the parts of the engine in the order of `Policies`
    returns   : DONE, PAUSED or FAULT
    """
    if INTERPRETED:
        policies = Policies(*functions)
        return advance(state._replace(policies=policies), policies, max_events)
    if not _compiled:
        load()
    return _compiled[0](table(state), *functions, max_events)


def load() -> None:
    """Compile or load the event loop; its types are the same for every trace and cluster."""
    with COMPILING:
        if _compiled or INTERPRETED:
            return
        if not is_compiled():
            compile_helpers(needed_by("replay.engine.kernel"))
        types = [FUNCTION_TYPES[name] for name in Policies._fields]
        _compiled.append(entry(t.int64(t.Array(t.int64, 1, "C"), *types, t.int64))(advance_table))


@once
def hierarchy_function(there: bool) -> Callable[..., int]:
    """Return the function that runs the hierarchy, compiled or loaded before first use, or a stand-in without one."""
    global _operate
    if there:
        from replay.engine.tiers import operate as _operate  # only here: a run without a hierarchy need not compile it
    return _part(TIERS, tiers_at, "replay.engine.tiers") if there else _part(TIERS, no_tiers)


@once
def fabric_function(there: bool) -> Callable[..., int]:
    """Return the function that runs the fabric, as `hierarchy_function`."""
    global _operate_fabric
    if there:
        from replay.engine.fabric import operate_fabric as _operate_fabric
    return _part(FABRIC, fabric_at, "replay.engine.fabric") if there else _part(FABRIC, no_fabric)


@once
def moves_function(there: bool) -> Callable[..., int]:
    """Return the function that runs live migration, as `hierarchy_function`."""
    global _operate_moves
    if there:
        from replay.engine.moves import operate_moves as _operate_moves
    return _part(TIERS, moves_at, "replay.engine.moves") if there else _part(TIERS, no_tiers)


@once
def learning_function(there: bool) -> Callable[..., int]:
    """Return the function that runs a model that learns in the replay, as `hierarchy_function`."""
    global _operate_learning
    if there:
        from replay.engine.learning import operate_learning as _operate_learning
    return _part(TIERS, learning_at, "replay.engine.learning") if there else _part(TIERS, no_tiers)


@once
def life_function(there: bool) -> Callable[..., int]:
    """Return the function that runs the life of instances, as `hierarchy_function`."""
    global _operate_life
    if there:
        from replay.engine.life import operate_life as _operate_life
    return _part(TIERS, life_at, "replay.engine.life") if there else _part(TIERS, no_tiers)


@once
def stages_function(there: bool) -> Callable[..., int]:
    """Return the function that runs the stages beside the transformer, as `hierarchy_function`."""
    global _operate_stages
    if there:
        from replay.engine.stages import operate_stages as _operate_stages
    return _part(TIERS, stages_at, "replay.engine.stages") if there else _part(TIERS, no_tiers)


@cache
def drafting_function(there: bool) -> Callable[..., int]:
    """Return the function that runs speculative decoding, as `hierarchy_function`."""
    global _operate_drafting
    if there:
        from replay.engine.drafting import operate_drafting as _operate_drafting
    return _part(TIERS, drafting_at, "replay.engine.drafting") if there else _part(TIERS, no_tiers)


def _part(signature: Any, function: Callable[..., int], module: str | None = None) -> Callable[..., int]:
    """Return a part of the engine compiled or loaded, with the helpers of its module where it must be compiled."""
    if INTERPRETED:
        return function
    if module is not None and not is_compiled(function.__name__):
        compile_helpers(needed_by(module))
    return entry(signature)(function)


def needed_by(name: str) -> frozenset[str]:
    """Return a module of the engine and all that it imports from the engine."""
    found, todo = set(), [name]
    while todo:
        module = sys.modules[todo.pop()]
        if module.__name__ in found:
            continue
        found.add(module.__name__)
        todo += {str(getattr(getattr(value, "py_func", value), "__module__", "")) for value in vars(module).values()
                 if str(getattr(getattr(value, "py_func", value), "__module__", "")).startswith("replay.engine.")}
    return frozenset(found)


@once
def stand_in(slot: str) -> Callable[..., Any]:
    """Return a function for a policy slot that only a hierarchy asks."""
    function = {"fetch": no_fetch, "write": no_write, "migrate": no_migrate,
                "scale": no_scale, "recover": no_recover}[slot]
    return function if INTERPRETED else entry(SIGNATURES[slot])(function)

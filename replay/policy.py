"""Turn a plain function into a policy: its signature says its arguments, tunables, ranges and defaults."""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import math
import pkgutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from replay.errors import PolicyError

PREFILL, MIXED, DECODE = 0, 1, 2  # roles and homes of instances, as policies see them
DRAM_NODES, STORAGE_SERVERS = 3, 4  # scale: of pools of nodes, which have the roles from DRAM_NODES on
HOLD = -1  # route: keep the request in the cluster queue
REFUSE = -1  # decode: reject the request, although its prompt was computed
RESTART, RESUME, RESTORE, GIVE_UP = range(4)  # recover: from scratch, from what is cached, from a replica, not at all
NEVER = math.inf  # order: never preempt; fetch: wait until it is loaded

SLOTS = {
    "admit": ("request", "instances", "now_ps"),
    "route": ("request", "instances", "now_ps"),
    "decode": ("request", "instances", "now_ps"),
    "order": ("request", "now_ps"),
    "batch": ("instance", "now_ps"),
    "evict": ("node", "now_ps"),
    "fetch": ("request", "instance", "offer", "now_ps"),
    "write": ("node", "evicting", "now_ps"),
    "migrate": ("instances", "now_ps"),
    "scale": ("pool", "pools", "now_ps"),
    "recover": ("request", "losses", "now_ps"),
}
# what else a policy may take after these, by name: float64 numbers of its own, zeros at first, that it may change; the
# decode-capable instances
EXTRAS = {"admit": ("decodes", "memory"), "migrate": ("memory",), "scale": ("memory",),
          **dict.fromkeys(("route", "decode", "order", "batch", "fetch"), ("memory",))}
MAX_TUNABLES = 16
MEMORY = 2048  # numbers that a policy may remember, at least; and at least 4 a tenant
ORACLES_ONLY = frozenset({"true_tokens", "next_use"})  # fields of the future


@dataclass(frozen=True)
class Span:
    """A tunable number between low and high; whole numbers if both ends are ints, `log` for the search scale."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        ends = (self.low, self.high)
        numbers = all(isinstance(end, int | float) and not isinstance(end, bool) and math.isfinite(end) for end in ends)
        if not numbers or self.low > self.high or (self.log and self.low <= 0):
            raise PolicyError(f"a Span needs finite numbers with low <= high, and low > 0 for log, but got "
                              f"Span({self.low!r}, {self.high!r}, log={self.log!r})")

    def check(self, value: Any) -> float:
        """Return the value as a float, or raise PolicyError."""
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high or (whole and value != int(value)):
            kind = "a whole number" if whole else "a number"
            raise PolicyError(f"must be {kind} with {self.low} <= value <= {self.high}, but got {value!r}")
        return float(value)

    @property
    def whole(self) -> bool:
        """Whether the tunable takes whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True, init=False)
class Choice:
    """A tunable that takes one of a few numbers or truth values."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        if not values or not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
            raise PolicyError(f"a Choice needs one or more finite numbers or truth values, but got Choice{values!r}")
        if len({isinstance(value, bool) for value in values}) > 1:
            raise PolicyError(f"a Choice has numbers or truth values, not both, but got Choice{values!r}")
        object.__setattr__(self, "values", values)

    def check(self, value: Any) -> float:
        """Return the value as a float, or raise PolicyError."""
        if value not in self.values or isinstance(value, bool) != isinstance(self.values[0], bool):
            raise PolicyError(f"must be one of {', '.join(map(str, self.values))}, but got {value!r}")
        return float(value)


@dataclass(frozen=True, eq=False)
class Policy:
    """One registered policy: a function and what its signature says."""

    slot: str
    name: str
    function: Callable[..., Any]
    tunables: dict[str, Span | Choice]
    defaults: dict[str, Any]
    path: Path
    extras: tuple[str, ...] = ()  # of EXTRAS, what it takes

    @cached_property
    def _reach(self) -> tuple[set[str], str]:
        return _reached(self.function)  # on first use: helpers may stand below the policy in its file

    @property
    def reads(self) -> frozenset[str]:
        """Every attribute and global name that the policy reads, helpers included."""
        return frozenset(self._reach[0])

    @property
    def uses(self) -> frozenset[str]:
        """Arguments that the policy looks at, itself; not those of its helpers."""
        import dis

        steps = [step for step in dis.get_instructions(self.function) if step.opname.startswith("LOAD_FAST")]
        names = [step.argval if isinstance(step.argval, tuple) else (step.argval,) for step in steps]
        return frozenset(str(name) for group in names for name in group)

    @property
    def content(self) -> str:
        """Digest of the policy's code and its helpers'."""
        return self._reach[1]

    @property
    def doc(self) -> str:
        """The docstring, cleaned."""
        return inspect.getdoc(self.function) or ""

    @property
    def source(self) -> str:
        """The docstring's source line: where the algorithm comes from."""
        lines = (line.strip() for line in self.doc.splitlines())
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("source")), "")


@dataclass(frozen=True)
class Chosen:
    """A policy with a value for each tunable."""

    policy: Policy
    values: dict[str, Any]

    @property
    def vector(self) -> list[float]:
        """Tunables in the order of the signature, as floats."""
        return [self.policy.tunables[name].check(self.values[name]) for name in self.policy.tunables]


_registry: dict[str, dict[str, Policy]] = {slot: {} for slot in SLOTS}


def policy(slot: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as a policy of a slot; the function itself is returned unchanged.

    slot   : one of SLOTS
    raises : PolicyError for an unknown slot, a wrong first argument, or a tunable without range or default
    """
    if slot not in SLOTS:
        raise PolicyError(f"slot must be one of {', '.join(SLOTS)}, but got {slot!r}")

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _registry[slot][function.__name__] = describe(slot, function)
        return function

    return register


def describe(slot: str, function: Callable[..., Any]) -> Policy:
    """Return a function as a policy of a slot, without registering it; raises as `policy`."""
    name, context = function.__name__, SLOTS[slot]
    parameters = list(inspect.signature(function).parameters.values())
    if tuple(p.name for p in parameters[: len(context)]) != context:
        raise PolicyError(f"{slot} policy {name!r} must take ({', '.join(context)}, ...) first, "
                          f"but takes ({', '.join(p.name for p in parameters)})")
    tunables, defaults = {}, {}
    extras = tuple(p.name for p in parameters[len(context):] if p.name in EXTRAS.get(slot, ()))
    if tuple(p.name for p in parameters[len(context) : len(context) + len(extras)]) != extras:
        raise PolicyError(f"{slot} policy {name!r} must take {', '.join(extras)} right after {context[-1]}")
    for parameter in parameters[len(context) + len(extras):]:
        if parameter.name == "name":
            raise PolicyError(f"{slot} policy {name!r}: a tunable cannot be called 'name', which is the policy's")
        if not isinstance(parameter.annotation, Span | Choice) or parameter.default is parameter.empty:
            raise PolicyError(f"{slot} policy {name!r}: tunable {parameter.name!r} needs a range and a default, "
                              f"as in {parameter.name}: Span(0.0, 8.0) = 1.0")
        tunables[parameter.name], defaults[parameter.name] = parameter.annotation, parameter.default
        try:
            parameter.annotation.check(parameter.default)
        except PolicyError as error:
            raise PolicyError(f"{slot} policy {name!r}: default of {parameter.name!r} {error}") from None
    if len(tunables) > MAX_TUNABLES:
        raise PolicyError(f"{slot} policy {name!r} has {len(tunables)} tunables, but at most {MAX_TUNABLES} are kept")
    path = Path(function.__code__.co_filename)
    return Policy(slot, name, function, tunables, defaults, path, extras)


def _reached(function: Callable[..., Any]) -> tuple[set[str], str]:
    """Follow a function into the plain functions that it calls, in other modules too.

    returns : every attribute and global name read; a digest of all their code and of the constants they use, so that
              compiled code of a policy is never older than a helper of it
    """
    names: set[str] = set()
    content = hashlib.sha256()
    todo: list[Any] = [function]
    seen: set[int] = set()
    while todo:
        current = todo.pop()
        current = getattr(current, "py_func", current)
        if isinstance(current, int | float | str | tuple):
            content.update(repr(current).encode())
        if not isinstance(current, FunctionType) or id(current) in seen:
            continue
        seen.add(id(current))
        for code in _codes(current.__code__):
            names.update(code.co_names)
            constants = [constant for constant in code.co_consts if not isinstance(constant, CodeType)]
            content.update(code.co_code + repr((code.co_names, constants)).encode())
            found = [current.__globals__.get(name) for name in code.co_names]
            modules = [value for value in found if isinstance(value, ModuleType)]
            todo += found + [getattr(module, name, None) for module in modules for name in code.co_names]
    return names, content.hexdigest()


def _codes(code: CodeType) -> list[CodeType]:
    nested = [inner for constant in code.co_consts if isinstance(constant, CodeType) for inner in _codes(constant)]
    return [code, *nested]


def load_all() -> None:
    """Import every module of the package `policies`; done once."""
    package = importlib.import_module("policies")
    for module in pkgutil.walk_packages(package.__path__, "policies."):
        importlib.import_module(module.name)


def load_file(path: str | Path) -> None:
    """Import a user's file, which registers the policies in it.

    raises : PolicyError if the file is missing, does not run, or registers nothing
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise PolicyError(f"plug-in file must exist, but {path} does not: give its path in plugins=[...]")
    before = {(slot, name): id(p) for slot, group in _registry.items() for name, p in group.items()}
    spec = importlib.util.spec_from_file_location(f"kvreplay_plugin_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise PolicyError(f"plug-in must be a Python file, but got {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except PolicyError:
        raise
    except (Exception, SystemExit) as error:
        raise PolicyError(f"plug-in {file.name} does not import: {type(error).__name__}: {error}") from error
    after = {(slot, name): id(p) for slot, group in _registry.items() for name, p in group.items()}
    if before == after:
        raise PolicyError(f"plug-in {file.name} registers no policy: decorate a function with @policy(\"route\") or "
                          f"another slot")


def registry() -> dict[str, dict[str, Policy]]:
    """Return slot -> name -> policy, as registered so far."""
    return _registry


def choose(slot: str, name: str, params: Mapping[str, Any] | None = None) -> Chosen:
    """Return a policy with its tunables set.

    raises : PolicyError naming the closest match for an unknown slot, policy or tunable, or the range broken
    """
    if slot not in SLOTS:
        raise PolicyError(f"policy slot must be one of {', '.join(SLOTS)}, but got {slot!r}{_hint(slot, SLOTS)}")
    group = _registry[slot]
    if name not in group:
        load_all()
    if name not in group:
        known = ", ".join(sorted(group))
        raise PolicyError(f"{slot} policy must be one of {known}, but got {name!r}{_hint(name, group)}")
    found = group[name]
    future = sorted(found.reads & ORACLES_ONLY)
    if future and not name.startswith("oracle_"):
        raise PolicyError(f"{slot} policy {name!r} reads {future[0]}, which is still to come: only a policy whose name "
                          f"begins with oracle_ may")
    values = dict(found.defaults)
    for key, value in (params or {}).items():
        if key not in found.tunables:
            known = ", ".join(found.tunables) or "none"
            hint = _hint(key, found.tunables)
            raise PolicyError(f"{slot} policy {name!r} has no tunable {key!r} (it has: {known}){hint}")
        try:
            found.tunables[key].check(value)
        except PolicyError as error:
            raise PolicyError(f"policy.{slot}.{key} of {name!r} {error}") from None
        values[key] = value
    return Chosen(found, values)


def _hint(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f": did you mean {close[0]!r}?" if close else ""

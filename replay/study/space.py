"""The space of a study: tunables of the chosen policies, with the ranges of their signatures, and any other key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from replay.configuration import NODES
from replay.errors import ConfigError
from replay.life_config import fails
from replay.policy import SLOTS, Choice, choose

Value = float | int | str | bool | None


@dataclass(frozen=True)
class Dimension:
    """One key of a configuration that a study sets: a range, or a choice of values.

    name   : of the parameter in the study
    key    : dotted place in the configuration, or a group such as policy/route
    values : what can be chosen; empty for a range
    """

    name: str
    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    values: tuple[Value, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether the range has whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def group(self) -> bool:
        """Whether its values are names of configurations of a group."""
        return is_group(self.key)

    def suggest(self, trial: optuna.Trial) -> Value:
        """Let a trial choose a value."""
        if self.values:
            return trial.suggest_categorical(self.name, self.values)
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:
        """Whether a value is one that a trial could choose."""
        if self.values:
            return any(value is one or (value == one and type(value) is type(one)) for one in self.values)
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high


def is_group(key: str) -> bool:
    """Whether a key names a group of configurations."""
    return "/" in key or (key in NODES and key not in ("policy", "signals"))


def of_keys(space: Any) -> list[Dimension]:
    """Read `study.space`.

    raises : ConfigError for what is no range {low, high, log} and no list of values
    """
    if space is None:
        return []
    if not isinstance(space, Mapping):
        raise ConfigError(f"study.space must map keys to ranges or lists of values, but is {space!r}.")
    return [_of_key(str(key), spec) for key, spec in space.items()]


def _of_key(key: str, spec: Any) -> Dimension:
    place = f"study.space.{key}"
    if isinstance(spec, Sequence) and not isinstance(spec, str) and spec:
        values = tuple(spec)
        if not all(value is None or isinstance(value, str | bool | int | float) for value in values):
            raise ConfigError(f"{place} must list numbers, words or truth values, but has {list(values)!r}.")
        if is_group(key) and not all(isinstance(value, str) for value in values):
            raise ConfigError(f"{place} must list names of configurations of that group, but has {list(values)!r}.")
        return Dimension(key, key, values=values)
    if not isinstance(spec, Mapping) or not {"low", "high"} <= set(spec) <= {"low", "high", "log"} or is_group(key):
        raise ConfigError(f"{place} must be a list of values" + ("" if is_group(key) else " or {low: 1, high: 9}")
                          + f", but is {spec!r}.")  # fmt: skip
    low, high, log = spec["low"], spec["high"], spec.get("log", False)
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if not numbers or low > high or not isinstance(log, bool) or (log and low <= 0):
        raise ConfigError(f"{place} must have numbers with low <= high, and low > 0 for log, but is {dict(spec)!r}.")
    if isinstance(low, int) != isinstance(high, int):
        low, high = float(low), float(high)
    return Dimension(key, key, low, high, log)


def of_policies(config: Mapping[str, Any], wanted: Any, chosen: Mapping[str, Value]) -> list[Dimension]:
    """Return the tunables of the policies that a configuration chooses and asks.

    wanted  : "all", or a list of slots and slot.tunable
    chosen  : groups that the trial itself chose: their tunables carry the policy's name, to stay apart
    raises  : ConfigError for a name in `wanted` that is none
    """
    if wanted != "all" and not (isinstance(wanted, Sequence) and all(isinstance(name, str) for name in wanted)):
        raise ConfigError(f"study.tunables must be all, or a list of slots and slot.tunable, but is {wanted!r}.")
    found, known = [], set()
    for slot in asked(config):
        node = config["policy"][slot]
        for name, span in choose(slot, node["name"]).policy.tunables.items():
            known |= {slot, f"{slot}.{name}"}
            if wanted != "all" and slot not in wanted and f"{slot}.{name}" not in wanted:
                continue
            key = f"policy.{slot}.{name}"
            label = f"policy.{slot}.{node['name']}.{name}" if f"policy/{slot}" in chosen else key
            if isinstance(span, Choice):
                found.append(Dimension(label, key, values=span.values))
            else:
                found.append(Dimension(label, key, span.low, span.high, span.log))
    if wanted != "all" and not chosen and (unknown := [name for name in wanted if name not in known]):
        raise ConfigError(f"study.tunables names '{unknown[0]}', but the chosen policies have "
                          f"{', '.join(sorted(known)) or 'none'}.")  # fmt: skip
    return found


def asked(config: Mapping[str, Any]) -> list[str]:
    """Return the slots whose policies a run of a configuration asks."""
    cluster, kv = config["cluster"], config.get("kv") or {}
    idle = set()
    if not cluster.get("prefix_cache", True):
        idle.add("evict")
    if not kv.get("dram") and not kv.get("disk"):
        idle |= {"fetch", "write"}
    if not cluster.get("migrate_s"):
        idle.add("migrate")
    if not (config.get("scale") or {}).get("interval_s"):
        idle.add("scale")
    if not fails(config.get("failures")):
        idle.add("recover")
    return [slot for slot in SLOTS if slot in config["policy"] and slot not in idle]


def put(config: dict[str, Any], key: str, value: Value) -> None:
    """Set a dotted key of a configuration, modified in place.

    raises : ConfigError for a key that is not there
    """
    *above, last = key.split(".")
    node: Any = config
    for name in above:
        node = node.get(name) if isinstance(node, Mapping) else None
    if not isinstance(node, dict) or last not in node:
        raise ConfigError(f"study.space has the key '{key}', but the configuration has not. Use a key of config.yaml.")
    node[last] = value


def get(config: Mapping[str, Any], key: str) -> Any:
    """Return the value at a dotted key, None where there is none."""
    node: Any = config
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node

"""Read configuration fields, each refused with one sentence when it is not what it should be."""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from replay.errors import ConfigError

LARGEST_INT32 = 2**31 - 1
POWER = ("idle_w", "busy_w")


def keys(node: Mapping[str, Any], required: Iterable[str], optional: Iterable[str], place: str) -> None:
    """Refuse a node with an unknown or a missing key.

    raises : ConfigError with the nearest known key
    """
    required, known = tuple(required), (*required, *optional)
    for key in node:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"Did you mean {place}.{near[0]}?" if near else f"Known keys: {', '.join(known)}."
            raise ConfigError(f"{place}.{key} is not a known key. {hint}")
    missing = [key for key in required if key not in node]
    if missing:
        raise ConfigError(f"{place} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} missing.")


def number(value: Any, place: str, least: float = 0.0, above: float | None = None, most: float = math.inf) -> float:
    """Return a finite number within [least, most], or above `above`.

    raises : ConfigError
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{place} must be a number, but is {value!r}.")
    bound = f"above {above:g}" if above is not None else f"at least {least:g}"
    bound += "" if most == math.inf else f" and at most {most:g}"
    low = value <= above if above is not None else value < least
    if not math.isfinite(value) or low or value > most:
        raise ConfigError(f"{place} must be finite, {bound}, but is {value!r}.")
    return float(value)


def count(value: Any, place: str, least: int = 1, most: int = LARGEST_INT32) -> int:
    """Return a whole number within [least, most]; 4.0 counts as 4.

    raises : ConfigError
    """
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or not least <= value <= most:
        raise ConfigError(f"{place} must be a whole number from {least} to {most}, but is {value!r}.")
    return int(value)


def choice(value: Any, allowed: Iterable[Any], place: str, remedy: str = "") -> Any:
    """Return a value that is one of a few: words, truth values or None; 1 is no truth value.

    raises : ConfigError, with a remedy behind it where one is given
    """
    allowed = tuple(allowed)
    if not any(value is one or (isinstance(one, str) and value == one) for one in allowed):
        words = ", ".join("null" if one is None else str(one).lower() for one in allowed)
        raise ConfigError(f"{place} must be one of {words}, but is {value!r}.{remedy and ' ' + remedy}")
    return value


def watts(node: Mapping[str, Any]) -> dict[str, float | None]:
    """Return idle_w and busy_w of a `hardware` node, None where unknown.

    raises : ConfigError for a power that is no number, or a GPU that takes more at rest than at work
    """
    power = {key: None if node.get(key) is None else number(node[key], f"hardware.{key}", most=1e6) for key in POWER}
    idle_w, busy_w = power["idle_w"], power["busy_w"]
    if idle_w is not None and busy_w is not None and idle_w > busy_w:
        raise ConfigError(f"hardware.idle_w must be at most hardware.busy_w, but they are {idle_w:g} and {busy_w:g} W. "
                          f"Set one of them, or null where it is unknown.")
    return power

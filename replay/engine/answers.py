"""Give a policy's answer the type its slot returns, or refuse it: nothing of another shape reaches the kernel.

Each function exists twice: for compiled policies the check is done once, by type, when the policy is compiled.
"""

import math
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types as t
from numba.core.errors import TypingError
from numba.extending import overload

EXPECTED = {
    "admit": "True or False",
    "route": "an instance index, HOLD, or (instance index, index to fetch the prefix from)",
    "decode": "an instance index",
    "order": "a key, or (key, margin), as numbers",
    "batch": "(prefill_tokens, decode, whole) as a whole number and two truth values",
    "evict": "a score, as a number",
    "fetch": "(tier, wait_s) as a whole number and a number",
    "write": "True or False",
    "migrate": "(instance to move a request from, instance to move it to), or (-1, -1) for none",
    "scale": "a number of instances, as a whole number",
    "recover": "RESTART, RESUME, RESTORE or GIVE_UP",
}


def _whole(kind: Any) -> bool:
    return isinstance(kind, t.Integer)


def _truth(kind: Any) -> bool:
    return isinstance(kind, t.Boolean | t.Integer)


def _number(kind: Any) -> bool:
    return isinstance(kind, t.Integer | t.Float)


def _parts(kind: Any) -> tuple[Any, ...]:
    return tuple(kind) if isinstance(kind, t.BaseTuple) else ()


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool | np.bool_ | numbers.Integral)


def _refuse(slot: str, answer: Any) -> Any:
    raise TypeError(f"a {slot} policy must return {EXPECTED[slot]}, but returned {answer!r}")


def admit_answer(answer):
    """Return 1 to take the request, 0 to reject it."""
    return int(bool(answer)) if _is_truth(answer) else _refuse("admit", answer)


def route_answer(answer):
    """Return (instance, source of a fetch or -1)."""
    if isinstance(answer, tuple):
        good = len(answer) == 2 and all(map(_is_whole, answer))
        return (int(answer[0]), int(answer[1])) if good else _refuse("route", answer)
    return (int(answer), -1) if _is_whole(answer) else _refuse("route", answer)


def decode_answer(answer):
    """Return (instance, -1)."""
    return (int(answer), -1) if _is_whole(answer) else _refuse("decode", answer)


def order_answer(answer):
    """Return (key, margin)."""
    if isinstance(answer, tuple):
        good = len(answer) == 2 and all(map(_is_number, answer))
        return (float(answer[0]), float(answer[1])) if good else _refuse("order", answer)
    return (float(answer), math.inf) if _is_number(answer) else _refuse("order", answer)


def batch_answer(answer):
    """Return (prefill tokens, decode, whole)."""
    good = isinstance(answer, tuple) and len(answer) == 3 and _is_whole(answer[0]) and all(map(_is_truth, answer[1:]))
    return (int(answer[0]), int(bool(answer[1])), int(bool(answer[2]))) if good else _refuse("batch", answer)


def evict_answer(answer):
    """Return the score."""
    return float(answer) if _is_number(answer) else _refuse("evict", answer)


def fetch_answer(answer):
    """Return (highest tier to load from, seconds that the request may wait for it outside the queue)."""
    good = isinstance(answer, tuple) and len(answer) == 2 and _is_whole(answer[0]) and _is_number(answer[1])
    return (int(answer[0]), float(answer[1])) if good else _refuse("fetch", answer)


def write_answer(answer):
    """Return 1 to write, 0 not to."""
    return int(bool(answer)) if _is_truth(answer) else _refuse("write", answer)


def migrate_answer(answer):
    """Return (source, target)."""
    good = isinstance(answer, tuple) and len(answer) == 2 and all(map(_is_whole, answer))
    return (int(answer[0]), int(answer[1])) if good else _refuse("migrate", answer)


def scale_answer(answer):
    """Return how many instances a pool should have."""
    return int(answer) if _is_whole(answer) else _refuse("scale", answer)


def recover_answer(answer):
    """Return what a lost request is to do."""
    return int(answer) if _is_whole(answer) else _refuse("recover", answer)


ANSWERS: dict[str, Callable[[Any], Any]] = {
    "admit": admit_answer, "route": route_answer, "decode": decode_answer, "order": order_answer, "batch": batch_answer,
    "evict": evict_answer, "fetch": fetch_answer, "write": write_answer, "migrate": migrate_answer,
    "scale": scale_answer, "recover": recover_answer,
}


def _refuse_type(slot: str, kind: Any) -> Any:
    raise TypingError(f"a {slot} policy must return {EXPECTED[slot]}, but returns {kind}")


@overload(admit_answer)
def _admit(answer):
    if not _truth(answer):
        _refuse_type("admit", answer)
    return lambda answer: np.int64(1) if answer else np.int64(0)


@overload(route_answer)
def _route(answer):
    if _whole(answer):
        return lambda answer: (np.int64(answer), np.int64(-1))
    if len(_parts(answer)) != 2 or not all(map(_whole, _parts(answer))):
        _refuse_type("route", answer)
    return lambda answer: (np.int64(answer[0]), np.int64(answer[1]))


@overload(decode_answer)
def _decode(answer):
    if not _whole(answer):
        _refuse_type("decode", answer)
    return lambda answer: (np.int64(answer), np.int64(-1))


@overload(order_answer)
def _order(answer):
    if _number(answer):
        return lambda answer: (np.float64(answer), math.inf)
    if len(_parts(answer)) != 2 or not all(map(_number, _parts(answer))):
        _refuse_type("order", answer)
    return lambda answer: (np.float64(answer[0]), np.float64(answer[1]))


@overload(batch_answer)
def _batch(answer):
    parts = _parts(answer)
    if len(parts) != 3 or not _whole(parts[0]) or not all(map(_truth, parts[1:])):
        _refuse_type("batch", answer)
    return lambda answer: (np.int64(answer[0]), np.int64(1 if answer[1] else 0), np.int64(1 if answer[2] else 0))


@overload(evict_answer)
def _evict(answer):
    if not _number(answer):
        _refuse_type("evict", answer)
    return lambda answer: np.float64(answer)


@overload(fetch_answer)
def _fetch(answer):
    parts = _parts(answer)
    if len(parts) != 2 or not _whole(parts[0]) or not _number(parts[1]):
        _refuse_type("fetch", answer)
    return lambda answer: (np.int64(answer[0]), np.float64(answer[1]))


@overload(write_answer)
def _write(answer):
    if not _truth(answer):
        _refuse_type("write", answer)
    return lambda answer: np.int64(1) if answer else np.int64(0)


@overload(migrate_answer)
def _migrate(answer):
    if len(_parts(answer)) != 2 or not all(map(_whole, _parts(answer))):
        _refuse_type("migrate", answer)
    return lambda answer: (np.int64(answer[0]), np.int64(answer[1]))


@overload(scale_answer)
def _scale(answer):
    if not _whole(answer):
        _refuse_type("scale", answer)
    return lambda answer: np.int64(answer)


@overload(recover_answer)
def _recover(answer):
    if not _whole(answer):
        _refuse_type("recover", answer)
    return lambda answer: np.int64(answer)

"""What the readers of engine logs share: records out of JSON, and numbers out of records, each refused by its place."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from replay.errors import LogError

HEAD_BYTES = 65536


@dataclass(frozen=True, eq=False)
class Found:
    """What a format's reader took from a file, before the rules of a log are checked.

    columns  : name of `logs.COLUMNS` -> values, None where unknown, one a request; times in seconds of one clock
    places   : where each request stands in the file, for messages
    gauges   : t_s, and what of running, waiting, kv_used (share) was sampled; None without samples
    settings : keys of kvreplay run that the log states, such as cluster.max_batch
    """

    columns: Mapping[str, Sequence[Any]]
    places: Sequence[str]
    gauges: pl.DataFrame | None = None
    block_tokens: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


def head_of(path: Path) -> bytes:
    """Return the first bytes of a file."""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        reason = error.strerror or error
        raise LogError(f"a log must be a file that can be read, but {path} is not: {reason}.") from None


def text_of(path: Path) -> str:
    """Return a whole file as text."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise LogError(f"a log must be a file that can be read, but {path.name} is not: {reason}.") from None


def json_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return (place, record) for each line that is not blank.

    raises : LogError naming the first line that is no JSON record
    """
    records = []
    for number, line in enumerate(text_of(path).splitlines(), 1):
        if line.strip():
            records.append((f"line {number} of {path.name}", record_of(line, f"line {number} of {path.name}")))
    return records


def record_of(text: str, place: str) -> dict[str, Any]:
    """Parse one JSON record."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise LogError(f"a log must hold JSON records, but {place} is none: {reason}. Mend or drop it.") from None
    if not isinstance(record, dict):
        raise LogError(f"a log must hold JSON records, but {place} is a {type(record).__name__}. Mend or drop it.")
    return record


def first_record(head: bytes) -> dict[str, Any]:
    """Return the record that the first line of a file's head is, or the whole head; empty if neither is one."""
    text = head.decode("utf-8", errors="replace").lstrip("\ufeff \n\r\t")
    for part in (text.split("\n", 1)[0], text):
        try:
            record = json.loads(part)
        except (ValueError, RecursionError):
            continue
        return record if isinstance(record, dict) else {}
    return {}


def seconds(record: Mapping[str, Any], key: str, place: str, needed: bool = True) -> float | None:
    """Return a finite number of a record; None for null or absent where it is not needed."""
    value = record.get(key)
    if value is None and not needed:
        return None
    return finite(value, f"'{key}' of {place}")


def tokens(record: Mapping[str, Any], key: str, place: str) -> int:
    """Return a whole number of tokens, 0 or more, of a record."""
    return whole(record.get(key), f"'{key}' of {place}")


def finite(value: Any, place: str) -> float:
    """Return a finite number, or raise LogError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise LogError(f"{place} must be a finite number, but is {_short(value)}. Mend or drop the record.")
    return float(value)


def whole(value: Any, place: str) -> int:
    """Return a whole number from 0 to 2^31 - 1, or raise LogError."""
    fine = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not fine or not 0 <= value < 2**31:
        raise LogError(f"{place} must be a whole number of tokens from 0 to 2^31 - 1, but is {_short(value)}. "
                       f"Mend or drop the record.")  # fmt: skip
    return int(value)


def items(record: Mapping[str, Any], key: str, place: str, count: int | None = None) -> list[Any]:
    """Return a list of a record, of `count` items where that is known."""
    value = record.get(key)
    if not isinstance(value, list):
        raise LogError(f"'{key}' of {place} must be a list, but is {_short(value)}.")
    if count is not None and len(value) != count:
        raise LogError(f"the lists of {place} must be of one length, but '{key}' has {len(value)} items, not {count}.")
    return value


def _short(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

"""A plain table, CSV, Parquet, Arrow or JSON lines, with the columns of a log or a map to them."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet

from replay.errors import LogError
from replay.fidelity.formats.source import Found, finite, record_of, text_of, whole

PRIORITY = 1
REQUIRED = ("arrival_s", "prompt_tokens", "output_tokens")
TIMES = ("queued_s", "scheduled_s", "first_token_s", "last_token_s")
# column that a table may have in place of a time -> that time, which is the arrival and so much
SINCE_ARRIVAL = {"queue_s": "scheduled_s", "ttft_s": "first_token_s", "e2e_s": "last_token_s"}
LABELS = ("session", "tenant", "tier", "error")
NAMES = (*REQUIRED, *TIMES, *SINCE_ARRIVAL, *LABELS, "prefix_blocks", "status")


def sniff(path: Path, head: bytes) -> bool:
    return True


def read(path: Path, columns: Mapping[str, str] | None = None) -> Found:
    """Read a table.

    columns : column of a log -> the table's; those not named are taken where the table has the log's name. Times are
              seconds of one clock; in their place queue_s, ttft_s and e2e_s may stand, which count from the arrival
    raises  : LogError for a column that is missing, or a value that is no number, with its row
    """
    if unknown := sorted(set(columns or {}) - set(NAMES)):
        raise LogError(f"the columns of a log are {', '.join(NAMES)}, but the map names '{unknown[0]}'.")
    frame, block_tokens = _frame(path)
    source = {name: (columns or {}).get(name, name) for name in NAMES}
    wanted = [*REQUIRED, *(columns or {})]
    if missing := [source[name] for name in wanted if source[name] not in frame.columns]:
        raise LogError(f"a log must have the columns {', '.join(REQUIRED)}, but {path.name} has no '{missing[0]}' "
                       f"among {', '.join(frame.columns[:12])}. Map its columns: "
                       f"calibrate.columns={{arrival_s: start, ...}}.")
    given = {name: frame[source[name]].to_list() for name in NAMES if source[name] in frame.columns}
    places = [f"row {row} of {path.name}" for row in range(frame.height)]
    found: dict[str, Sequence[Any]] = {"arrival_s": _each(given["arrival_s"], finite, "arrival_s", places)}
    for name in ("prompt_tokens", "output_tokens"):
        found[name] = _each(given[name], whole, name, places)
    for name in TIMES:
        if name in given:
            found[name] = _each(given[name], _maybe, name, places)
    for name, time in SINCE_ARRIVAL.items():
        if name in given and time not in given:
            after_s = _each(given[name], _maybe, name, places)
            found[time] = [None if one is None else start + one for start, one in zip(found["arrival_s"], after_s,
                                                                                     strict=True)]  # fmt: skip
    for name in LABELS:
        if name in given:
            found[name] = [None if value is None else str(value) for value in given[name]]
    if "error" not in given and "status" in given:
        found["error"] = [None if value in (None, "finished") else str(value) for value in given["status"]]
    if "prefix_blocks" in given and block_tokens:
        found["prefix_blocks"] = given["prefix_blocks"]
    settings, notes = _beside(path)
    return Found(found, places, None, block_tokens, settings, notes)


def _beside(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings and notes that `kvreplay profile observe` left beside its log; nothing beside another."""
    meta = path.with_name("meta.json")
    if path.name != "log.parquet" or not meta.is_file():
        return {}, {}
    stated = record_of(text_of(meta), meta.name)
    settings = stated.pop("settings", None)
    return (settings if isinstance(settings, dict) else {}), stated


def _maybe(value: Any, place: str) -> float | None:
    return None if value is None or value != value else finite(value, place)


def _each(values: Sequence[Any], read_one: Callable[[Any, str], Any], name: str, places: Sequence[str]) -> list[Any]:
    return [read_one(value, f"{name} of {place}") for value, place in zip(values, places, strict=True)]


def _frame(path: Path) -> tuple[pl.DataFrame, int | None]:
    """Read any table; returns it and the tokens of a prefix block, which Parquet files of ours state."""
    with open(path, "rb") as file:
        magic = file.read(6)
    try:
        if magic[:4] == b"PAR1":
            stated = (pyarrow.parquet.read_schema(path).metadata or {}).get(b"block_tokens", b"")
            return pl.read_parquet(path), int(stated) if stated.isdigit() else None
        if magic == b"ARROW1":
            return pl.read_ipc(path), None
        text = text_of(path)
        if text.lstrip()[:1] == "{":
            return pl.read_ndjson(io.StringIO(text), infer_schema_length=None), None
        return pl.read_csv(io.StringIO(text), infer_schema_length=None), None
    except (pl.exceptions.PolarsError, pyarrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else "it is none"
        raise LogError(f"a log must be a table or of another known format, but {path.name} cannot be read: {reason}. "
                       f"Name its format with format=.") from None

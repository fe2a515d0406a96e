"""The log of a real engine: what happened to each request, whichever client or server wrote it down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from replay.errors import LogError, TraceError
from replay.fidelity.formats import Found, formats
from replay.fidelity.formats.source import head_of
from replay.metrics import COLUMNS as DEFINITIONS
from replay.metrics import PER_REQUEST
from traces.schema import Trace, build

# name -> type of the columns of a log, in their order; times in seconds from the first arrival, null where unknown
COLUMNS: dict[str, Any] = {
    "arrival_s": pl.Float64,
    "prompt_tokens": pl.Int64,
    "output_tokens": pl.Int64,  # tokens that came back
    "queued_s": pl.Float64,
    "scheduled_s": pl.Float64,
    "first_token_s": pl.Float64,
    "last_token_s": pl.Float64,
    "session": pl.String,
    "tenant": pl.String,
    "tier": pl.String,
    "error": pl.String,  # why a request failed; null for one that did not
    "prefix_blocks": pl.List(pl.Int64),
}
TIMES = ("arrival_s", "queued_s", "scheduled_s", "first_token_s", "last_token_s")
# picosecond column of `replay.metrics` -> time of a log
INSTANTS = {"arrival_ps": "arrival_s", "scheduled_ps": "scheduled_s", "first_token_ps": "first_token_s",
            "finish_ps": "last_token_s"}  # fmt: skip
FILES = ("log.parquet", "requests.jsonl", "requests.parquet")  # of a folder, the first that is there
CLOCK_SLACK_S = 1e-3  # two clocks of one host may disagree by so much on what came first


@dataclass(frozen=True, eq=False)
class Log:
    """The requests of a recorded run, in order of arrival.

    requests : columns of `COLUMNS` that are known
    gauges   : t_s, running, waiting, kv_used (share of KV memory) as sampled; None without
    settings : keys of kvreplay run that the log states, such as cluster.max_batch
    """

    requests: pl.DataFrame
    name: str
    format: str
    block_tokens: int | None = None
    gauges: pl.DataFrame | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def served(self) -> pl.DataFrame:
        """The requests that did not fail, with the metrics of `measured`."""
        fine = pl.col("error").is_null() if "error" in self.requests.columns else pl.lit(True)
        return measured(self.requests).filter(fine & (pl.col("output_tokens") > 0))

    def trace(self) -> Trace:
        """Return the served requests as a trace, arrivals as recorded; row r is row r of `served`."""
        rows = self.served
        names = [name for name in ("arrival_s", "prompt_tokens", "output_tokens", "session", "tenant", "tier")
                 if name in rows.columns and rows[name].null_count() == 0]  # fmt: skip
        columns: dict[str, Any] = {name: rows[name] for name in names}
        if "prefix_blocks" in rows.columns and self.block_tokens:
            most = (rows["prompt_tokens"] // self.block_tokens).to_list()
            columns["prefix_blocks"] = [(blocks or [])[:count] for blocks, count in
                                        zip(rows["prefix_blocks"].to_list(), most, strict=True)]  # fmt: skip
        try:
            return build(self.name, columns, self.block_tokens if "prefix_blocks" in columns else None)
        except TraceError as error:
            raise LogError(f"the served requests of {self.name} must make a trace, but {error}") from None


def read(path: str | Path, format: str | None = None, columns: Mapping[str, str] | None = None) -> Log:
    """Read a log of any known format.

    path    : file, or a folder that holds log.parquet or requests.jsonl
    format  : name of a module of replay/fidelity/formats; None looks at the content
    columns : column map of a plain table, {"arrival_s": "start", ...}
    raises  : LogError for a file that is missing, of no format, or breaks a rule, with the place
    """
    file = _file(Path(path))
    known = formats()
    if columns:
        format = format or "table"
    if format is None:
        head = head_of(file)
        if not head.strip():
            raise LogError(f"a log must have at least one request, but {file.name} is empty.")
        format = next(name for name, module in known.items() if module.sniff(file, head))
    if format not in known:
        raise LogError(f"the format of a log must be one of {', '.join(known)}, but is '{format}'.")
    if columns and format != "table":
        raise LogError(f"a column map is for plain tables, but the format of {file.name} is {format}. Leave it out.")
    found = known[format].read(file, columns) if format == "table" else known[format].read(file)
    return _log(found, file.parent.name + "/" + file.name if file.name in FILES else file.name, format)


def measured(requests: pl.DataFrame) -> pl.DataFrame:
    """Add queue_s, ttft_s, tpot_s and e2e_s, by the definitions of `replay.metrics`; null where a time is unknown."""
    instants = {name: _ps(requests, time) for name, time in INSTANTS.items()}
    frame = requests.with_columns(**instants)
    return frame.with_columns(**{name: DEFINITIONS[name] for name in PER_REQUEST}).drop(list(instants))


def _ps(requests: pl.DataFrame, time: str) -> pl.Expr:
    if time not in requests.columns:
        return pl.lit(None, pl.Int64)
    return (pl.col(time) * 1e12).round().cast(pl.Int64)


def _file(path: Path) -> Path:
    if path.is_dir():
        for name in FILES:
            if (path / name).is_file():
                return path / name
        raise LogError(f"the folder of a log must hold one of {', '.join(FILES)}, but {path} does not.")
    if not path.is_file():
        raise LogError(f"a log must be a file or a folder, but there is none at {path}. Check the path.")
    return path


def _log(found: Found, name: str, format: str) -> Log:
    """Check the rules of a log, count its times from the first arrival, and sort it."""
    if not found.places:
        raise LogError(f"a log must have at least one request, but {name} has none.")
    frame = pl.DataFrame({key: pl.Series(key, list(values), COLUMNS[key], strict=False)
                          for key, values in found.columns.items()})  # fmt: skip
    frame = frame.select([key for key in COLUMNS if key in frame.columns and
                          (key in ("arrival_s", "prompt_tokens", "output_tokens")
                           or frame[key].null_count() < frame.height)])  # fmt: skip
    _check(frame, found.places)
    first_s = frame["arrival_s"].min()
    frame = frame.with_columns(pl.col(key) - first_s for key in TIMES if key in frame.columns)
    frame = frame.sort("arrival_s", maintain_order=True)
    return Log(frame, name, format, found.block_tokens, found.gauges, found.settings, found.notes)


def _check(frame: pl.DataFrame, places: Sequence[str]) -> None:
    """Refuse what cannot be: no prompt, an answer without tokens, or times that run backwards."""
    served = frame["error"].is_null() if "error" in frame.columns else pl.Series([True] * frame.height)
    rules = {
        "prompt_tokens must be at least 1": frame["prompt_tokens"] < 1,
        "output_tokens must be at least 1 unless the request failed (an 'error')":
            served & (frame["output_tokens"] < 1),
    }
    known = [time for time in TIMES if time in frame.columns]
    for place, later in enumerate(known):
        for earlier in known[:place]:
            backwards = (frame[later] < frame[earlier] - CLOCK_SLACK_S).fill_null(False)
            rules[f"{later} must not come before {earlier}"] = served & backwards
    for rule, broken in rules.items():
        if broken.any():
            row = int(np.argmax(broken.to_numpy()))
            values = ", ".join(f"{key} {frame[key][row]}" for key in (*known, "prompt_tokens", "output_tokens"))
            raise LogError(f"{rule}, but {places[row]} has {values}. Mend or drop it.")

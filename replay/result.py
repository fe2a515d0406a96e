"""The result of a replay: one row a request, a summary, a digest, and the run directory that holds them."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
from omegaconf import OmegaConf

from replay import cost, drafts, events, life, metrics, network, pipeline, tiers
from replay.engine.schema import FINISHED, NONE, PENDING, STATUSES, UNFINISHED
from replay.errors import ConfigError
from replay.write import together

if TYPE_CHECKING:
    from replay.session import Session

# The integers that define what happened, in the order in which the digest reads them.
DIGESTED = (
    "arrival_ps", "scheduled_ps", "first_token_ps", "finish_ps", "max_itl_ps", "status", "prefill_instance",
    "decode_instance", "hit_tokens", "preemptions", "generated_tokens",
)  # fmt: skip
NULLABLE = (
    "arrival_ps", "scheduled_ps", "first_token_ps", "finish_ps", "max_itl_ps", "prefill_instance", "decode_instance",
    metrics.LAST_TOKEN,
)  # fmt: skip
CARRIED = ("tenant", "session", "kind")
TABLES = ("stores", "media", "shards", "occupancy", *network.TABLES, *life.TABLES)
ORDER = (
    "arrival_s", "prompt_tokens", "output_tokens", "tier", "status", "prefill_instance", "decode_instance",
    "hit_tokens", "queue_s", "ttft_s", "tpot_s", "max_itl_s", "itl_top10_s", "e2e_s", "preemptions", "generated_tokens",
    "slo_met", *tiers.COLUMNS, *network.COLUMNS, *life.COLUMNS, *drafts.COLUMNS, *CARRIED, "arrival_ps", "scheduled_ps",
    "first_token_ps", "finish_ps", "max_itl_ps", metrics.LAST_TOKEN,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Result:
    """What a replay produced.

    requests : one row a request, in trace order; seconds derive from the exact *_ps columns
    summary  : flat name -> number, None where undefined
    digest   : sha256 over what happened to every request, equal for equal histories
    config   : resolved configuration, None for a replay called from Python
    events   : event log (see `replay.events.SCHEMA`), None unless asked for
    tables   : those of a KV hierarchy and of a fabric, name -> frame (`replay.tiers`, `replay.network`)
    """

    requests: pl.DataFrame = field(repr=False)
    summary: dict[str, metrics.Value] = field(repr=False)
    digest: str
    config: dict[str, Any] | None = field(default=None, repr=False)
    events: pa.Table | None = field(default=None, repr=False)
    tables: dict[str, pl.DataFrame] = field(default_factory=dict, repr=False)

    @classmethod
    def from_session(cls, session: "Session", config: Mapping[str, Any] | None = None) -> "Result":
        """Read a session's state, finished or not; requests still under way are `unfinished`.

        session : read only; its replay may go on afterwards
        config  : resolved configuration to keep with the result
        """
        columns = _columns(session)
        code = digest(columns)
        requests = _frame(session, columns)
        money, money_by_tier = cost.numbers(session, requests)
        totals: dict[str, metrics.Value] = {
            "events": int(session.state.cluster["events"][0]),
            "kernel_s": float(session.kernel_s),
            "digest": code,
            **metrics.prefill_work(session.state.instances[: len(session.state.prefill_views)]),
            **money,
            **tiers.numbers(session, requests),
            **network.numbers(session, requests),
            **pipeline.numbers(session, requests),
            **drafts.numbers(session),
            **_predicted(session),
            **_migrated(session),
            **life.numbers(session, requests),
        }
        numbers = metrics.summary(requests, session.state.histogram, session.slo, totals) | money_by_tier
        log = events.to_table(session.log) if getattr(session, "events", False) else None
        config = dict(config) if config is not None else None
        found = tiers.tables(session) | network.tables(session) | life.tables(session)
        return cls(requests, numbers, code, config, log, found)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the run directory: config.yaml, summary.json, requests.parquet, digest.txt and events.arrow.

        folder : created when missing; config.yaml and events.arrow appear only if the result has them
        raises : WriteError, with nothing half-written left behind
        """
        with together(folder) as place:
            with open(place("requests.parquet"), "wb") as file:
                self.requests.write_parquet(file, compression_level=1)
            for name, frame in self.tables.items():
                with open(place(f"{name}.parquet"), "wb") as file:
                    frame.write_parquet(file)
            if self.events is not None:
                events.write(self.events, place("events.arrow"))
            if self.config is not None:
                place("config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(self.config)), encoding="utf-8")
            text = json.dumps(self.summary, indent=2, allow_nan=False)
            place("summary.json").write_text(text + "\n", encoding="utf-8")
            place("digest.txt").write_text(self.digest + "\n", encoding="utf-8")
        tables = [(f"{name}.parquet", self.tables.get(name)) for name in TABLES]
        for name, content in (("events.arrow", self.events), ("config.yaml", self.config), *tables):
            if content is None:  # left by an earlier run in the same folder
                (Path(folder) / name).unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Result":
        """Read a run directory back.

        raises : ConfigError if the folder is not a run directory
        """
        where = Path(folder)
        try:
            numbers = json.loads((where / "summary.json").read_text(encoding="utf-8"))
            code = (where / "digest.txt").read_text(encoding="utf-8").strip()
            requests = pl.read_parquet(where / "requests.parquet")
        except (OSError, ValueError, pl.exceptions.PolarsError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"'{where}' must be the directory of a finished run, but {reason}.") from None
        config, log = where / "config.yaml", where / "events.arrow"
        settings = OmegaConf.to_container(OmegaConf.load(config)) if config.exists() else None
        return cls(
            requests,
            numbers,
            code,
            {str(key): value for key, value in settings.items()} if isinstance(settings, dict) else None,
            events.read(log) if log.exists() else None,
            {name: pl.read_parquet(where / f"{name}.parquet") for name in TABLES
             if (where / f"{name}.parquet").exists()},
        )


def digest(columns: Mapping[str, np.ndarray]) -> str:
    """Hash what happened to every request.

    columns : the integer columns of `DIGESTED`, (requests,) in trace order, -1 where an event did not happen
    returns : sha256 in hex over each column's name and little-endian int64 bytes; free of library versions
    """
    whole = hashlib.sha256()
    for name in DIGESTED:
        whole.update(f"{name} {len(columns[name])}\n".encode())
        whole.update(np.ascontiguousarray(columns[name], dtype="<i8").tobytes())
    return whole.hexdigest()


def _predicted(session: "Session") -> dict[str, metrics.Value]:
    """Return how good the predictions were that policies could read; nothing without any."""
    predicted = np.asarray(session.state.requests["predicted_tokens"])
    if not (predicted > 0).any():
        return {}
    from predictors.metrics import quality

    return dict(quality(predicted, np.asarray(session.state.jobs["output_tokens"])))


def _migrated(session: "Session") -> dict[str, metrics.Value]:
    """Return what live migration did in a run; nothing without it."""
    if not session.state.cluster["migrates"][0]:
        return {}
    moving = session.state.asking.moving
    token_bytes = np.array([instance.profile.kv_token_bytes for instance in session.cluster.instances])
    return {"migrations": int(moving["moved"].sum()), "migrations_given_up": int(moving["given_up"].sum()),
            "migrated_gb": float((moving["copied_tokens"] * token_bytes).sum()) / 1e9}  # fmt: skip


def _columns(session: "Session") -> dict[str, np.ndarray]:
    """Collect the integer columns from the kernel's rows, -1 for none."""
    requests, jobs = session.state.requests, session.state.jobs
    columns = {name: jobs[name] for name in DIGESTED if name in (jobs.dtype.names or ())}
    columns["arrival_ps"] = np.where(jobs["stage"] == PENDING, NONE, requests["arrival_ps"])
    columns["generated_tokens"] = requests["generated_tokens"]
    columns["max_itl_ps"] = np.where(jobs["max_itl_ps"] > 0, jobs["max_itl_ps"], NONE)
    columns["status"] = np.where(jobs["status"] < 0, UNFINISHED, jobs["status"])
    return columns | (pipeline.delivered(session, columns) if session.cluster.stages else {})


def _frame(session: "Session", columns: Mapping[str, np.ndarray]) -> pl.DataFrame:
    """Build the rows: integers from the kernel, words for codes, seconds from picoseconds."""
    state = session.state
    values: dict[str, Any] = {
        "prompt_tokens": state.requests["prompt_tokens"],
        "output_tokens": state.jobs["output_tokens"],
        "tier": _words(state.requests["tier"], session.slo.names),
    }
    values |= {name: column for name, column in columns.items() if name != "status"}
    values["status"] = _words(columns["status"], STATUSES)
    if state.cluster["gaps"][0]:
        longest_s = metrics.longest_gaps_s(state.gaps, state.gap_first, state.jobs["output_tokens"])
        finished_s = np.where(columns["status"] == FINISHED, longest_s, np.nan)
        values[metrics.LONGEST_GAPS] = pl.Series(finished_s).fill_nan(None)
    values |= tiers.columns(session) | network.columns(session) | life.columns(session)
    values |= pipeline.columns(session, columns) | drafts.columns(session)
    for name in CARRIED:
        if name in session.trace:
            values[name] = pl.from_arrow(session.trace.table.column(name)).cast(pl.String)
    frame = pl.DataFrame({name: _series(name, value) for name, value in values.items()})
    nullable = [name for name in NULLABLE if name in frame.columns]
    frame = frame.with_columns(pl.when(pl.col(name) >= 0).then(pl.col(name)).alias(name) for name in nullable)
    frame = frame.with_columns(**metrics.columns(frame.columns)).with_columns(slo_met=session.slo.met())
    names = (*ORDER, *pipeline.names(session.cluster.stages))
    return frame.select([name for name in names if name in frame.columns])


def _series(name: str, value: Any) -> pl.Series:
    return value.alias(name) if isinstance(value, pl.Series) else pl.Series(name, np.ascontiguousarray(value))


def _words(codes: np.ndarray, names: Any) -> pl.Series:
    return pl.Series(list(names), dtype=pl.String).gather(pl.Series(codes.astype(np.int64)))

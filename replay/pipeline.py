"""What the stages beside the transformer did: columns of requests, numbers of the summary, and which stage binds."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from replay.engine.schema import FINISHED, NONE
from replay.metrics import PS_PER_S, Value, quantile_of
from replay.stages import AFTER, BEFORE, BESIDE, FIRST_TOKEN, SEGMENT, Stage

if TYPE_CHECKING:
    from replay.session import Session

DECODER = "decoder"
BINDS, BINDS_FIRST = "binds", "binds_first"  # until its end; until its first token


def names(stages: tuple[Stage, ...]) -> list[str]:
    """Return the columns of requests.parquet that stages add, in order."""
    found = [name for stage in stages for name in (f"{stage.name}_queue_s", f"{stage.name}_s")]
    return [*found, BINDS, BINDS_FIRST] if stages else []


def delivered(session: "Session", columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return when the first and the last token of each request reached its user, -1 where they did not.

    columns : first_token_ps of the decoder, int64 (requests,), read only
    """
    first = columns["first_token_ps"].astype(np.int64)
    decoded = np.asarray(session.state.pipeline.journeys["decoded_ps"])
    tasks = _tasks(session)
    for s, stage in enumerate(session.cluster.stages):
        if stage.place == BESIDE and stage.gate == FIRST_TOKEN:
            own = tasks[:, s]
            there = np.where(_over(own), np.maximum(first, own["end_ps"]), NONE)
            first = np.where((first >= 0) & (own["calls"] > 0), there, first)
    last = np.where((decoded >= 0) & (first >= 0), np.maximum(decoded, first), NONE)
    return {"first_token_ps": first, "last_token_ps": last}


def columns(session: "Session", times: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the columns that stages add to the rows of requests; nothing without stages.

    times : finish_ps and the first_token_ps of `delivered`, int64 (requests,), -1 where not, read only
    """
    stages = session.cluster.stages
    if not stages:
        return {}
    tasks, found = _tasks(session), {}
    for s, stage in enumerate(stages):
        over = _over(tasks[:, s])
        for name, field in ((f"{stage.name}_queue_s", "queue_ps"), (f"{stage.name}_s", "service_ps")):
            found[name] = pl.Series(np.where(over, tasks[field][:, s] / PS_PER_S, np.nan)).fill_nan(None)
    jobs, journeys = session.state.jobs, np.asarray(session.state.pipeline.journeys)
    finish_ps = np.where(jobs["status"] == FINISHED, times["finish_ps"], NONE)
    own_ps, first_ps = np.asarray(jobs["first_token_ps"]), times["first_token_ps"]
    found[BINDS] = _words(stages, binding(stages, tasks, journeys, finish_ps))
    found[BINDS_FIRST] = _words(stages, binding_first(stages, tasks, journeys, own_ps, first_ps))
    return found


def binding(stages: tuple[Stage, ...], tasks: np.ndarray, journeys: np.ndarray, finish_ps: np.ndarray) -> np.ndarray:
    """Return what bound each request: 0 the decoder, 1 + s stage s, -1 for a request that did not finish.

    tasks : TASK (requests, stages); journeys : JOURNEY (requests,); finish_ps : int64 (requests,); all read only
    rule  : replay/engine/STAGES.md, "What binds"
    """
    spans = np.zeros((len(finish_ps), 1 + len(stages)), np.int64)
    at = np.asarray(finish_ps, np.int64).copy()
    entered, decoded = journeys["entered_ps"], journeys["decoded_ps"]
    _walk(stages, AFTER, tasks, spans, at)
    beyond = at > decoded  # then it is a stage beside or of a segment that ended last
    for s, stage in enumerate(stages):
        if stage.place == SEGMENT:
            here = beyond & (tasks["calls"][:, s] > 0) & (tasks["end_ps"][:, s] == at)
            spans[:, 1 + s] = np.where(here, at - decoded, 0)
            at = np.where(here, decoded, at)
            beyond &= ~here
    stopped = np.where(beyond, at, NONE)
    _walk(stages, BESIDE, tasks, spans, stopped)
    spans[:, 0] = np.where(beyond, 0, decoded - entered)
    at = entered.copy()
    _walk(stages, BEFORE, tasks, spans, at)
    return np.where(np.asarray(finish_ps) >= 0, spans.argmax(axis=1), NONE)


def binding_first(stages: tuple[Stage, ...], tasks: np.ndarray, journeys: np.ndarray, own_ps: np.ndarray,
                  first_ps: np.ndarray) -> np.ndarray:  # fmt: skip
    """Return what bound each first token, as `binding`, -1 where there was none.

    own_ps, first_ps : when the decoder had it, and when it reached its user, int64 (requests,), read only
    """
    spans = np.zeros((len(first_ps), 1 + len(stages)), np.int64)
    held = first_ps > own_ps
    _walk(stages, BESIDE, tasks, spans, np.where(held, first_ps, NONE))
    spans[:, 0] = np.where(held, 0, own_ps - journeys["entered_ps"])
    _walk(stages, BEFORE, tasks, spans, journeys["entered_ps"].copy())
    return np.where(first_ps >= 0, spans.argmax(axis=1), NONE)


def _words(stages: tuple[Stage, ...], codes: np.ndarray) -> pl.Series:
    """Return the names of what bound, null for -1."""
    words = pl.Series([DECODER, *(stage.name for stage in stages), None], dtype=pl.String)
    return words.gather(pl.Series(np.where(codes < 0, 1 + len(stages), codes)))


def _walk(stages: tuple[Stage, ...], place: int, tasks: np.ndarray, spans: np.ndarray, at: np.ndarray) -> None:
    """Go back over the stages of a place from a time of each request, writing down their spans; both in place."""
    for s in reversed(range(len(stages))):
        if stages[s].place == place:
            here = (tasks["calls"][:, s] > 0) & (tasks["end_ps"][:, s] == at) & (at >= 0)
            spans[:, 1 + s] = np.where(here, at - tasks["ready_ps"][:, s], 0)
            at[here] = tasks["ready_ps"][here, s]


def numbers(session: "Session", requests: pl.DataFrame) -> dict[str, Value]:
    """Return what stages add to the summary, as "stage.vision.utilisation"; nothing without stages.

    requests : one row a request, with the columns of `columns`
    returns  : of each stage utilisation (busy time of its servers / time from first arrival to its last event of them
               all), calls, items and batches served, batch_mean [calls], queue_s_mean and _p99, service_s_mean,
               binds_share: of the finished requests, binds_first_share: of the first tokens; the decoder's too
    """
    stages = session.cluster.stages
    if not stages:
        return {}
    span_ps = float(session.state.cluster["now_ps"][0]) - float(requests.select(pl.col("arrival_ps").min()).item() or 0)
    found: dict[str, Value] = {}
    for s, stage in enumerate(stages):
        row, queue, service = session.state.pipeline.stations[s], f"{stage.name}_queue_s", f"{stage.name}_s"
        key, batches = f"stage.{stage.name}", int(row["batches"])
        found |= {
            f"{key}.utilisation": float(row["busy_ps"]) / (span_ps * stage.servers) if span_ps > 0 else None,
            f"{key}.calls": int(row["calls"]), f"{key}.items": int(row["items"]), f"{key}.batches": batches,
            f"{key}.batch_mean": int(row["calls"]) / batches if batches else None,
            f"{key}.queue_s_mean": requests.select(pl.col(queue).mean()).item(),
            f"{key}.queue_s_p99": requests.select(quantile_of(queue, "p99")).item(),
            f"{key}.service_s_mean": requests.select(pl.col(service).mean()).item(),
        }
    for name in (DECODER, *(stage.name for stage in stages)):
        found |= {f"stage.{name}.{column}_share": _share(requests[column], name) for column in (BINDS, BINDS_FIRST)}
    return found


def usd_per_hour(stages: tuple[Stage, ...], cpu_usd_per_core_hour: float) -> float:
    """Return what the servers of all stages cost an hour, whatever they do."""
    own = [one.cores * cpu_usd_per_core_hour if one.usd_per_hour is None else one.usd_per_hour for one in stages]
    return float(sum(stage.servers * usd for stage, usd in zip(stages, own, strict=True)))


def _share(column: pl.Series, name: str) -> float | None:
    known = column.drop_nulls()
    return float((known == name).sum()) / len(known) if len(known) else None


def _tasks(session: "Session") -> np.ndarray:
    return np.asarray(session.state.pipeline.tasks).reshape(len(session.trace), len(session.cluster.stages))


def _over(tasks: np.ndarray) -> np.ndarray:
    return (tasks["calls"] > 0) & (tasks["ended"] == tasks["calls"])

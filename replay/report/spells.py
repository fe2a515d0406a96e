"""What requests were doing and where, as intervals read from the event log of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from replay import events
from replay.errors import ConfigError
from replay.report.windows import Windows, counts, merged

SCHEMA = {
    "request": pl.Int32,
    "what": pl.String,
    "instance": pl.Int32,
    "start_ps": pl.Int64,
    "end_ps": pl.Int64,
    "token_ps": pl.Int64,
    "ended_by": pl.String,
    "to": pl.Int32,
}
OPENING = {
    "arrive": "before",
    "hold": "held",
    "enqueue": "waiting",
    "admit": "running",
    "preempt": "waiting",
    "handoff": "handoff",
    "fetch": "fetch",
}
ENDING = ("finish", "reject", "fail")
COLUMNS = ("time_ps", "kind", "request", "instance", "value")


def log(path: Path) -> pl.DataFrame:
    """Return the events of a run, in the order in which they happened.

    raises : ConfigError if the file is no event log
    """
    try:
        table = events.read(path)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"'{path}' cannot be read as an event log: {reason}. Replay with events=true.") from None
    if table.column_names != list(COLUMNS):
        raise ConfigError(
            f"'{path}' must have the columns {', '.join(COLUMNS)} of an event log, but has "
            f"{', '.join(table.column_names)}. Replay with events=true."
        )
    return pl.from_arrow(table).with_columns(pl.col("kind").cast(pl.String))  # type: ignore[union-attr]


def around(happened: pl.DataFrame, window_ps: tuple[int, int]) -> pl.DataFrame:
    """Return all events of the requests that were there in a window.

    happened : as `log` returns
    """
    last = pl.col("kind").last().is_in(ENDING)
    there = happened.group_by("request").agg(low=pl.col("time_ps").first(), high=pl.col("time_ps").last(),
                                             over=last)  # fmt: skip
    there = there.filter((pl.col("low") <= window_ps[1]) & ((pl.col("high") >= window_ps[0]) | ~pl.col("over")))
    return happened.join(there.select("request"), on="request", how="semi", maintain_order="left")


def spells(happened: pl.DataFrame, last_ps: int | None = None) -> pl.DataFrame:
    """Return every interval of every request, in the order of requests and time.

    happened : as `log` returns
    last_ps  : when the log ends, None for its last event here
    returns  : request; what: before (arrived, not yet anywhere), held (in the cluster queue), waiting (at an instance),
               running (in its batch), fetch or handoff (KV under way); instance, null for none; start_ps; end_ps, the
               last event's time for what had not ended; token_ps, the first token where it came in this interval;
               ended_by, the kind of the event that ended it, null for none; to, the instance of that event
    """
    if not happened.height:
        return pl.DataFrame(schema=SCHEMA)
    last_ps = int(happened["time_ps"][-1]) if last_ps is None else last_ps
    token = happened.filter(pl.col("kind") == "token").select("request", token_ps="time_ps")
    steps = happened.filter(pl.col("kind") != "token").with_row_index("order").sort("request", "order")
    following = {
        name: pl.col(of).shift(-1).over("request")
        for name, of in (("end_ps", "time_ps"), ("ended_by", "kind"), ("to", "instance"))
    }
    rows = steps.with_columns(**following).filter(pl.col("kind").is_in(list(OPENING)))
    rows = rows.with_columns(
        what=pl.col("kind").replace_strict(OPENING, return_dtype=pl.String),
        start_ps="time_ps",
        end_ps=pl.col("end_ps").fill_null(last_ps),
    ).join(token, on="request", how="left", maintain_order="left")
    first = (pl.col("what") == "running") & pl.col("token_ps").is_between("start_ps", "end_ps")
    # A token and the next admission at the same instant: the token belongs to the interval that it ended.
    first = first & (first.cast(pl.Int32).cum_sum().over("request") == 1)
    rows = rows.with_columns(token_ps=pl.when(first).then("token_ps"))
    return rows.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())


def phases(running: pl.DataFrame) -> pl.DataFrame:
    """Split the intervals in which requests run into those of one phase.

    running : rows of `spells` with what == "running"
    returns : the same rows with a column phase, prefill or decode; an interval with the first token inside becomes two.
              After a preemption a request computes its prompt again and goes on decoding, in one interval `resumed`
    """
    order = running.with_columns(
        had=pl.col("token_ps").is_not_null().cum_sum().over("request") > 0,
        thrown=(pl.col("ended_by").shift(1).over("request") == "preempt").fill_null(False),
    )
    inside = pl.col("token_ps").is_not_null()
    later = pl.when(pl.col("thrown")).then(pl.lit("resumed")).otherwise(pl.lit("decode"))
    whole = order.filter(~inside).with_columns(phase=pl.when("had").then(later).otherwise(pl.lit("prefill")))
    before = order.filter(inside).with_columns(phase=pl.lit("prefill"), end_ps="token_ps")
    after = order.filter(inside & (pl.col("end_ps") > pl.col("token_ps"))).with_columns(
        phase=pl.lit("decode"), start_ps="token_ps"
    )
    return pl.concat([whole, before, after]).drop("had", "thrown").sort("request", "start_ps", "end_ps")


def running(requests: pl.DataFrame, path: Path | None) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return when requests ran on each instance: instance -> starts and ends [ps].

    requests : rows of a run
    path     : its event log, from which this is exact; without one a request runs from its first admission to its first
               token where it was prefilled, and from there to its finish where it decodes, its handoff included
    """
    if path is not None:
        rows = spells(log(path)).filter(pl.col("what") == "running").select("instance", "start_ps", "end_ps")
    else:
        legs = (
            ("prefill_instance", "scheduled_ps", "first_token_ps"),
            ("decode_instance", "first_token_ps", "finish_ps"),
        )
        rows = pl.concat(
            requests.select(
                pl.col(where).alias("instance"), pl.col(start).alias("start_ps"), pl.col(end).alias("end_ps")
            )
            for where, start, end in legs
        ).drop_nulls()
    return {
        int(key[0]): (part["start_ps"].to_numpy(), part["end_ps"].to_numpy())
        for key, part in rows.group_by("instance")
        if key[0] is not None
    }


@dataclass(frozen=True, eq=False)
class Utilisation:
    """How instances were used.

    running : float64 (instances, windows), mean number of requests in the batch
    busy    : float64 (instances, windows), share of the window in which it served somebody
    table   : instance, running_mean, running_most, busy_share, of the whole run
    """

    running: np.ndarray
    busy: np.ndarray
    table: pl.DataFrame


def utilisation(found: Mapping[int, tuple[np.ndarray, np.ndarray]], cut: Windows) -> Utilisation:
    """Return how many requests ran on each instance by window, and how much of the time it served somebody.

    found : as `running` returns
    """
    names = range(max(found, default=-1) + 1)
    nobody = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    means, busy, rows = [], [], []
    span_s = max((cut.end_ps - cut.first_ps) / 1e12, 1e-12)
    for instance in names:
        starts, ends = found.get(instance, nobody)
        mean, most = counts(starts, ends, cut)
        means.append(mean)
        busy.append(counts(*merged(starts, ends), cut)[0])
        rows.append(
            {
                "instance": instance,
                "running_mean": float((mean * cut.lengths_s).sum() / span_s),
                "running_most": int(most.max()),
                "busy_share": float((busy[-1] * cut.lengths_s).sum() / span_s),
            }
        )
    kinds = {"instance": pl.Int64, "running_mean": pl.Float64, "running_most": pl.Int64, "busy_share": pl.Float64}
    shape = (len(rows), cut.count)
    return Utilisation(np.array(means).reshape(shape), np.array(busy).reshape(shape), pl.DataFrame(rows, kinds))

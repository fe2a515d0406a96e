"""The verb `regret`: what each routing decision cost its request, against the best instance it could have had.

At a sampled decision the replay is forked once for each instance; the request goes there, all else goes on as it would
under the same policies, and its times are noted. No policy sees any of this: it is hindsight.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from rich.table import Table

from replay.configuration import Settings
from replay.driving import ready
from replay.engine import schema
from replay.errors import ConfigError
from replay.run import main as run
from replay.stages import BEFORE
from replay.study.verb import Study, split
from replay.table import number, plain_table, show
from replay.write import together

if TYPE_CHECKING:
    from replay.session import Session

SLICE_EVENTS = 256  # between two looks at whether the request has finished
DEFAULTS = {"sample": 300}
STREAM = 0x72656772
TIMES = ("ttft_s", "e2e_s")


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments of `kvreplay regret` ask for: regret.sample=N and those of `kvreplay run`.

    raises : ConfigError for a sample that is no whole number from 1, an unknown key, or -m
    """
    values, others = split("regret", arguments, DEFAULTS, _whole)
    return run(others, Regret(values["sample"]))


def _whole(key: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"regret.{key} must be a whole number from 1, but is '{text}'.")
    return int(text)


class Regret(Study):
    """Looks at decisions of the run of a composed configuration."""

    def __init__(self, sample: int) -> None:
        super().__init__()
        self.sample = sample

    def study(self, config: dict[str, Any], checked: Settings, folder: Path) -> None:
        """Look at sampled decisions; writes regret.parquet and summary.json."""
        _refuse_lookups(((config.get("kv") or {}).get("index") or {}).get("shards") or 0)  # before anything is compiled
        if (config.get("predictor") or {}).get("inference_s"):
            raise ConfigError("regret needs decisions at arrivals, but predictor.inference_s puts predictions before "
                              "them. Set it to 0.")
        session = self.session(config, checked)
        ready()
        found = decisions(session, self.sample, checked.seed)
        numbers = summary(found)
        with together(folder) as place:
            with open(place("regret.parquet"), "wb") as file:
                found.write_parquet(file)
            place("summary.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
        name = session.policies["route"].policy.name
        share = f"{100 * numbers['best_share']:.1f} % of them with the best TTFT that there was"
        show(table(numbers), "", f"{found.height:,} decisions of {name}, {share}", f"results in {folder}")


def decisions(session: "Session", sample: int, seed: int) -> pl.DataFrame:
    """Look at sampled decisions of a session that has not begun; it is advanced up to the last of them.

    sample  : decisions to look at, at most; drawn evenly among all arrivals
    returns : a row a decision: request, arrival_s, chosen instance, best one, ttft_s and e2e_s under the router's
              choice, under the best and the worst instance (each by that time), regret of both [s], rank by TTFT
    raises  : ConfigError where requests wait in a cluster queue or for an index lookup: there is no one decision then
    """
    _refuse_lookups(session.cluster.kv.index.shards if session.cluster.kv is not None else 0)
    if any(stage.place == BEFORE for stage in session.cluster.stages):
        raise ConfigError("regret needs decisions at arrivals, but a stage comes before them. Set stages=none.")
    count = len(session.trace)
    drawn = np.random.default_rng((seed, STREAM)).choice(count, min(sample, count), replace=False)
    rows = [row for k in sorted(drawn.tolist()) if (row := _decision(session, k)) is not None]
    session.state.cluster["stop_at"] = schema.NONE
    if not rows:
        raise ConfigError("regret found no decision: every sampled request was rejected, failed or held by the router.")
    return pl.DataFrame(rows)


def _refuse_lookups(shards: int) -> None:
    if shards:
        raise ConfigError(f"regret needs decisions at arrivals, but kv.index.shards is {shards}: a lookup comes first. "
                          f"Set it to 0.")


def _decision(session: "Session", k: int) -> dict[str, Any] | None:
    """Return the row of the decision on the request that arrives as number k, None if the router made none."""
    session.state.cluster["stop_at"] = k
    while int(session.state.cluster["arrived"][0]) < k and not session.advance(1_000_000):
        pass
    while not _at_arrival(session) and not session.done:
        session.advance(1)
    if session.done or int(session.state.cluster["held"][0]) >= 0:
        return None
    pending = np.asarray(session.state.jobs["stage"]) == schema.PENDING
    own = _forked(session, schema.NONE)
    came = np.flatnonzero(pending & (np.asarray(own.state.jobs["stage"]) != schema.PENDING))
    r = next((int(row) for row in came if own.state.requests["sequence"][row] == k), schema.NONE)
    if r < 0 or own.state.jobs["prefill_instance"][r] < 0:
        return None
    chosen = int(own.state.jobs["prefill_instance"][r])
    mine = _outcome(own, r)
    there = np.array([_outcome(_forked(session, i), r) for i in range(len(session.state.prefill_views))])
    best, worst = np.fmin(there.min(axis=0), mine), there.max(axis=0)
    row: dict[str, Any] = {"request": r, "arrival_s": float(own.state.requests["arrival_ps"][r]) * 1e-12,
                           "chosen": chosen, "best": int(there[:, 0].argmin()) if best[0] < mine[0] else chosen}
    for place, name in enumerate(TIMES):
        row |= {name: mine[place], f"best_{name}": best[place], f"worst_{name}": worst[place],
                f"regret_{name}": max(0.0, mine[place] - best[place]) if np.isfinite(best[place]) else 0.0}
    return row | {"rank": int((there[:, 0] < mine[0]).sum())}


def _at_arrival(session: "Session") -> bool:
    """Whether the next event is the arrival at which the session is to stop: an event less, and it stops at once."""
    before = int(session.state.cluster["events"][0])
    session.advance(1)
    return int(session.state.cluster["events"][0]) == before


def _forked(session: "Session", instance: int) -> "Session":
    """Return a fork that has taken the next arrival, sent to an instance, or with -1 where the router sends it."""
    fork = session.fork()
    fork.state.cluster["stop_at"] = schema.NONE
    fork.state.cluster["forced"] = instance
    fork.advance(1)
    return fork


def _outcome(fork: "Session", r: int) -> tuple[float, float]:
    """Return TTFT and E2E of a request [s], infinite where it never gets there; the fork is advanced until it ends."""
    while fork.state.jobs["stage"][r] != schema.GONE and not fork.advance(SLICE_EVENTS):
        pass
    job, arrival_ps = fork.state.jobs[r], int(fork.state.requests["arrival_ps"][r])
    first, last = int(job["first_token_ps"]), int(job["finish_ps"])
    return tuple((ps - arrival_ps) * 1e-12 if ps >= 0 else np.inf for ps in (first, last))  # type: ignore[return-value]


def summary(found: pl.DataFrame) -> dict[str, float]:
    """Return the numbers of decisions: how many, which share was the best, TTFT and E2E, and their regret."""
    best = (found["regret_ttft_s"] == 0).sum() / found.height
    numbers = {"decisions": float(found.height), "best_share": float(best)}
    for name in TIMES:
        regret = found[f"regret_{name}"]
        numbers |= {f"{name}_mean": _finite(found[name]), f"best_{name}_mean": _finite(found[f"best_{name}"]),
                    f"regret_{name}_mean": _finite(regret)}
        numbers |= {f"regret_{name}_{label}": float(regret.quantile(q) or 0.0)
                    for label, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))}
        numbers[f"regret_{name}_max"] = float(regret.max() or 0.0)  # type: ignore[arg-type]
    return numbers


def _finite(values: pl.Series) -> float:
    kept = values.filter(values.is_finite())
    return float(kept.mean() or 0.0)  # type: ignore[arg-type]


def table(numbers: dict[str, float]) -> Table:
    """Make the table of `summary`."""
    made = plain_table("", "mean", "of the best", "regret mean", "p50", "p90", "p99", "max")
    for name in TIMES:
        ends = ("mean", "p50", "p90", "p99", "max")
        keys = (f"{name}_mean", f"best_{name}_mean", *(f"regret_{name}_{end}" for end in ends))
        made.add_row(f"{name.removesuffix('_s').upper()} s", *(number(numbers[key]) for key in keys))
    return made

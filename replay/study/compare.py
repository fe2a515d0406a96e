"""The verb `compare`: several configurations on the same replicates of a workload, with paired statistics."""

import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from omegaconf import OmegaConf

from replay.configuration import near
from replay.driving import EVENTS_A_SLICE, first_interrupt, ready
from replay.errors import ConfigError, KvreplayError
from replay.run import INTERRUPTED, Runner
from replay.study.compare_tables import differences_table, means_table, worst_table
from replay.study.composed import Composed, compose_all, labels
from replay.study.differences import Plan, cautions, counted_by, differences, flat, frame, means
from replay.study.pool import cores, in_order
from replay.study.progress import steps
from replay.study.replicates import WAYS, Replicates
from replay.study.verb import split
from replay.study.worst import parts, worst
from replay.table import show
from replay.write import check_writable, together

if TYPE_CHECKING:
    from traces.schema import Trace

DEFAULTS: dict[str, Any] = {
    "by": None, "replicates": 10, "metrics": ("ttft_s_mean", "ttft_s_p99", "slo_attainment", "goodput_per_s"),
    "baseline": None, "pairs": "baseline", "confidence": 0.95, "windows": 12, "shift_s": None,
}  # fmt: skip
PAIRS = ("baseline", "all")


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments of `kvreplay compare` ask for: compare.* and those of `kvreplay run -m`.

    returns : exit code: 0, 130 after Ctrl-C, with nothing written
    raises  : ConfigError for an unknown key or metric, a value out of range, or fewer than two configurations; what
              reading a trace or a replay raises
    """
    values, others = split("compare", arguments, DEFAULTS, _value, many=True)
    found, runner = compose_all(others)
    comparison = Compare(found, runner, values)
    check_writable(comparison.folder)
    ready()
    try:
        with first_interrupt() as interrupted:
            comparison.replay(interrupted)
    except KeyboardInterrupt:
        show("interrupted: nothing was written", stderr=True)
        return INTERRUPTED
    comparison.finish()
    return 0


def _value(key: str, text: str) -> Any:
    if key == "baseline" and text:
        return text
    if key == "metrics" and (names := tuple(dict.fromkeys(part for part in text.strip("[]").split(",") if part))):
        return names
    allowed = {"by": WAYS, "pairs": PAIRS}.get(key)
    if allowed is not None and text in allowed:
        return text
    try:
        if key in ("replicates", "windows") and int(text) >= 1:
            return int(text)
        number = float(text)
        if (key == "confidence" and 0.5 <= number < 1.0) or (key == "shift_s" and 0.0 <= number < math.inf):
            return number
    except ValueError:
        pass
    wanted = {"by": "seeds, windows or bootstrap", "pairs": "baseline or all",
              "baseline": "the name or number of a configuration",
              "metrics": "names of numbers of summary.json, as in ttft_s_mean,gold.ttft_s_p99",
              "confidence": "a number from 0.5 and below 1", "shift_s": "seconds from 0"}  # fmt: skip
    raise ConfigError(f"compare.{key} must be {wanted.get(key, 'a whole number from 1')}, but is '{text}'.")


@dataclass(frozen=True, eq=False)
class _Job:
    """A replay to do: a configuration, by its place, on a replicate."""

    place: int
    replicate: int
    trace: "Trace"


@dataclass(frozen=True, eq=False)
class _Done:
    """What is kept of a replay: its numbers and the rows of `worst.parts`."""

    job: tuple[int, int]
    summary: Mapping[str, Any]
    parts: pl.DataFrame


class Compare:
    """Replays every configuration on every replicate, and compares."""

    def __init__(self, found: Sequence[Composed], runner: Runner, values: Mapping[str, Any]) -> None:
        """Check what can be checked before a replay.

        raises : ConfigError
        """
        names = tuple(labels(found))
        _refuse(found, names, values["replicates"])
        self.found, self.runner, self.values = found, runner, values
        recorded = any(one.config["trace"].get("path") for one in found)
        by = values["by"] or ("windows" if recorded else "seeds")
        if by == "seeds" and recorded:
            raise ConfigError("compare.by=seeds draws a synthetic workload anew, but a recorded trace has one course. "
                              "Take compare.by=windows or compare.by=bootstrap.")  # fmt: skip
        self.replicates = Replicates(runner, by, values["replicates"], found[0].checked.seed, values["shift_s"])
        baseline = 0 if values["baseline"] is None else _baseline(values["baseline"], names)
        self.plan = Plan(values["metrics"], names, baseline, values["pairs"] == "all", values["confidence"],
                         self.replicates.resampled)  # fmt: skip
        self.folder = Path(found[0].checked.out_dir)
        self.rows: list[dict[str, Any]] = []
        self.parts: list[pl.DataFrame] = []
        self._opening = threading.Lock()
        self._stop = threading.Event()

    def replay(self, interrupted: threading.Event) -> None:
        """Replay everything, on as many threads as there are cores; interrupted is looked at between slices.

        raises : KeyboardInterrupt once interrupted
        """
        total = len(self.found) * self.replicates.count

        def one(job: _Job) -> _Done | None:
            return self._one(job, interrupted)

        with steps(f"comparing {len(self.found)} configurations", total) as told:
            for done in in_order(one, self._jobs(interrupted), ahead=2 * cores()):
                if done is not None:
                    self._keep(done)
                told()
        if interrupted.is_set():
            raise KeyboardInterrupt

    def finish(self) -> None:
        """Compute the statistics, write the files together and show the tables."""
        table, plan = frame(self.rows, self.plan), self.plan
        found, changes = means(table, plan), differences(table, plan)
        bad = worst(pl.concat(self.parts), plan.confidence)
        self._save({"replicates": table, "differences": changes, "worst": bad}, flat(found, changes, plan))
        without = found.filter(pl.col("note").is_not_null()).iter_rows(named=True)
        told = [f"* {row['metric']} of {row['configuration']}: {row['note']}, so that no interval is given"
                for row in without]  # fmt: skip
        notes = [self.replicates.told(), *self.replicates.cautions(), *cautions(self.replicates.count)]
        show(means_table(found, plan), *told, "", differences_table(changes, plan), "", worst_table(bad, plan.labels),
             "", *notes, f"results in {self.folder}")  # fmt: skip

    def _save(self, tables: Mapping[str, pl.DataFrame], numbers: Mapping[str, Any]) -> None:
        configurations = {label: {**one.config, "out_dir": str(self.folder)}
                          for label, one in zip(self.plan.labels, self.found, strict=True)}  # fmt: skip
        with together(self.folder) as place:
            for name, table in tables.items():
                with open(place(f"{name}.parquet"), "wb") as file:
                    table.write_parquet(file)
                place(f"{name}.csv").write_text(table.write_csv(), encoding="utf-8")
            place("summary.json").write_text(json.dumps(numbers, indent=2, allow_nan=False) + "\n", encoding="utf-8")
            place("configurations.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(configurations)), "utf-8")

    def _jobs(self, interrupted: threading.Event) -> Iterator[_Job]:
        """Yield the replays replicate by replicate; traces are made here, in the thread that asks."""
        for k in range(self.replicates.count):
            made: dict[str, Trace] = {}
            for place, one in enumerate(self.found):
                if interrupted.is_set():
                    return
                key = json.dumps(one.config["trace"], sort_keys=True, default=str)
                if key not in made:
                    made[key] = self.replicates.make(one.config["trace"], k)
                    self.runner.trie(made[key])
                yield _Job(place, k, made[key])

    def _one(self, job: _Job, interrupted: threading.Event) -> _Done | None:
        """Replay a configuration on a replicate; None where that was cut short."""
        one = self.found[job.place]
        checked = replace(one.checked, seed=one.checked.seed + job.replicate, events=False)
        try:
            with self._opening:  # opening compiles policies and trains predictors: one at a time
                session = self.runner.session(one.config, checked, job.trace)
            while not session.advance(EVENTS_A_SLICE):
                if interrupted.is_set() or self._stop.is_set():
                    return None
            result = session.result()
        except BaseException as error:
            self._stop.set()
            if isinstance(error, KvreplayError):
                raise type(error)(f"{self.plan.labels[job.place]}, replicate {job.replicate}: {error}") from error
            raise
        return _Done((job.place, job.replicate), result.summary, parts(result.requests, self.values["windows"]))

    def _keep(self, done: _Done) -> None:
        """Keep the numbers of a replay; the first replicate of all shows whether the metrics are numbers of any."""
        (place, replicate), label = done.job, self.plan.labels[done.job[0]]
        names = ("requests", "finished", *map(counted_by, self.plan.metrics), *self.plan.metrics)
        row = {name: done.summary.get(name) for name in names}
        self.rows.append({"configuration": label, "replicate": replicate, **row})
        self.parts.append(done.parts.select(pl.lit(label).alias("configuration"), pl.lit(replicate).alias("replicate"),
                                            pl.all()))  # fmt: skip
        for metric in self.plan.metrics:
            if isinstance(done.summary.get(metric), str):
                raise ConfigError(f"compare.metrics must be numbers of summary.json, but '{metric}' is none.")
            last = place == len(self.found) - 1 and replicate == 0
            if last and metric not in done.summary and all(row[metric] is None for row in self.rows):
                raise ConfigError(f"compare.metrics must be numbers of summary.json, but there is no '{metric}'"
                                  f"{near(metric, done.summary)}")  # fmt: skip


def _refuse(found: Sequence[Composed], names: Sequence[str], replicates: int) -> None:
    if len(found) < 2:
        raise ConfigError("compare needs two configurations or more, but there is one. List several values of a key, "
                          "as in policy/route=round_robin,least_loaded.")  # fmt: skip
    if replicates < 2:
        raise ConfigError("one replicate shows no variation, so that no difference could be told from chance: "
                          "compare.replicates must be at least 2, better 6 or more.")  # fmt: skip
    if len({one.config["seed"] for one in found}) > 1:
        raise ConfigError("seed must be the same for every configuration of a comparison, but it lists several values. "
                          "Use compare.replicates for more seeds.")  # fmt: skip
    if len({tuple(text for text in one.overrides if text.startswith("out_dir=")) for one in found}) > 1:
        raise ConfigError("out_dir must be one folder for the whole comparison, but it lists several values.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"configurations must differ, but '{twice[0]}' is there twice. List each value once.")


def _baseline(text: str, names: Sequence[str]) -> int:
    """Return the place of the configuration that compare.baseline names: by number, label, or a value in its label."""
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    meant = [place for place, name in enumerate(names)
             if text == name or text in (pair.partition("=")[2] for pair in name.split(" "))]  # fmt: skip
    if len(meant) != 1:
        listed = ", ".join(f"{place} {name}" for place, name in enumerate(names))
        raise ConfigError(f"compare.baseline must name one of the configurations, but is '{text}'. They are: {listed}.")
    return meant[0]

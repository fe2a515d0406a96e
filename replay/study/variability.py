"""The verb `variability`: one cluster under training and inference of equal mean work, and where the difference goes.

The rate is a share of what the cluster serves when all requests are there at once: of equal work for all workloads
(same=rate), or of each kind of work its own (same=load). Only the spread of gaps and of work changes from workload to
workload; what comes of it is measured beside Kingman's formula.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from rich.console import RenderableType

from replay.configuration import HIGHEST_SEED, Settings
from replay.driving import EVENTS_A_SLICE, first_interrupt, ready
from replay.errors import ConfigError
from replay.run import main as run
from replay.study import pictures
from replay.study.occupancy import occupancy
from replay.study.pool import cores, in_order
from replay.study.progress import steps
from replay.study.variability_table import parts_table, rows_of, waits_table
from replay.study.verb import Study, split
from replay.study.workloads import Size, Workload, backlog, workload_trace, workloads
from replay.table import show
from replay.write import together

if TYPE_CHECKING:
    from replay.cluster import Cluster
    from replay.result import Result
    from traces.schema import Trace

DEFAULTS: dict[str, Any] = {"load": 0.8, "requests": 20_000, "replicates": 8, "prompt_tokens": 1200.0,
                            "output_tokens": 250.0, "batch": 8, "same": "rate"}  # fmt: skip
SAME = ("rate", "load")
WHOLE = {"requests": 100, "replicates": 2, "batch": 1}  # key -> the least of it
WARM_UP = 0.1  # share of the requests left out while the cluster fills
FILLED = 10  # times the places in all batches: the backlog that shows a steady rate
NO_SPREAD = 1e-9  # equal gaps differ by rounding
STEADY = (0.1, 0.9)  # shares of a backlog's finishes between which its rate is taken


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments of `kvreplay variability` ask for: its own keys and those of `kvreplay run`.

    raises : ConfigError for an unknown key or a value out of range, -m, or a trace
    """
    values, others = split("variability", arguments, DEFAULTS, _value)
    if given := [text for text in others if text.lstrip("+~").startswith(("trace=", "trace."))]:
        raise ConfigError(f"variability makes its own workloads, but got '{given[0]}'. Leave it out; variability.load, "
                          f"variability.prompt_tokens and variability.output_tokens say what they are.")  # fmt: skip
    return run(others, Variability(values))


def _value(key: str, text: str) -> Any:
    if key == "same" and text in SAME:
        return text
    try:
        if key in WHOLE:
            if int(text) >= WHOLE[key]:
                return int(text)
        elif key != "same" and ((0.0 < float(text) < 1.0) if key == "load" else (1.0 <= float(text) <= 1e6)):
            return float(text)
    except ValueError:
        pass
    wanted = {name: f"a whole number from {least}" for name, least in WHOLE.items()}
    wanted |= {"load": "a share above 0 and below 1", "same": "rate or load"}
    raise ConfigError(f"variability.{key} must be {wanted.get(key, 'a mean from 1 to 1e6')}, but is '{text}'.")


@dataclass(frozen=True, eq=False)
class _Job:
    """A replay to do: a workload's replicate."""

    workload: Workload
    replicate: int
    trace: "Trace"


class Variability(Study):
    """Replays every workload on the cluster of a composed configuration."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        self.values = values
        self.size = Size(values["requests"], values["prompt_tokens"], values["output_tokens"])
        self._opening = threading.Lock()

    def study(self, config: dict[str, Any], checked: Settings, folder: Path) -> None:
        """Find the rate, replay all, show where waiting went; writes variability and its replicates.

        raises : ConfigError for a seed too high, or a cluster that left requests unserved
        """
        if checked.seed + self.values["replicates"] - 1 > HIGHEST_SEED:
            raise ConfigError(f"seed + variability.replicates - 1 must be below 2^63, but seed is {checked.seed}.")
        ready()
        cases = workloads(self.values["batch"])
        with first_interrupt() as interrupted:
            asked = _Asked(config, checked, interrupted)
            rates = {work: self._rate(work, asked) for work in dict.fromkeys(case.work for case in cases)}
            rows = self._rows(cases, rates, asked)
            if interrupted.is_set():
                raise KeyboardInterrupt
        table = rows_of(rows)
        _save(folder, table, pl.DataFrame(rows, infer_schema_length=None))
        batching = not rows[0]["station"]
        what = "equal work" if self.values["same"] == "rate" else "each kind of work"
        told = [f"the rate is {self.values['load']:g} of what the cluster serves of {what}; "
                f"{self.values['replicates']} replicates of {self.size.requests:,} requests; +- is a standard error",
                *self._cautions(_cluster(config))]  # fmt: skip
        parts: list[RenderableType] = ["", parts_table(table)] if batching else []
        show(waits_table(table), *parts, "", *told, f"results in {folder}")

    def _cautions(self, cluster: "Cluster") -> Iterator[str]:
        """Yield what makes the numbers doubtful: a backlog that hardly fills the batches shows no steady rate."""
        places = sum(instance.max_batch for instance in cluster.instances)
        if self.size.requests < FILLED * places:
            yield (f"{self.size.requests:,} requests are few for {places:,} places in batches, so that the rate is "
                   f"uncertain: variability.requests={FILLED * places} or more is better")  # fmt: skip

    def _rate(self, work: str, asked: "_Asked") -> float:
        """Return the rate at which a backlog of a kind of work is finished, its begin and its end left out."""
        result = self._replay(backlog(work, self.size, asked.checked.seed), asked, 0)
        if result is None:
            raise KeyboardInterrupt
        finish_s = np.sort(result.requests["finish_ps"].to_numpy()) / 1e12
        first, last = (int(share * (len(finish_s) - 1)) for share in STEADY)
        return float((last - first) / (finish_s[last] - finish_s[first]))

    def _rows(self, cases: Sequence[Workload], rates: Mapping[str, float], asked: "_Asked") -> list[dict[str, Any]]:
        """Replay every replicate of every workload on all cores; returns a row for each."""
        equal = self.values["same"] == "rate"
        offered = {work: self.values["load"] * rates[cases[0].work if equal else work] for work in rates}
        rows: list[dict[str, Any]] = []

        def jobs() -> Iterator[_Job]:
            for k in range(self.values["replicates"]):
                for case in cases:
                    seed = asked.checked.seed + k
                    yield _Job(case, k, workload_trace(case, offered[case.work], self.size, seed))

        def one(job: _Job) -> dict[str, Any] | None:
            result = self._replay(job.trace, asked, job.replicate)
            if result is None:
                return None
            load = offered[job.workload.work] / rates[job.workload.work]
            return {"workload": job.workload.name, "replicate": job.replicate, "work": job.workload.work,
                    "batch": job.workload.batch, "equal_gaps": job.workload.gaps_scv == 0.0,
                    "poisson": job.workload.gaps_scv == 1.0,
                    **numbers(result, asked.config, load)}  # fmt: skip

        with steps(f"replaying {len(cases)} workloads", len(cases) * self.values["replicates"]) as told:
            for row in in_order(one, jobs(), ahead=2 * cores()):
                rows += [] if row is None else [row]
                told()
        return rows

    def _replay(self, trace: "Trace", asked: "_Asked", replicate: int) -> "Result | None":
        """Replay a trace to its end; None where that was cut short."""
        checked = replace(asked.checked, seed=asked.checked.seed + replicate, events=False)
        with self._opening:  # opening compiles policies: one at a time
            session = self.session(asked.config, checked, trace)
        while not session.advance(EVENTS_A_SLICE):
            if asked.interrupted.is_set():
                return None
        result = session.result()
        if (finished := result.summary["finished"]) != len(trace):
            raise ConfigError(f"variability looks at clusters that serve every request, but {finished:,} of "
                              f"{len(trace):,} finished. Use policies that reject nothing.")  # fmt: skip
        return result


@dataclass(frozen=True, eq=False)
class _Asked:
    """What all replays of a study share."""

    config: dict[str, Any]
    checked: Settings
    interrupted: threading.Event


def numbers(result: "Result", config: Mapping[str, Any], load: float) -> dict[str, Any]:
    """Return the numbers of one replay, its first requests left out.

    load    : offered, as a share of what the cluster can serve of this work; a station's is measured
    returns : rate, spread of gaps and work, load and mean service of the cluster as one server, mean times of a
              request in the queue, in prefill and in decode, gaps between tokens, and what was occupied
    """
    cluster = _cluster(config)
    rows = result.requests.slice(int(WARM_UP * result.requests.height))
    arrival_s, tokens = rows["arrival_s"].to_numpy(), (rows["prompt_tokens"].cast(pl.Int64)).to_numpy()
    gaps_s = np.diff(arrival_s)
    rate_per_s = 1.0 / float(gaps_s.mean())
    mean_s = load / rate_per_s
    station = len(cluster.instances) == 1 and cluster.instances[0].max_batch == 1
    if station:
        mean_s = float((rows["e2e_s"] - rows["queue_s"]).mean())  # type: ignore[arg-type]
        load = rate_per_s * mean_s
    times = {"queue_s": rows["queue_s"], "prefill_s": rows["ttft_s"] - rows["queue_s"],
             "decode_s": rows["e2e_s"] - rows["ttft_s"], "e2e_s": rows["e2e_s"]}  # fmt: skip
    return {"station": station, "rate_per_s": rate_per_s, "gaps_scv": _scv(gaps_s), "work_scv": _scv(tokens),
            "load": load, "service_s": mean_s, **{name: float(values.mean()) for name, values in times.items()},  # type: ignore[arg-type]
            "itl_s_mean": result.summary["itl_s_mean"], "itl_s_p99": result.summary["itl_s_p99"],
            "preemptions": result.summary["preemptions"], **occupancy(rows, cluster)}  # fmt: skip


def _cluster(config: Mapping[str, Any]) -> "Cluster":
    from replay.cluster import build_cluster

    return build_cluster(dict(config), None)


def _scv(values: np.ndarray) -> float:
    """Return the squared coefficient of variation of a sample."""
    scv = float(values.var() / values.mean() ** 2)
    return scv if scv > NO_SPREAD else 0.0


def _save(folder: Path, table: pl.DataFrame, replicates: pl.DataFrame) -> None:
    page = pictures.variability(table)
    with together(folder) as place:
        for name, one in (("variability", table), ("replicates", replicates)):
            with open(place(f"{name}.parquet"), "wb") as file:
                one.write_parquet(file)
            place(f"{name}.csv").write_text(one.write_csv(), encoding="utf-8")
        if page is not None:
            place("variability.html").write_text(page, encoding="utf-8")

"""The verb `capacity`: the highest rate that each configuration carries, a GPU and a dollar, and what is around it."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.table import Table

from replay.driving import first_interrupt, ready
from replay.errors import ConfigError
from replay.run import INTERRUPTED, OK, Runner
from replay.slo import TARGETS
from replay.study.capacity import EVENTS_A_SLICE, Verdict, capacity, judged
from replay.study.composed import Composed, compose_all, labels
from replay.study.pool import cores, in_order
from replay.study.progress import steps
from replay.study.verb import split
from replay.table import number, plain_table, show
from replay.write import check_writable, together
from traces.window import scale_rate

if TYPE_CHECKING:
    from replay.session import Session

DEFAULTS: dict[str, Any] = {
    "target": 0.9,
    "tolerance": 0.02,
    "around": (0.5, 0.7, 0.85, 0.95, 1.0, 1.05, 1.15, 1.3, 1.6),
    "slo_scales": (0.25, 0.5, 1.0, 2.0, 4.0),
}


class Stopped(Exception):
    """Ctrl-C was seen."""


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments of `kvreplay capacity` ask for: capacity.* and those of `kvreplay run -m`.

    arguments : capacity.target, share of requests that must meet their objectives; capacity.tolerance, relative width
                of the last interval; capacity.around, rates as shares of the capacity; capacity.slo_scales, factors of
                all targets, looked at the trace's own rate; [] for none of them
    raises    : ConfigError
    """
    values, others = split("capacity", arguments, DEFAULTS, _read, many=True)
    found, runner = compose_all(others)
    folder = Path(found[0].checked.out_dir)
    check_writable(folder)
    names = labels(found)
    studies = [Carried(runner, one, name, values) for one, name in zip(found, names, strict=True)]
    ready()
    total = len(studies) * (1 + len(values["around"]) + len(values["slo_scales"]))
    try:
        with first_interrupt() as interrupted, steps("searching capacities", total) as told:
            for study in studies:
                study.told, study.stop = told, interrupted.is_set
            rows = list(in_order(Carried.row, studies, cores()))
            around = [partial(study.around, share) for study in studies for share in values["around"]]
            scaled = [partial(study.scaled, factor) for study in studies for factor in values["slo_scales"]]
            curves = list(in_order(_called, [*around, *scaled], cores()))
    except Stopped:
        show("interrupted: nothing was written", stderr=True)
        return INTERRUPTED
    curve, slo_curve = curves[: len(around)], curves[len(around) :]
    save(folder, rows, curve, slo_curve)
    show(table(rows, values["target"]), *curve_table(curve, "rate_scale", "SLO attainment at rate scales"),
         *curve_table(slo_curve, "slo_scale", "SLO attainment with all targets times a factor, at the trace's rate"),
         "", f"results in {folder}")  # fmt: skip
    return OK


def _called(step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    return step()


def _read(key: str, text: str) -> Any:
    wanted = {"target": "a share above 0 and at most 1", "tolerance": "a number above 0 and at most 0.5"}
    try:
        if key in wanted:
            if 0.0 < float(text) <= (1.0 if key == "target" else 0.5):
                return float(text)
        else:
            factors = tuple(float(part) for part in text.strip("[]").split(",") if part)
            if all(0.0 < factor < 1e6 for factor in factors):
                return factors
    except ValueError:
        pass
    raise ConfigError(f"capacity.{key} must be {wanted.get(key, 'factors above 0, as in 0.5,1,2, or []')}, but is "
                      f"'{text}'.")  # fmt: skip


class Carried:
    """What one configuration carries; every rate is replayed once.

    told, stop : called after each step; asked whether to stop
    """

    def __init__(self, runner: Runner, one: Composed, name: str, values: Mapping[str, Any]) -> None:
        self.runner, self.one, self.name, self.values = runner, one, name, values
        self.told: Callable[[], None] = lambda: None
        self.stop: Callable[[], bool] = lambda: False
        self.trace = runner.trace(one.config["trace"], one.checked.seed)
        self.verdicts: list[Verdict] = []
        self.scale = 0.0

    def row(self) -> dict[str, Any]:
        """Search, and return the row of the configuration, with the run at its capacity."""
        self.scale = capacity(self.keeps, self.values["tolerance"])
        self.told()
        found: Mapping[str, Any] = self.summary(self.scale) if self.scale > 0.0 else {}
        span_s = float(self.trace.column("arrival_s")[-1] - self.trace.column("arrival_s")[0])
        rate = self.scale * (len(self.trace) - 1) / span_s if span_s else 0.0
        gpus, usd_per_hour = self.gpus(), found.get("usd_per_hour")
        return {
            "configuration": self.name, "rate_scale": self.scale, "requests_per_s": rate, "gpus": gpus,
            "requests_per_s_per_gpu": rate / gpus if gpus else None, "usd_per_hour": usd_per_hour,
            "requests_per_usd": rate * 3600.0 / usd_per_hour if usd_per_hour else None,
            "slo_attainment": found.get("slo_attainment"), "ttft_s_p99": found.get("ttft_s_p99"),
            "replays": len(self.verdicts), "stopped_early": sum(one.attained is None for one in self.verdicts),
        }  # fmt: skip

    def gpus(self) -> int:
        """Return how many GPUs the configuration has."""
        from replay.cluster import build_cluster

        return build_cluster(self.one.config, self.trace.block_tokens).gpus

    def keeps(self, scale: float) -> bool:
        """Return whether a rate keeps the target."""
        if self.stop():
            raise Stopped
        self.verdicts.append(judged(self._session(self.one.config, scale), self.values["target"]))
        return self.verdicts[-1].keeps

    def summary(self, scale: float, config: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """Return the summary of a whole run at a rate."""
        if self.stop():
            raise Stopped
        session = self._session(config or self.one.config, scale)
        while not session.advance(EVENTS_A_SLICE):
            if self.stop():
                raise Stopped
        return session.result().summary

    def around(self, share: float) -> dict[str, Any]:
        """Return a row of the curve of attainment against rate."""
        scale = share * (self.scale or 1.0)
        found = self.summary(scale)
        self.told()
        return {"configuration": self.name, "rate_scale": scale, **_attained(found)}

    def scaled(self, factor: float) -> dict[str, Any]:
        """Return a row of the curve of attainment against the scale of all targets, at the trace's own rate."""
        slo = self.one.config["slo"]
        tiers = {name: {key: value * factor if key in TARGETS and value is not None else value
                        for key, value in (tier or {}).items()} for name, tier in slo["tiers"].items()}  # fmt: skip
        found = self.summary(1.0, {**self.one.config, "slo": {**slo, "tiers": tiers}})
        self.told()
        return {"configuration": self.name, "slo_scale": factor, **_attained(found)}

    def _session(self, config: Mapping[str, Any], scale: float) -> "Session":
        from replay.session import keep_trie

        trace = self.trace
        if scale != 1.0:
            trace = scale_rate(self.trace, scale)
            keep_trie(trace, self.runner.trie(self.trace))
        return self.runner.session(config, self.one.checked, trace)


def _attained(summary: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in summary.items() if key.rpartition(".")[2] == "slo_attainment"}
    return {**kept, "goodput_per_s": summary["goodput_per_s"], "ttft_s_p99": summary["ttft_s_p99"]}


def save(folder: Path, rows: Sequence[Mapping[str, Any]], curve: Sequence[Mapping[str, Any]],
         slo_curve: Sequence[Mapping[str, Any]]) -> None:  # fmt: skip
    """Write capacities, curve and slo_curve, as Parquet and CSV, and summary.json of the first configuration."""
    with together(folder) as place:
        for name, found in (("capacities", rows), ("curve", curve), ("slo_curve", slo_curve)):
            frame = pl.DataFrame(list(found), infer_schema_length=None)
            with open(place(f"{name}.parquet"), "wb") as file:
                frame.write_parquet(file)
            place(f"{name}.csv").write_text(frame.write_csv(), encoding="utf-8")
        place("summary.json").write_text(json.dumps(rows[0], indent=2) + "\n", encoding="utf-8")


def table(rows: Sequence[Mapping[str, Any]], target: float) -> Table:
    """Make the table of capacities."""
    made = plain_table("configuration", "rate\nscale", "requests\n/s", "GPUs", "a GPU\n/s", "requests\na USD",
                       "SLO\nmet", "TTFT s\np99", "replays\n(cut)")  # fmt: skip
    for row in rows:
        cells = [number(row[key]) for key in ("rate_scale", "requests_per_s", "gpus", "requests_per_s_per_gpu",
                                              "requests_per_usd", "slo_attainment", "ttft_s_p99")]  # fmt: skip
        made.add_row(row["configuration"], *cells, f"{row['replays']} ({row['stopped_early']})")
    made.title, made.title_justify = f"the highest rate that keeps SLO attainment >= {target:g}", "left"
    return made


def curve_table(rows: Sequence[Mapping[str, Any]], key: str, title: str) -> list[Any]:
    """Make the table of a curve: a row a configuration, attainment at each rate or scale; nothing without rows."""
    if not rows:
        return []
    points: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        points.setdefault(row["configuration"], []).append(row)
    columns = max(len(found) for found in points.values())
    made = plain_table("configuration", *[""] * columns)
    made.title, made.title_justify, made.show_header = title, "left", False
    for name, found in points.items():
        made.add_row(name, *(f"{number(row[key])}: {number(row['slo_attainment'])}" for row in found))
    return ["", made]

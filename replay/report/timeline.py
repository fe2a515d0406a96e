"""The timeline of a run for the Perfetto viewer: a process an instance, the cluster queue, counters and instants."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import polars as pl

from replay.errors import ConfigError
from replay.metrics import PS_PER_S
from replay.report.folders import Run
from replay.report.lanes import clipped, lanes, levels
from replay.report.spells import around, log, phases, spells
from replay.report.tracks import Tracks

MOST = 400_000  # rows of a window: about 50 MB, and as much as a browser draws with ease
CLUSTER_PID, INSTANCE_PID = 1, 100
NOTES = ("tier", "status", "prompt_tokens", "hit_tokens", "output_tokens", "ttft_s", "e2e_s", "slo_met")
NAMES = {"before": "on the way", "held": "held", "fetch": "fetch"}  # of what is done before a request has an instance
INSTANTS = {"preempt": "preempted", "reject": "rejected", "fail": "failed"}


def timeline(run: Run, window_s: tuple[float, float] | None) -> tuple[bytes, Counter[str]]:
    """Return the timeline of a run, and how many slices and instants of each name it has.

    window_s : start and end of what is shown, None for all of it
    returns  : the file's bytes; counts by name: prefill, decode, resumed, waiting, handoff, held, preempted, ...
    raises   : ConfigError without an event log, for a window without events or with too many, or without `perfetto`
    """
    if run.events is None:
        raise ConfigError(
            f"a timeline is made from events.arrow, but '{run.folder}' has none. Replay it with events=true."
        )
    tracks = Tracks()
    happened = log(run.events)
    window_ps = _window(run, happened, window_s)
    last_ps = int(happened["time_ps"][-1])
    happened = around(happened, window_ps)
    found = spells(happened, last_ps)
    shown = _Shown(tracks, run, window_ps, found)
    shown.cluster(found, happened)
    for instance in sorted(found["instance"].drop_nulls().unique().to_list()):
        shown.instance(instance, found, happened)
    return tracks.bytes(), shown.counted


def _window(run: Run, happened: pl.DataFrame, window_s: tuple[float, float] | None) -> tuple[int, int]:
    """Return the window [ps]; all of the run where none is given."""
    first, last = (int(happened["time_ps"][at]) for at in (0, -1)) if happened.height else (0, 0)
    low, high = (round(at * PS_PER_S) for at in window_s) if window_s else (first, last)
    there = int(happened["time_ps"].is_between(low, high).sum())
    if there == 0:
        whole = f"go from {first / PS_PER_S:.6g} to {last / PS_PER_S:.6g} s" if happened.height else "are none"
        raise ConfigError(
            f"the timeline's window must hold events, but those of '{run.folder}' {whole} and report.window_s is "
            f"[{low / PS_PER_S:g},{high / PS_PER_S:g}]. Choose another."
        )
    if there > MOST:
        raise ConfigError(
            f"a timeline holds at most {MOST:,} events, but the window has {there:,}. Choose a shorter one: "
            f"report.window_s=[{low / PS_PER_S:g},{(low + (high - low) * MOST / there) / PS_PER_S:g}]."
        )
    return low, high


class _Shown:
    """Draws the parts of one timeline, and counts what it drew."""

    def __init__(self, tracks: Tracks, run: Run, window_ps: tuple[int, int], found: pl.DataFrame) -> None:
        self.tracks, self.run, self.window_ps = tracks, run, window_ps
        self.counted: Counter[str] = Counter()
        self._running = found.filter(pl.col("what") == "running").with_row_index("spell")
        inside = clipped(self._running, window_ps)["request"].value_counts().filter(pl.col("count") > 1)
        self._arrows = set(inside["request"])
        self._parts: dict[int, list[dict[str, Any]]] = {}
        for part in clipped(phases(self._running), window_ps).to_dicts():
            self._parts.setdefault(part["spell"], []).append(part)

    def cluster(self, found: pl.DataFrame, happened: pl.DataFrame) -> None:
        """Draw what happens to requests before they have an instance, and refusals."""
        process = self.tracks.process("cluster", CLUSTER_PID, 0)
        early = found.filter(pl.col("what").is_in(list(NAMES)) & (pl.col("end_ps") > pl.col("start_ps")))
        self._count("queued", process, early, 0)
        self._slices("queue", process, early, 1)
        self._instants(process, happened.filter(pl.col("instance").is_null()), 2)

    def instance(self, instance: int, found: pl.DataFrame, happened: pl.DataFrame) -> None:
        """Draw an instance: counters, who waits, its batch, handoffs that it sends, preemptions."""
        process = self.tracks.process(self._name(instance), INSTANCE_PID + instance, 1 + instance)
        own = found.filter(pl.col("instance") == instance)
        waiting = own.filter(pl.col("what") == "waiting")
        running = self._running.filter(pl.col("instance") == instance)
        self._count("waiting", process, waiting, 0)
        self._count("running", process, running, 1)
        self._batch(process, running, 2)
        self._slices("waiting", process, waiting.filter(pl.col("end_ps") > pl.col("start_ps")), 3)
        self._slices("handoff", process, own.filter(pl.col("what") == "handoff"), 4)
        self._instants(process, happened.filter(pl.col("instance") == instance), 5)

    def _name(self, instance: int) -> str:
        prefills = instance in self.run.requests["prefill_instance"]
        decodes = instance in self.run.requests["decode_instance"]
        role = {(True, False): "prefill", (False, True): "decode", (True, True): "mixed"}.get((prefills, decodes))
        return f"instance {instance} ({role})" if role else f"instance {instance}"

    def _count(self, name: str, process: int, intervals: pl.DataFrame, rank: int) -> None:
        if intervals.height:
            self.tracks.count(self.tracks.track(name, process, rank, counter=True), levels(intervals, self.window_ps))

    def _lanes(self, name: str, process: int, shown: pl.DataFrame, rank: int) -> list[int]:
        """Return the track of each row of `shown`, in the order of starts; as many tracks as needed, of one name."""
        taken = lanes(shown["start_ps"].to_list(), shown["end_ps"].to_list())
        made = [self.tracks.track(name, process, rank) for _ in range(max(taken, default=-1) + 1)]
        return [made[lane] for lane in taken]

    def _slices(self, name: str, process: int, intervals: pl.DataFrame, rank: int) -> None:
        shown = clipped(intervals, self.window_ps).sort("start_ps", "request", maintain_order=True)
        for track, row in zip(self._lanes(name, process, shown, rank), shown.to_dicts(), strict=True):
            what = NAMES.get(row["what"], row["what"])
            to = f" to {row['to']}" if what == "handoff" and row["to"] is not None else ""
            self.tracks.begin(track, row["start_ps"], f"{what} {row['request']}{to}", {"request": row["request"]})
            self.tracks.end(track, row["end_ps"])
            self.counted[what] += 1

    def _batch(self, process: int, running: pl.DataFrame, rank: int) -> None:
        """Draw who runs: a slice a request, in it one for each phase; arrows follow it from instance to instance."""
        shown = clipped(running, self.window_ps).sort("start_ps", "request", maintain_order=True)
        told = self.run.requests[shown["request"].to_list()].select(NOTES).to_dicts() if shown.height else []
        tracks = self._lanes("batch", process, shown, rank)
        for track, row, notes in zip(tracks, shown.to_dicts(), told, strict=True):
            self.tracks.begin(track, row["start_ps"], f"request {row['request']}", self._followed(row, notes))
            for part in self._parts.get(row["spell"], []):
                self.tracks.begin(track, part["start_ps"], part["phase"])
                self.tracks.end(track, part["end_ps"])
                self.counted[part["phase"]] += 1
            self.tracks.end(track, row["end_ps"])
            self.counted["request"] += 1

    def _followed(self, row: Mapping[str, Any], notes: Mapping[str, Any]) -> dict[str, Any]:
        """Add the arrow of a request that runs more than once in the window to what is noted of it."""
        if row["request"] not in self._arrows:
            return dict(notes)
        last = row["ended_by"] not in ("preempt", "handoff")
        return {**notes, ("flow_ends" if last else "flow"): row["request"] + 1}

    def _instants(self, process: int, happened: pl.DataFrame, rank: int) -> None:
        low, high = self.window_ps
        shown = happened.filter(pl.col("kind").is_in(list(INSTANTS)) & pl.col("time_ps").is_between(low, high))
        if not shown.height:
            return
        track = self.tracks.track("events", process, rank)
        for row in shown.to_dicts():
            name = INSTANTS[row["kind"]]
            self.tracks.instant(track, row["time_ps"], f"{name} {row['request']}", {"request": row["request"]})
            self.counted[name] += 1

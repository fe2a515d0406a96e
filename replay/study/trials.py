"""Judge one setting of a study: replay it on short windows first, then on the whole training window."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from replay import metrics
from replay.configuration import settings
from replay.driving import EVENTS_A_SLICE
from replay.engine import schema
from replay.errors import ConfigError
from replay.hardware.fields import number
from replay.run import Runner
from replay.study.pool import Once

if TYPE_CHECKING:
    from replay.session import Session
    from traces.schema import Trace

DIRECTIONS: tuple[Literal["maximize"], Literal["minimize"]] = ("maximize", "minimize")
BOUNDS = ("at_least", "at_most")
Report = Callable[[float, int], bool]  # objective so far, step -> whether to give up


class Stopped(Exception):
    """A trial was cut short from outside."""


class Pruned(Exception):
    """A trial lags behind the others and is given up."""


@dataclass(frozen=True)
class Goals:
    """What a study looks for.

    objectives  : numbers of summary.json
    directions  : maximize or minimize, for each
    constraints : number -> (at_least or at_most, bound)
    """

    objectives: tuple[str, ...]
    directions: tuple[Literal["maximize", "minimize"], ...]
    constraints: Mapping[str, tuple[str, float]]

    def values(self, summary: Mapping[str, Any]) -> list[float]:
        """Return the objectives of a run.

        raises : ConfigError for one that is no number of the summary, or has none in this run
        """
        return [_number(summary, name, "study.objectives") for name in self.objectives]

    def violations(self, summary: Mapping[str, Any]) -> dict[str, float]:
        """Return by how much each constraint is broken: at most 0 where it is kept."""
        found = {}
        for name, (side, bound) in self.constraints.items():
            value = _number(summary, name, "study.constraints")
            found[name] = bound - value if side == "at_least" else value - bound
        return found


def goals(node: Mapping[str, Any]) -> Goals:
    """Read the objectives and constraints of a study.

    raises : ConfigError
    """
    names, directions, limits = node["objectives"], node["directions"], node["constraints"] or {}
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"study.objectives must list numbers of summary.json, but is {names!r}.")
    if directions is None:
        directions = [DIRECTIONS[metrics.better(name) != metrics.HIGHER] for name in names]
    directions = [directions] if isinstance(directions, str) else directions
    if len(directions) != len(names) or not all(word in DIRECTIONS for word in directions):
        raise ConfigError(f"study.directions must have maximize or minimize for each of the {len(names)} objectives, "
                          f"but is {directions!r}.")  # fmt: skip
    if not isinstance(limits, Mapping):
        raise ConfigError(f"study.constraints must map numbers of summary.json to bounds, but is {limits!r}.")
    constraints = {}
    for name, limit in limits.items():
        if not isinstance(limit, Mapping) or len(limit) != 1 or next(iter(limit)) not in BOUNDS:
            raise ConfigError(f"study.constraints.{name} must be {{at_least: NUMBER}} or {{at_most: NUMBER}}, but is "
                              f"{limit!r}.")  # fmt: skip
        side, bound = next(iter(limit.items()))
        constraints[str(name)] = (str(side), number(bound, f"study.constraints.{name}.{side}", least=-1e300))
    return Goals(tuple(names), tuple(directions), constraints)


def _number(summary: Mapping[str, Any], name: str, place: str) -> float:
    if name not in summary or isinstance(summary[name], str):
        raise ConfigError(f"{place} must be numbers of summary.json, but '{name}' is none.")
    if summary[name] is None:
        raise ConfigError(f"the run has no {name}: nothing was finished that it could be taken from.")
    return float(summary[name])


class Judge:
    """Replays settings on the windows of a trace.

    train   : share of the trace's time that is tuned on
    windows : first parts of that, as shares of it, replayed before the whole
    reports : stops within the whole at which a trial compares itself with others
    """

    def __init__(self, runner: Runner, train: float, windows: Sequence[float], reports: int) -> None:
        self._runner, self._train, self._windows, self._reports = runner, train, tuple(windows), reports
        self._parts: Once[str, tuple[list[Trace], Trace]] = Once(self._cut, most=4)

    def tuned(self, config: Mapping[str, Any], goals: Goals, report: Report | None = None,
              stopped: Callable[[], bool] = lambda: False) -> Mapping[str, Any]:  # fmt: skip
        """Return the summary of a setting on the training window.

        report : told the first objective of each shorter window and part, which count as steps 0, 1, ...
        raises : Pruned where it says so; Stopped soon after `stopped` says so
        """
        *shorter, whole = self._of(config)[0]
        step = 0
        if report is not None:
            for window in shorter:
                _tell(report, goals, self._replayed(config, window, stopped), step)
                step += 1
        session = self._open(config, whole)
        for part in range(1, self._reports + 1) if report is not None else ():
            _until(session, len(whole) * part // (self._reports + 1))
            assert report is not None
            _tell(report, goals, session.result().summary, step)
            step += 1
        _to_end(session, stopped)
        return session.result().summary

    def held_out(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the summary of a setting on the window that no trial sees."""
        return self._replayed(config, self._of(config)[1])

    def warm(self, config: Mapping[str, Any]) -> None:
        """Load the trace of a configuration, cut it and compress its windows, before threads ask for them."""
        windows, rest = self._of(config)
        for window in (*windows, rest):
            self._runner.trie(window)

    def _of(self, config: Mapping[str, Any]) -> tuple[list["Trace"], "Trace"]:
        return self._parts(json.dumps([config["trace"], config["seed"]], sort_keys=True, default=str))

    def _cut(self, key: str) -> tuple[list["Trace"], "Trace"]:
        from traces.window import split_time

        node, seed = json.loads(key)
        trace = self._runner.trace(node, seed)
        whole, rest = split_time(trace, [self._train, 1.0 - self._train])
        return [*(split_time(whole, [share, 1.0 - share])[0] for share in self._windows), whole], rest

    def _open(self, config: Mapping[str, Any], window: "Trace") -> "Session":
        return self._runner.session(config, settings(config), window)

    def _replayed(self, config: Mapping[str, Any], window: "Trace",
                  stopped: Callable[[], bool] = lambda: False) -> Mapping[str, Any]:  # fmt: skip
        session = self._open(config, window)
        _to_end(session, stopped)
        return session.result().summary


def _tell(report: Report, goals: Goals, summary: Mapping[str, Any], step: int) -> None:
    value = summary.get(goals.objectives[0])
    if isinstance(value, int | float) and report(float(value), step):
        raise Pruned


def _until(session: "Session", arrivals: int) -> None:
    """Advance a session until so many requests have arrived."""
    session.state.cluster["stop_at"] = arrivals
    while int(session.state.cluster["arrived"][0]) < arrivals and not session.advance(1_000_000):
        pass
    session.state.cluster["stop_at"] = schema.NONE


def _to_end(session: "Session", stopped: Callable[[], bool]) -> None:
    while not session.advance(EVENTS_A_SLICE):
        if stopped():
            raise Stopped

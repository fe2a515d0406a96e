"""The verb `run`: compose a configuration, replay it, show and keep the result; with -m, compare many."""

import json
import os
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from replay.compositions import Job, job_of, resolved
from replay.configuration import Settings, offer_policies, sentence, settings
from replay.driving import announce, drive
from replay.errors import ConfigError, KvreplayError
from replay.hardware.conf import conf_folder
from replay.table import by_tier, fabric, hierarchy, life, money, predicted, show, speculation, stages, totals
from replay.write import check_writable

if TYPE_CHECKING:
    from replay.result import Result
    from replay.session import Session
    from traces.schema import Trace
    from traces.trie import Trie

MULTIRUN = ("-m", "--multirun")
STARTED = "KVREPLAY_STARTED"  # when the command began, as its jobs on other machines are told
OK, FAILED, INTERRUPTED = 0, 1, 130


def main(arguments: Sequence[str], runner: "Runner | None" = None) -> int:
    """Run what the arguments of `kvreplay run` ask for.

    arguments : Hydra overrides and flags (-m, --cfg job, --help, ...)
    runner    : does what is to be done with each composed configuration; None replays it
    returns   : exit code: 0, 1 if a run of a multirun failed, 130 after Ctrl-C
    raises    : KvreplayError for anything a user can mend
    """
    offer_policies(arguments)
    os.environ[STARTED] = started = f"{datetime.now():%Y-%m-%d_%H-%M-%S.%f}"
    sweeps = any(text in MULTIRUN for text in arguments)
    runner = runner or (_sweep(arguments) if sweeps else Runner())
    with tempfile.TemporaryDirectory() as scratch:
        # Hydra writes multirun.yaml before it has checked the runs; kept apart, a refused sweep leaves no folder.
        # Its parser wants flags before the first key=value; here -m may stand anywhere.
        argv = [text for text in arguments if text not in MULTIRUN]
        if sweeps:
            argv = ["-m", *argv, f"hydra.sweep.dir={json.dumps(scratch)}", f"+hydra.job.env_set.{STARTED}='{started}'"]
        try:
            _hydra(argv, Task(runner))
            return runner.finish()
        except KeyboardInterrupt:
            runner.interrupted = True
            return runner.finish()
        except KvreplayError:
            raise
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise ConfigError(sentence(error, arguments)) from error


def _sweep(arguments: Sequence[str]) -> "Runner":
    from replay.sweep import Sweep

    return Sweep(arguments)


def _hydra(argv: Sequence[str], task: "Task") -> None:
    """Call Hydra's entry point with these arguments; errors come out as exceptions, not as printed traces."""
    entry = hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    GlobalHydra.instance().clear()
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = ["kvreplay run", *argv], "1"
    try:
        entry(task)()
    finally:
        GlobalHydra.instance().clear()
        sys.argv = before
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full


class Task:
    """What Hydra's launchers call: with one composed configuration, or with all jobs of a sweep at once.

    In another process it is another one, with a runner of that process.
    """

    def __init__(self, runner: "Runner", remote: bool = False) -> None:
        self.runner, self.remote = runner, remote

    def __call__(self, node: DictConfig) -> None:
        """Do one job; its error is kept by the runner, because Hydra would print its own lines around it.

        raises : what the job raises, in a process that nobody asks for it
        """
        job = HydraConfig.get()
        try:
            if job.mode == RunMode.MULTIRUN:
                self.runner.many([job_of(node, int(job.job.num), job.overrides.task)], 1)
            else:
                self.runner.single(resolved(node))
        except Exception as error:
            if self.remote:
                raise
            self.runner.error = error

    def begin(self, master: DictConfig) -> None:
        """Tell the runner which multirun begins, before any job of it is composed."""
        self.runner.begin(str(master.out_dir))

    def many(self, jobs: Sequence[Job], workers: int | None) -> None:
        """Do all jobs of a sweep."""
        self.runner.many(jobs, workers)

    def lost(self, error: Exception) -> None:
        """Keep the error of a launcher that gave up before its jobs were done, such as the death of a process."""
        self.runner.error = error

    def __reduce__(self) -> Any:
        return task_of_process, (type(self.runner), self.runner.arguments)


@cache
def task_of_process(kind: type["Runner"], arguments: tuple[str, ...]) -> Task:
    """Return the task of a process that a launcher started: one runner, which keeps its traces from job to job."""
    offer_policies(arguments)
    return Task(kind(arguments), remote=True)


class Runner:
    """What the runs of one command share: its arguments, loaded traces, and whether it was interrupted."""

    MOST_TRACES = 1  # kept at a time: a trace can fill the memory

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self.arguments = tuple(arguments)
        self.interrupted = False
        self.error: Exception | None = None
        self._traces: dict[str, Trace] = {}
        self._lock = threading.RLock()

    def single(self, config: dict[str, Any]) -> Any:
        """Replay the one configuration of a command, show the result and keep it."""
        folder = Path(settings(config).out_dir)
        result = self.replayed(config, folder)
        _report(result, folder, self.interrupted)

    def replayed(self, config: Mapping[str, Any], folder: Path) -> "Result":
        """Replay a configuration and keep the result in a folder."""
        checked = settings(config)
        check_writable(folder)
        session = self.session(config, checked)
        self.interrupted = drive(session)
        result = _result(session, {**config, "out_dir": str(folder)})
        result.save(folder)
        return result

    def begin(self, out_dir: str) -> None:
        """Learn of a multirun that begins, and where its results go."""

    def many(self, jobs: Sequence[Job], workers: int | None) -> None:
        """Do the jobs of a multirun, one after another."""
        for job in jobs:
            if job.error is not None:
                raise job.error
            assert job.config is not None
            self.single(job.config)

    def finish(self) -> int:
        """Raise the error of a run; return the exit code."""
        if self.error is not None:
            raise self.error
        return INTERRUPTED if self.interrupted else OK

    def session(self, config: Mapping[str, Any], checked: Settings, trace: "Trace | None" = None) -> "Session":
        """Open the session of a resolved configuration, its trace loaded once; or of another trace under it."""
        from predictors import predict
        from replay.cluster import build_cluster
        from replay.prices import build_prices
        from replay.session import Session
        from replay.slo import build_slo

        if trace is None:
            trace = self.trace(config["trace"], checked.seed)
        cluster = build_cluster(config, trace.block_tokens)
        slo = build_slo(config["slo"])
        slo.codes(trace)  # refuses an unlisted tier before anything is compiled
        predictions = predict(config.get("predictor"), trace, checked.seed, self.trie(trace))
        announce(cluster)
        return Session(
            trace, cluster, checked.policies, slo=slo, seed=checked.seed, leap=checked.leap, events=checked.events,
            gaps=checked.gaps, predictions=predictions, prices=build_prices(config.get("prices")),
        )

    def trie(self, trace: "Trace") -> "Trie":
        """Return the compressed trie of a trace, built or mapped once."""
        from replay.session import trie_of

        with self._lock:
            return trie_of(trace)

    def trace(self, node: Mapping[str, Any], seed: int) -> "Trace":
        """Load or generate a trace once for all runs that ask for the same one."""
        from replay.session import keep_trie
        from traces.synthetic import from_config, trie_from_config

        key = json.dumps([node, seed], sort_keys=True, default=str)
        with self._lock:
            if key not in self._traces:
                trace = from_config(dict(node), seed)
                keep_trie(trace, trie_from_config(dict(node), trace))
                while len(self._traces) >= self.MOST_TRACES:
                    del self._traces[next(iter(self._traces))]
                self._traces[key] = trace
            return self._traces[key]


def _result(session: "Session", config: dict[str, Any]) -> "Result":
    from replay.result import Result

    return Result.from_session(session, config)


def _report(result: "Result", folder: Path, interrupted: bool) -> None:
    parts = (hierarchy, fabric, stages, speculation, life, predicted, money)
    extra = [line for part in parts for line in part(result.summary)]
    show(by_tier(result.summary), *extra, "", totals(result.summary), f"results in {folder}")
    if interrupted:
        show("interrupted: what was replayed is kept, the rest is marked unfinished", stderr=True)
    elif waiting := result.summary["unfinished"]:
        show(f"{waiting:,} requests were never served: the router holds them, or the batch policy gives them no tokens",
             stderr=True)  # fmt: skip

"""The verb `run`: compose a configuration, replay it, show and keep the result; with -m, compare many."""

import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from replay.comparison import Comparison
from replay.configuration import Settings, offer_policies, sentence, settings
from replay.errors import ConfigError, KvreplayError
from replay.hardware.conf import conf_folder
from replay.table import by_tier, fabric, hierarchy, money, predicted, show, totals
from replay.write import check_writable

if TYPE_CHECKING:
    from replay.cluster import Cluster
    from replay.result import Result
    from replay.session import Session
    from traces.schema import Trace
    from traces.trie import Trie

EVENTS_A_SLICE = 200_000  # about a tenth of a second: how soon Ctrl-C and the progress bar see the replay
PROGRESS_AFTER_S = 1.0
MULTIRUN = ("-m", "--multirun")
OK, FAILED, INTERRUPTED = 0, 1, 130


def main(arguments: Sequence[str], runner: "Runner | None" = None) -> int:
    """Run what the arguments of `kvreplay run` ask for.

    arguments : Hydra overrides and flags (-m, --cfg job, --help, ...)
    runner    : does what is to be done with each composed configuration; None replays it
    returns   : exit code: 0, 1 if a run of a multirun failed, 130 after Ctrl-C
    raises    : KvreplayError for anything a user can mend
    """
    offer_policies(arguments)
    runner = runner or Runner()
    with tempfile.TemporaryDirectory() as scratch:
        # Hydra writes multirun.yaml before it has checked the runs; kept apart, a refused sweep leaves no folder.
        # Its parser wants flags before the first key=value; here -m may stand anywhere.
        others = [text for text in arguments if text not in MULTIRUN]
        argv = ["-m", *others, f"hydra.sweep.dir={json.dumps(scratch)}"] if _sweeps(arguments) else others
        try:
            _hydra(argv, runner.task)
            return runner.finish()
        except KeyboardInterrupt:
            runner.interrupted = True
            return runner.finish()
        except KvreplayError:
            raise
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise ConfigError(sentence(error, arguments)) from error


def _sweeps(arguments: Sequence[str]) -> bool:
    return any(text in MULTIRUN for text in arguments)


def _hydra(argv: Sequence[str], task: Callable[[DictConfig], None]) -> None:
    """Call Hydra's entry point with these arguments; errors come out as exceptions, not as printed traces."""
    entry = hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    GlobalHydra.instance().clear()
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = ["kvreplay run", *argv], "1"
    try:
        entry(lambda config: task(config))()
    finally:
        GlobalHydra.instance().clear()
        sys.argv = before
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full


class Runner:
    """What the runs of one command share: loaded traces, the sweep's folder and its rows."""

    def __init__(self) -> None:
        self.interrupted = False
        self.error: Exception | None = None
        self.comparison: Comparison | None = None
        self._traces: dict[str, Trace] = {}

    def task(self, node: DictConfig) -> None:
        """Replay one composed configuration; in a multirun an error becomes a row and the next run goes on."""
        job = HydraConfig.get()
        try:
            if job.mode == RunMode.MULTIRUN:
                self._one_of_many(node, int(job.job.num), list(job.overrides.task))
            else:
                self._run(node, None)
        except Exception as error:
            # Handed over rather than raised: Hydra would print its own lines around it.
            self.error = error

    def finish(self) -> int:
        """Raise the error of a single run, or close the sweep with its table; return the exit code."""
        if self.error is not None:
            raise self.error
        failed = False
        if self.comparison is not None:
            self.comparison.close()
            failed = self.comparison.failed
        return INTERRUPTED if self.interrupted else FAILED if failed else OK

    def _one_of_many(self, node: DictConfig, number: int, overrides: list[str]) -> None:
        if self.comparison is None:
            self.comparison = Comparison(Path(resolved(node)["out_dir"]))
        folder = self.comparison.folder / str(number)
        try:
            result = self._run(node, folder)
        except (KvreplayError, OmegaConfBaseException) as error:
            text = str(error) if isinstance(error, KvreplayError) else sentence(error, overrides)
            self.comparison.add(number, folder, overrides, error=text)
            show(f"run {number}: failed", stderr=True)
        else:
            self.comparison.add(number, folder, overrides, result.summary)
        if self.interrupted:
            raise KeyboardInterrupt

    def _run(self, node: DictConfig, folder: Path | None) -> "Result":
        config = resolved(node)
        checked = settings(config)
        folder = folder or Path(checked.out_dir)
        config["out_dir"] = str(folder)
        check_writable(folder)
        session = self.session(config, checked)
        self.interrupted = drive(session)
        result = _result(session, config)
        result.save(folder)
        if self.comparison is None or self.interrupted:
            _report(result, folder, self.interrupted)
        else:
            show(f"run {folder.name}: {totals(result.summary)}", stderr=True)
        return result

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
        _announce(cluster)
        return Session(
            trace, cluster, checked.policies, slo=slo, seed=checked.seed, leap=checked.leap, events=checked.events,
            gaps=checked.gaps, predictions=predictions, prices=build_prices(config.get("prices")),
        )

    def trie(self, trace: "Trace") -> "Trie":
        """Return the compressed trie of a trace, built or mapped once."""
        from replay.session import trie_of

        return trie_of(trace)

    def trace(self, node: Mapping[str, Any], seed: int) -> "Trace":
        """Load or generate a trace once for all runs that ask for the same one."""
        from replay.session import keep_trie
        from traces.synthetic import from_config, trie_from_config

        key = json.dumps([node, seed], sort_keys=True, default=str)
        if key not in self._traces:
            trace = from_config(dict(node), seed)
            keep_trie(trace, trie_from_config(dict(node), trace))
            self._traces = {key: trace}  # one at a time: a trace can fill the memory
        return self._traces[key]


def drive(session: "Session") -> bool:
    """Advance a session to its end, showing progress on a terminal once it lasts; return whether Ctrl-C cut it short.

    A first Ctrl-C ends the slice in progress, so that the state is whole; a second one stops at once.
    """
    ready()
    started_s = time.monotonic()
    with _progress() as progress, _first_interrupt() as interrupted:
        bar = None
        while not session.advance(EVENTS_A_SLICE):
            if interrupted.is_set():
                return True
            if bar is None and time.monotonic() - started_s > PROGRESS_AFTER_S:
                progress.start()
                bar = progress.add_task("replaying", total=len(session.trace))
            if bar is not None:
                progress.update(bar, completed=session.gone)
    return False


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import Progress

    progress = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    try:
        yield progress
    finally:
        progress.stop()


@contextlib.contextmanager
def _first_interrupt() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event that the loop reads; the handler before is back for the second."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _announce(cluster: "Cluster") -> None:
    """Say why a first run with a KV hierarchy or a fabric takes a while."""
    from replay.engine import compile

    missing = []
    if cluster.kv is not None and not compile.is_compiled("tiers_at"):
        missing.append(("KV hierarchy", compile.USUAL_TIERS_SECONDS))
    if cluster.fabric is not None and not compile.is_compiled("fabric_at"):
        missing.append(("fabric", compile.USUAL_FABRIC_SECONDS))
    for part, duration_s in missing:
        show(f"compiling the {part} once for this version (about {duration_s} s); later runs start at once",
             stderr=True)  # fmt: skip


def ready() -> None:
    """Have the event loop ready, saying why that takes a while where it must be compiled first."""
    from replay.engine import compile

    if not compile.is_compiled():
        duration = f"about {compile.USUAL_SECONDS} s"
        show(f"compiling the event core once for this version ({duration}); later runs start at once", stderr=True)
    compile.load()


def resolved(node: DictConfig) -> dict[str, Any]:
    """Return a composed configuration as plain values."""
    container = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    return {str(key): value for key, value in container.items()} if isinstance(container, dict) else {}


def _result(session: "Session", config: dict[str, Any]) -> "Result":
    from replay.result import Result

    return Result.from_session(session, config)


def _report(result: "Result", folder: Path, interrupted: bool) -> None:
    extra = [line for part in (hierarchy, fabric, predicted, money) for line in part(result.summary)]
    show(by_tier(result.summary), *extra, "", totals(result.summary), f"results in {folder}")
    if interrupted:
        show("interrupted: what was replayed is kept, the rest is marked unfinished", stderr=True)
    elif waiting := result.summary["unfinished"]:
        show(f"{waiting:,} requests were never served: the router holds them, or the batch policy gives them no tokens",
             stderr=True)  # fmt: skip

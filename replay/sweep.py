"""A multirun: its jobs at once on threads, or one by one in the processes of another launcher; a file and a row each.

What a job leaves on disk is all that the end of the sweep looks at, so that it does not matter which thread, process or
machine did it, and the same command with the same out_dir does only what is not done yet.
"""

import json
import os
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from replay import driving
from replay.comparison import Comparison
from replay.compositions import Job
from replay.configuration import sentence, settings
from replay.driving import EVENTS_A_SLICE, first_interrupt
from replay.errors import KvreplayError, SweepError, WriteError
from replay.jobs import Record, finished, forget, identity, of_sweep
from replay.run import FAILED, INTERRUPTED, OK, STARTED, Runner
from replay.study.pool import cores
from replay.table import show, totals
from replay.write import check_writable

POLL_S = 0.1  # how soon Ctrl-C is seen while threads replay


class Sweep(Runner):
    """Replays the jobs of a multirun."""

    MOST_TRACES = cores() + 1

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        super().__init__(arguments)
        self.started = os.environ.get(STARTED, "")
        self.folder = Path()
        self._stop = threading.Event()

    def begin(self, out_dir: str) -> None:
        """Learn where the results of the sweep go; its jobs have folders 0, 1, 2, ... in there."""
        self.folder = Path(out_dir)

    def many(self, jobs: Sequence[Job], workers: int | None) -> None:
        """Replay jobs on threads; an error becomes a record, Ctrl-C lets go of what is not done."""
        self.started = os.environ[STARTED]  # of this job's sweep: a process may serve several
        with first_interrupt() as interrupted, ThreadPoolExecutor(workers or cores()) as pool:
            waiting: set[Future[None]] = {pool.submit(self._job, job) for job in jobs}
            try:
                while waiting:
                    done, waiting = wait(waiting, POLL_S, FIRST_COMPLETED)
                    if interrupted.is_set():
                        self._stop.set()
                        self.interrupted = True
                    for future in done:
                        future.result()
            except BaseException:  # what cannot even be noted, such as a full disk: the other jobs would fare alike
                self._stop.set()
                raise

    def finish(self) -> int:
        """Close the sweep with its table, from the records on disk; return the exit code."""
        comparison = gathered(self.folder, self.started)
        if isinstance(self.error, OSError):
            raise WriteError(f"the sweep cannot be written: {self.error.strerror}. Free some space.") from self.error
        if self.error is not None and not isinstance(self.error, KvreplayError):
            done = sum(row["error"] is None for row in comparison.rows) if comparison else 0
            raise SweepError(
                f"the launcher gave up ({_told(self.error, ())}) after {done} runs, which are kept. The same command "
                f"with out_dir={self.folder} does the rest."
            ) from self.error
        if self.error is not None:
            raise self.error
        if self.interrupted:
            place = f" The same command with out_dir={self.folder} does the rest." if comparison else ""
            show(f"interrupted: finished runs are kept.{place}", stderr=True)
        if not comparison:
            return INTERRUPTED if self.interrupted else OK
        comparison.close()
        return INTERRUPTED if self.interrupted else FAILED if comparison.failed else OK

    def _job(self, job: Job) -> None:
        if self._stop.is_set():
            return
        try:
            if job.error is not None:
                raise job.error
            assert job.config is not None
            self._replay(job, job.config)
        except KeyboardInterrupt:
            self.interrupted = True
        except Exception as error:
            text = _told(error, job.overrides)
            Record(job.number, job.overrides, "", self.started, text).save(_folder(job, self.folder))
            show(f"run {job.number}: failed", stderr=True)

    def _replay(self, job: Job, config: dict[str, Any]) -> None:
        checked = settings(config)
        code, sweep = identity(config), Path(checked.out_dir)
        folder = sweep / str(job.number)
        record = Record(job.number, job.overrides, code, self.started)
        if finished(sweep, job.number, code):
            record.save(sweep)
            show(f"run {job.number}: kept", stderr=True)
            return
        check_writable(folder)
        forget(sweep, job.number)
        driving.ready()
        session = self.session(config, checked)
        while not session.advance(EVENTS_A_SLICE):
            if self._stop.is_set():
                return
        from replay.result import Result

        result = Result.from_session(session, {**config, "out_dir": str(folder)})
        result.save(folder)
        record.save(sweep)
        show(f"run {job.number}: {totals(result.summary)}", stderr=True)


def gathered(folder: Path, started: str) -> Comparison | None:
    """Return the rows of the sweep that began at a moment, None where there is no record of it."""
    records = of_sweep(folder, started)
    if not records:
        return None
    comparison = Comparison(folder)
    for record in records:
        place = folder / str(record.number)
        summary = None
        if record.error is None:
            summary = json.loads((place / "summary.json").read_text(encoding="utf-8"))
        comparison.add(record.number, place, list(record.overrides), summary, record.error)
    return comparison


def _folder(job: Job, otherwise: Path) -> Path:
    """Return the folder of a job's sweep: what the job says, which is all that another process knows."""
    out_dir = (job.config or {}).get("out_dir")
    return Path(out_dir) if isinstance(out_dir, str) and out_dir else otherwise


def _told(error: Exception, overrides: Sequence[str]) -> str:
    if isinstance(error, KvreplayError):
        return str(error)
    if isinstance(error, OmegaConfBaseException):
        return sentence(error, overrides)
    if isinstance(error, MemoryError):
        return "the memory of this machine is not enough for this replay"
    return f"unexpected {type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"


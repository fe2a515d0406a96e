"""Where a study's trials are kept: a journal file, SQLite, or a server that several processes share."""

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from replay.errors import ConfigError

WORKER, STALE, REASON, DONE = "worker", "stale", "reason", (TrialState.COMPLETE, TrialState.PRUNED)
JOURNAL = "study.journal"
PATIENCE = 6


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """Open the storage of a study.

    url    : None for a journal file in the folder, else one of SQLAlchemy's: sqlite:///FILE, postgresql+psycopg://...
    raises : ConfigError where it cannot be reached, or a driver is missing
    """
    if url is None:
        folder.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    try:
        if url.startswith("sqlite:///"):
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        return _database(url)
    except Exception as error:  # SQLAlchemy's, the driver's, or Python's for a driver that is not there
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"study.storage must be a database that can be reached, but {_shown(url)} cannot: {reason}. "
                          f"PostgreSQL needs a driver: pip install 'kvreplay[postgresql]'.") from error  # fmt: skip


def _database(url: str) -> RDBStorage:
    """Open a database; another process may be making the same tables, so that one has to look again."""
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    for _ in range(PATIENCE):
        try:
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except (IntegrityError, ProgrammingError):
            time.sleep(0.5)
    return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})


def _shown(url: str) -> str:
    """Return a URL without its password."""
    from sqlalchemy.engine import make_url

    try:
        return make_url(url).render_as_string(hide_password=True)
    except Exception:
        return "it"


def shared(url: str | None) -> bool:
    """Whether several processes may be at a storage at once."""
    return url is not None and not url.startswith("sqlite:")


def me() -> str:
    """Name this process among all that may share a storage."""
    return f"{socket.gethostname()}:{os.getpid()}"


def let_go(study: optuna.Study) -> int:
    """Give up the trials that a process of this machine left running when it ended; returns how many."""
    count = 0
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        host, _, process = str(trial.user_attrs.get(WORKER, "")).rpartition(":")
        if host == socket.gethostname() and process.isdigit() and not _alive(int(process)):
            give_up(study, trial.number, trial._trial_id)
            count += 1
    return count


def give_up(study: optuna.Study, number: int, identifier: int) -> None:
    """Fail a trial that was not judged: it does not count, and another one takes its place."""
    study._storage.set_trial_user_attr(identifier, STALE, True)
    study.tell(number, state=TrialState.FAIL)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def counted(trials: Sequence[FrozenTrial]) -> int:
    """Count the trials that were judged: completed, pruned, or failed for a reason of their own."""
    return sum(one.state in DONE or (one.state == TrialState.FAIL and REASON in one.user_attrs) for one in trials)

"""Write a set of files so that either all of them appear, whole, or none does."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa

from replay.errors import WriteError

MOST_TRIES = 100

@contextlib.contextmanager
def together(folder: str | os.PathLike[str]) -> Iterator[Callable[[str], Path]]:
    """Give temporary paths inside `folder`, and rename them all to their final names when the block ends well.

    folder : created when missing; an older file of the same name is replaced
    yields : function from a file name, or a path below the folder, to the temporary path to write it at
    raises : WriteError when a file cannot be written, synced or renamed; the temporary files and the folders made
             here are removed again, files of an earlier run stay as they were
    """
    target = Path(folder)
    missing = _missing(target)
    made: list[Path] = []
    pending: dict[Path, Path] = {}

    def place(name: str) -> Path:
        final = target / name
        made.extend(path for path in _missing(final.parent) if path not in made)
        _make(final.parent)
        pending[final] = final.with_name(f".{final.name}.{os.getpid()}.partial")
        return pending[final]

    try:
        _make(target)
        yield place
        for temporary in pending.values():
            _sync(temporary)
        for final, temporary in pending.items():
            os.replace(temporary, final)
    except BaseException as error:
        _discard(pending.values(), sorted(made, key=lambda path: -len(path.parts)) + missing)
        if isinstance(error, OSError | pa.ArrowException | pl.exceptions.PolarsError):
            raise WriteError(_sentence(target, error)) from error
        raise


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Check that files can be made in `folder` before a replay that would end there; leaves no trace.

    raises : WriteError if the folder cannot be created or written
    """
    target = Path(folder)
    missing = _missing(target)
    try:
        _make(target)
        with tempfile.TemporaryFile(dir=target):
            pass
    except OSError as error:
        raise WriteError(_sentence(target, error)) from error
    finally:
        _discard((), missing)


def _make(target: Path) -> None:
    """Make a folder and those above it, although a check of another run may take these away in between."""
    for _ in range(MOST_TRIES):
        try:
            target.mkdir(parents=True, exist_ok=True)
            return
        except FileNotFoundError:
            continue
    target.mkdir(parents=True, exist_ok=True)


def _missing(target: Path) -> list[Path]:
    """List the folders that creating `target` would make, the deepest first."""
    return [path for path in (target, *target.parents) if not os.path.lexists(path)]


def _sentence(target: Path, error: BaseException) -> str:
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0].rpartition(": ")[2].rstrip(".")
    return (
        f"the results cannot be written to '{target}': {reason}. Nothing half-written was left there; "
        "free some space or choose another place with out_dir=FOLDER."
    )


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _discard(temporaries: Iterable[Path], made: list[Path]) -> None:
    for temporary in temporaries:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    for folder in made:
        with contextlib.suppress(OSError):  # a folder that holds something meanwhile stays
            folder.rmdir()

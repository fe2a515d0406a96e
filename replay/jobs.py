"""What became of the jobs of a multirun, as a file each: how a sweep goes on after it was cut short, on any machine."""

import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from replay.write import together

FOLDER = "jobs"
PACKAGES = ("traces", "predictors", "replay", "policies")


@dataclass(frozen=True)
class Record:
    """One job: its number, its overrides, what it was made from, when its sweep began, and the error it ended with."""

    number: int
    overrides: tuple[str, ...]
    identity: str
    started: str
    error: str | None = None

    def save(self, folder: Path) -> None:
        """Write the record into the folder of its sweep."""
        with together(folder / FOLDER) as place:
            place(f"{self.number}.json").write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def load(path: Path) -> Record | None:
    """Read a record, None where there is none, or none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Record(**{**content, "overrides": tuple(content["overrides"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def of_sweep(folder: Path, started: str) -> list[Record]:
    """Return the records of the sweep that began at a moment, by number."""
    found = (load(path) for path in (folder / FOLDER).glob("*.json"))
    return sorted((one for one in found if one is not None and one.started == started), key=lambda one: one.number)


def forget(folder: Path, number: int) -> None:
    """Take the record of a job away: its run directory is about to hold another run."""
    (folder / FOLDER / f"{number}.json").unlink(missing_ok=True)


def finished(folder: Path, number: int, identity: str) -> bool:
    """Whether a job made from the same is done, its run directory whole."""
    record = load(folder / FOLDER / f"{number}.json")
    if record is None or record.error is not None or record.identity != identity:
        return False
    return all((folder / str(number) / name).exists() for name in ("summary.json", "requests.parquet", "digest.txt"))


def identity(config: Mapping[str, Any], files: bool = True) -> str:
    """Return a digest of what a run's result follows from.

    config  : resolved configuration; where its results go does not count
    files   : look at the files that it names; machines that share results have copies of different age
    returns : sha256 in hex over the configuration, the size and time of its files, the plug-ins' text and the source of
              kvreplay itself
    """
    whole = hashlib.sha256(_sources().encode())
    rest = {key: value for key, value in config.items() if key != "out_dir"}
    whole.update(json.dumps(rest, sort_keys=True, default=str).encode())
    for path in _files(rest) if files else ():
        status = path.stat()
        whole.update(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
    for path in config.get("plugins") or []:
        whole.update(Path(path).read_bytes() if Path(path).is_file() else b"")
    return whole.hexdigest()


def _files(node: Any, key: str = "") -> Iterator[Path]:
    """Yield the files, and those of the folders, that a configuration names: by keys that end in path, or model."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _files(value, str(name))
    elif isinstance(node, list):
        for value in node:
            yield from _files(value, key)
    elif isinstance(node, str) and (key.endswith("path") or key == "model"):
        path = Path(node)
        yield from (one for one in (path, *sorted(path.rglob("*"))) if one.is_file())


@cache
def _sources() -> str:
    whole = hashlib.sha256()
    for package in PACKAGES:
        for folder in map(Path, importlib.import_module(package).__path__):
            for path in sorted(folder.rglob("*.py")):
                whole.update(path.read_bytes())
    return whole.hexdigest()

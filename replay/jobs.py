"""What became of the jobs of a multirun, as a file each: how a sweep goes on after it was cut short, on any machine."""

import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from replay.write import together

FOLDER = "jobs"
PACKAGES = ("traces", "predictors", "replay", "policies")
FILES = ("trace.path", "predictor.model")  # keys that name a file whose content decides the result


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


def finished(folder: Path, number: int, identity: str) -> bool:
    """Whether a job made from the same is done, its run directory whole."""
    record = load(folder / FOLDER / f"{number}.json")
    if record is None or record.error is not None or record.identity != identity:
        return False
    return all((folder / str(number) / name).exists() for name in ("summary.json", "requests.parquet", "digest.txt"))


def identity(config: Mapping[str, Any]) -> str:
    """Return a digest of what a run's result follows from.

    config  : resolved configuration; where its results go does not count
    returns : sha256 in hex over the configuration, the size and time of the files that it names, the plug-ins' text
              and the source of kvreplay itself
    """
    whole = hashlib.sha256(_sources().encode())
    rest = {key: value for key, value in config.items() if key != "out_dir"}
    whole.update(json.dumps(rest, sort_keys=True, default=str).encode())
    for key in FILES:
        node, _, name = key.partition(".")
        section = config.get(node)
        named = section.get(name) if isinstance(section, Mapping) else None
        if isinstance(named, str) and Path(named).exists():
            status = Path(named).stat()
            whole.update(f"{key} {status.st_size} {status.st_mtime_ns}".encode())
    for path in config.get("plugins") or []:
        whole.update(Path(path).read_bytes() if Path(path).is_file() else b"")
    return whole.hexdigest()


@cache
def _sources() -> str:
    whole = hashlib.sha256()
    for package in PACKAGES:
        for folder in map(Path, importlib.import_module(package).__path__):
            for path in sorted(folder.rglob("*.py")):
                whole.update(path.read_bytes())
    return whole.hexdigest()

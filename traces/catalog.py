"""A catalog of public traces: where each comes from, its licence and checksum, and how to fetch it."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path

from rich.table import Table

from traces.errors import TraceError


@dataclass(frozen=True)
class Entry:
    """One public trace file.

    sha256 : of the file as published (uncompressed); None where nobody here has verified it
    extra  : other files that the reader needs beside it, name -> url; empty for one-file formats
    """

    name: str
    description: str
    url: str
    filename: str
    format: str
    licence: str
    citation: str
    sha256: str | None = None
    extra: dict[str, str] | None = None


@cache
def catalog() -> dict[str, Entry]:
    """Return the entries by name, in the catalog's order."""
    text = resources.files("traces").joinpath("catalog.json").read_text("utf-8")
    known = {field.name for field in fields(Entry)}
    entries = [Entry(**{key: value for key, value in item.items() if key in known}) for item in json.loads(text)]
    return {entry.name: entry for entry in entries}


def fetch(name: str, folder: str | Path, from_path: str | Path | None = None, accept_unverified: bool = False) -> Path:
    """Put a catalog trace into a folder, its checksum verified, and return its path.

    name              : catalog name
    folder            : created if missing; a file that is there already and verifies is not fetched again
    from_path         : file already on disk (plain, .gz or .zst), copied in uncompressed instead of downloaded
    accept_unverified : needed for entries without a known checksum
    raises            : TraceError if the name is unknown, the download fails or the checksum differs; then nothing is
                        left in the folder
    """
    entry = _entry(name)
    if entry.sha256 is None and not accept_unverified:
        raise TraceError(
            f"the catalog has no verified checksum for '{name}', so a damaged or changed file would go unseen. "
            "Pass --accept-unverified to take it anyway; its checksum is then printed for you to keep."
        )
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if from_path is not None:
            return _copy(entry, Path(from_path), folder)
        for extra, url in (entry.extra or {}).items():
            _download(url, extra, folder, None)
        return _download(entry.url, entry.filename, folder, entry.sha256)
    except OSError as error:
        raise TraceError(f"'{name}' cannot be put into {folder}: {error.strerror or error}. Choose another.") from None


def checksum(path: str | Path) -> str:
    """Return the sha256 of a file's content, decompressed if it is .gz or .zst."""
    from traces.readers.source import read_bytes

    return hashlib.sha256(read_bytes(Path(path))).hexdigest()


def render() -> Table:
    """Return the catalog as a table for the terminal."""
    table = Table(title="public traces")
    for heading in ("name", "format", "what", "licence", "checksum"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for entry in catalog().values():
        verified = f"sha256 {entry.sha256[:12]}" if entry.sha256 else "none: --accept-unverified"
        table.add_row(entry.name, entry.format, entry.description, entry.licence, verified)
    return table


def _entry(name: str) -> Entry:
    if name not in catalog():
        raise TraceError(f"a catalog trace must be one of {', '.join(catalog())}, but got '{name}'.")
    return catalog()[name]


def _copy(entry: Entry, source: Path, folder: Path) -> Path:
    from traces.readers.source import open_source

    if not source.is_file():
        raise TraceError(f"--from must name a file, but there is none at {source}. Check the path.")
    found = checksum(source)
    if entry.sha256 is not None and found != entry.sha256:
        raise TraceError(
            f"'{entry.name}' must have sha256 {entry.sha256}, but {source.name} has {found}. "
            "It is another version, or damaged: fetch it again."
        )
    target = folder / entry.filename
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open_source(source) as data, temporary.open("wb") as sink:
            shutil.copyfileobj(data, sink)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _download(url: str, filename: str, folder: Path, sha256: str | None) -> Path:
    import pooch

    pooch.get_logger().setLevel("WARNING")
    known = None if sha256 is None else f"sha256:{sha256}"
    try:
        return Path(pooch.retrieve(url, known_hash=known, fname=filename, path=folder, progressbar=False))
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise TraceError(
            f"{filename} must be fetched from {url} with its known checksum, but that failed: {reason}. "
            "Try again, or name a copy on disk with --from."
        ) from None

"""Write a page and every table behind it, all of them or none."""

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl

from replay.errors import ConfigError, WriteError
from replay.report.page import Page
from replay.report.parts import Folded, Table
from replay.write import together

INDEX = "tables.json"  # names the tables that a report wrote, so that the next one takes away those it no longer has


def save(page: Page, out: Path, also: Mapping[Path, bytes] | None = None) -> list[Path]:
    """Write the page, and beside it a folder with each of its tables and the data of its figures, Parquet and CSV.

    out     : path of the page; the tables go to the folder NAME_tables beside it
    also    : other files that appear only if these do
    returns : the Parquet files
    raises  : ConfigError if a folder stands there, WriteError with nothing half-written
    """
    if out.is_dir():
        raise ConfigError(
            f"report.out must be the path of a page, but '{out}' is a folder. Write report.out={out}/report.html."
        )
    folder = Path(f"{out.stem}_tables")
    frames = dict(_named(page))
    before = _listed(out.parent / folder / INDEX)
    try:
        _write(out, folder, page.html(), frames, also or {})
    except WriteError as error:
        raise WriteError(str(error).replace("out_dir=FOLDER", "report.out=FILE")) from error
    for name in set(before) - set(frames):
        for ending in ("parquet", "csv"):
            (out.parent / folder / f"{name}.{ending}").unlink(missing_ok=True)
    return [out.parent / folder / f"{name}.parquet" for name in frames]


def _write(out: Path, folder: Path, text: str, frames: Mapping[str, pl.DataFrame], also: Mapping[Path, bytes]) -> None:
    with contextlib.ExitStack() as places:
        for path, content in also.items():
            places.enter_context(together(path.parent))(path.name).write_bytes(content)
        place = places.enter_context(together(out.parent))
        place(out.name).write_text(text, encoding="utf-8")
        for name, frame in frames.items():
            with open(place(str(folder / f"{name}.parquet")), "wb") as file:
                frame.write_parquet(file)
            with open(place(str(folder / f"{name}.csv")), "wb") as file:
                _flat(frame).write_csv(file)
        place(str(folder / INDEX)).write_text(json.dumps(sorted(frames), indent=2) + "\n", encoding="utf-8")


def _named(page: Page) -> Iterable[tuple[str, pl.DataFrame]]:
    """Yield a file name, each once, and a frame."""
    used: set[str] = set()
    for part in page.parts():
        if isinstance(part, Folded):
            continue
        frame = part.frame if isinstance(part, Table) else part.data
        if frame is None:
            continue
        slug = re.sub(r"[^a-z0-9]+", "_", part.name.lower()).strip("_") or "table"
        name, count = slug, 1
        while name in used:
            count += 1
            name = f"{slug}_{count}"
        used.add(name)
        yield name, frame


def _listed(path: Path) -> list[str]:
    """Return the tables that the report before this one wrote; none where that cannot be told."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, list):
            return [name for name in found if isinstance(name, str) and re.fullmatch(r"[a-z0-9_]+", name)]
    return []


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame that CSV can hold: lists become text."""
    nested = [name for name, kind in frame.schema.items() if kind.is_nested()]
    return frame.with_columns(
        pl.Series(name, [None if v is None else json.dumps(v, default=list) for v in frame[name]]) for name in nested
    )

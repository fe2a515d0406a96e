"""The step `published` of `kvreplay profile`: published measurements beside what the model gives for them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from rich.table import Table

from replay.driving import ready
from replay.errors import ConfigError
from replay.fidelity.arguments import given
from replay.fidelity.left_out import LEFT_OUT
from replay.fidelity.row import Row
from replay.fidelity.splitwise import recognises
from replay.table import number, plain_table, show
from replay.write import check_writable, together

KEYS = ("of", "from", "out")
SOURCES = ("mooncake", "deepseek", "splitwise")
AIM = 0.03
MOST_SHOWN = 12  # points of an experiment that are shown one by one; of larger ones, so many of the worst
FILE = "published.parquet"
USAGE = """usage: kvreplay profile published [of=mooncake,deepseek,splitwise] [from=FOLDER] [out=FOLDER]

  of    whose numbers; all but splitwise need no file, and without it splitwise is left out if there is no from
  from  folder of Splitwise's perf_model.csv, or the file
  out   folder that gets published.parquet, a row a point"""


def main(arguments: Sequence[str]) -> int:
    """Replay published measurements and show the errors.

    returns : exit code
    raises  : ConfigError for an unknown key or source, or where Splitwise's table is not found
    """
    if any(text in ("-h", "--help") for text in arguments):
        print(USAGE)
        return 0
    own = given("published", arguments, KEYS)
    sources = _sources(own)
    if "out" in own:
        check_writable(own["out"])
    if "splitwise" in sources and not recognises(own.get("from", "")):
        raise ConfigError(f"from must name Splitwise's table, a folder with perf_model.csv, but is "
                          f"'{own.get('from', '')}'. Write from=FOLDER, or of=mooncake,deepseek.")  # fmt: skip
    ready()
    rows = [row for source in sources for row in _rows(source, own)]
    show(summary_table(rows))
    if by_curve := curve_table(rows):
        show("", by_curve)
    for title, table in detail_tables(rows):
        show("", title, table)
    if "out" in own:
        save(rows, Path(own["out"]))
        show("", f"{len(rows)} points in {Path(own['out']) / FILE}")
    return 0


def save(rows: Sequence[Row], folder: Path) -> None:
    """Write all points.

    raises : WriteError
    """
    frame = pl.DataFrame([{**vars(row), "error": row.error} for row in rows])
    with together(folder) as place:
        frame.write_parquet(place(FILE))


def summary_table(rows: Sequence[Row]) -> Table:
    """Make the table of absolute errors, a row an experiment."""
    made = plain_table("experiment", "points", "median", "P90", "max", f"within {100 * AIM:g} %")
    for what, own in _groups(rows).items():
        errors = np.abs([row.error for row in own])
        made.add_row(what, str(len(own)), *_quantiles(errors), f"{int((errors <= AIM).sum())}")
    return made


def detail_tables(rows: Sequence[Row]) -> Iterator[tuple[str, Table]]:
    """Yield a title and a table: all points of small experiments, the worst of large ones."""
    for what, own in _groups(rows).items():
        few = len(own) <= MOST_SHOWN
        beyond = sorted((row for row in own if abs(row.error) > AIM), key=lambda row: -abs(row.error))
        chosen = own if few else beyond[:MOST_SHOWN]
        if chosen:
            made = plain_table("point", "published", "model", "unit", "error")
            for row in chosen:
                error = f"{100 * row.error:+.1f} %"
                made.add_row(row.point, number(row.published), number(row.replayed), row.unit, error)
            yield what if few else f"{what}: the worst of {len(beyond)} beyond {100 * AIM:g} %", made


def curve_table(rows: Sequence[Row]) -> Table | None:
    """Make the table of Splitwise's points left out between others, a row a model, GPU and tp; None without any."""
    left = [row for row in rows if row.what in (f"Splitwise {what}, {LEFT_OUT}" for what in ("prompt", "token"))]
    if not left:
        return None
    made = plain_table("left out, between others", *(f"{what}\n{name}" for what in ("prompts", "tokens")
                                               for name in ("points", "median", "P90", "max")))  # fmt: skip
    for curve in dict.fromkeys(row.point.split(",")[0] for row in left):
        cells: list[str] = []
        for what in ("prompt", "token"):
            own = [row.error for row in left if row.point.startswith(f"{curve},") and f" {what}," in row.what]
            cells += [str(len(own)), *_quantiles(own)]
        made.add_row(curve, *cells)
    return made


def _quantiles(errors: Sequence[float] | np.ndarray) -> list[str]:
    found = np.abs(errors)
    return [f"{100 * value:.1f} %" for value in (np.median(found), np.quantile(found, 0.9), found.max())]


def _rows(source: str, own: Mapping[str, str]) -> Iterator[Row]:
    from replay.fidelity import published_day, published_mooncake, published_splitwise

    if source == "mooncake":
        return published_mooncake.rows()
    if source == "deepseek":
        return published_day.rows()
    return published_splitwise.rows(own["from"])


def _groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.what, []).append(row)
    return groups


def _sources(own: Mapping[str, str]) -> list[str]:
    if "of" not in own:
        return [source for source in SOURCES if source != "splitwise" or "from" in own]
    asked = own["of"].strip("[]").split(",")
    for source in asked:
        if source not in SOURCES:
            raise ConfigError(f"of must name some of {', '.join(SOURCES)}, but has '{source}'. Write of=mooncake.")
    return asked

"""The verb `report`: one HTML page about runs and studies, its tables beside it, and a timeline of a run."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from replay.errors import ConfigError
from replay.report import capacities, compared, over_time, pareto, runs, stores, tuning
from replay.report.folders import Run, Study, Sweep, read
from replay.report.looks import look
from replay.report.page import Page
from replay.report.parts import Figure, Section
from replay.report.save import save
from replay.report.style import plotly
from replay.report.timeline import timeline
from replay.run import MULTIRUN
from replay.study.verb import split
from replay.table import plain_table, show

DEFAULTS: dict[str, Any] = {"out": None, "timeline": None, "window_s": None, "windows": 120, "runs": 8}
STUDIES: dict[str, tuple[str, Callable[[Study], list[Section]]]] = {
    "tune": ("Tuning", tuning.sections),
    "compare": ("Comparison", compared.sections),
    "capacity": ("Capacity", capacities.sections),
}
ROWS = {"tune": "trials", "compare": "differences", "capacity": "configurations"}
USAGE = """usage: kvreplay report FOLDER... [report.key=value ...]

FOLDER is a run directory, the folder of a multirun, or that of a study (tune, compare, capacity); several make one.

  report.out=FILE.html       the page; FOLDER/report.html of one folder, report.html of several when not given
  report.windows=120         windows into which the time of runs is cut, at most
  report.runs=8              runs of a multirun that are drawn; its table holds all
  report.timeline=FILE       also a timeline of one run for the Perfetto viewer, from events.arrow (events=true)
  report.window_s=[0,60]     the part of the run on the timeline"""


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments of `kvreplay report` ask for.

    arguments : folders, and keys report.key=value
    returns   : exit code 0
    raises    : ConfigError for an unknown key, a folder or file that cannot be read, or a package that is missing
    """
    if any(text in ("-h", "--help") for text in arguments):
        print(USAGE)
        return 0
    if any(text in MULTIRUN for text in arguments):
        raise ConfigError("report replays nothing, so that it takes no -m. Name the folder of the multirun instead.")
    values, others = split("report", arguments, DEFAULTS, _value)
    for text in others:
        if text.startswith("-") or ("=" in text and not Path(text).exists()):
            raise ConfigError(f"report takes folders and keys report.key=value, but got '{text}'. See --help.")
    if not others:
        raise ConfigError("report needs at least one folder of a run or study. Write kvreplay report FOLDER.")
    plotly()
    folders = [Path(text) for text in dict.fromkeys(others)]
    sources = read(folders, values["runs"])
    out = Path(values["out"] or (folders[0] / "report.html" if len(folders) == 1 else "report.html"))
    also, counted = _timeline(sources, values, out)
    page = compose(sources, values["windows"])
    files = save(page, out, also)
    _tell(sources, page, out, files)
    for path, content in also.items():
        drawn = ", ".join(f"{count:,} {name}" for name, count in counted.most_common())
        show(f"timeline in {path} ({len(content) / 1e6:.1f} MB; open it at ui.perfetto.dev): {drawn}")
    return 0


def _timeline(sources: Sequence[Any], values: Mapping[str, Any], out: Path) -> tuple[dict[Path, bytes], Counter[str]]:
    """Return the timeline that is asked for, by its path, and what is on it; nothing where none is."""
    if values["timeline"] is None:
        if values["window_s"] is not None:
            raise ConfigError(
                "report.window_s chooses what a timeline shows, but none is asked for. Write "
                "report.timeline=run.perfetto-trace."
            )
        return {}, Counter()
    path = Path(values["timeline"])
    if path.is_dir() or path.absolute() == out.absolute():
        raise ConfigError(
            f"report.timeline must be the path of a file of its own, but is '{path}'. Write "
            f"report.timeline=run.perfetto-trace."
        )
    if len(sources) != 1 or not isinstance(sources[0], Run):
        raise ConfigError(
            "report.timeline draws one run directory, but the report is about other or more folders. Name "
            "that run alone."
        )
    content, counted = timeline(sources[0], values["window_s"])
    return {path: content}, counted


def compose(sources: Sequence[Run | Sweep | Study], windows: int) -> Page:
    """Make the page of what was read.

    windows : into which the time of runs is cut, at most
    """
    drawn = [run for one in sources for run in (one.runs if isinstance(one, Sweep) else (one,)) if isinstance(run, Run)]
    sweeps = [one for one in sources if isinstance(one, Sweep)]
    studies = [one for one in sources if isinstance(one, Study)]
    names = ", ".join(one.folder.resolve().name for one in sources)
    looks = look(drawn, windows) if drawn else None
    page = Page(
        f"kvreplay: {names}",
        " ".join([*_about(drawn), *(f"A study of {_what(one)[1]}." for one in studies)]),
        looks.colours if looks else None,
    )
    if looks is not None:
        page.add(
            "Run" if looks.alone else "Runs",
            [
                *runs.sections(looks, sweeps),
                *pareto.sections(sweeps),
                *over_time.sections(looks),
                *stores.sections(looks),
                runs.configurations(looks),
            ],
        )
    elif sweeps:
        page.add("Runs", [*(runs.swept(sweep) for sweep in sweeps), *pareto.sections(sweeps)])
    for study in studies:
        heading, sections = STUDIES[study.kind]
        page.add(f"{heading}: {study.folder.resolve().name}", sections(study))
    return page


def _about(drawn: Sequence[Run]) -> list[str]:
    if not drawn:
        return []
    heights = [run.requests.height for run in drawn]
    size = f"{heights[0]:,}" if len(set(heights)) == 1 else f"{min(heights):,} to {max(heights):,}"
    if len(drawn) == 1:
        return [f"One run of {size} requests.", runs.told(drawn[0])]
    return [f"{len(drawn)} runs of {size} requests."]


def _tell(sources: Sequence[Any], page: Page, out: Path, files: Sequence[Path]) -> None:
    """Print what was reported, and where."""
    table = plain_table("folder", "what", "rows", left=2)
    for one in sources:
        table.add_row(str(one.folder), *_what(one))
    figures = sum(isinstance(part, Figure) for part in page.parts())
    size_mb = out.stat().st_size / 1e6
    show(
        table,
        "",
        f"{figures} figures in {out} ({size_mb:.1f} MB)",
        f"{len(files)} tables, each as Parquet and CSV, in {files[0].parent if files else '-'}",
    )


def _what(one: Run | Sweep | Study) -> tuple[str, str]:
    if isinstance(one, Run):
        return "run", f"{one.requests.height:,} requests"
    if isinstance(one, Sweep):
        return "multirun", f"{one.rows.height} runs"
    return f"study: {one.kind}", f"{next(iter(one.tables.values())).height:,} {ROWS[one.kind]}"


def _value(key: str, text: str) -> Any:
    if key in ("out", "timeline"):
        if text:
            return text
    elif key in ("windows", "runs"):
        if text.isdecimal() and 1 <= int(text) <= 2000:
            return int(text)
    else:
        try:
            low, high = (float(part) for part in text.strip("[]()").split(","))
            if 0.0 <= low < high < math.inf:
                return low, high
        except ValueError:
            pass
    wanted = {
        "out": "the path of a page, as in report.html",
        "timeline": "the path of a file, as in run.perfetto-trace",
        "windows": "a whole number from 1 to 2000",
        "runs": "a whole number from 1 to 2000",
        "window_s": "two times in seconds, the first one lower, as in [0,60]",
    }
    raise ConfigError(f"report.{key} must be {wanted[key]}, but is '{text}'.")

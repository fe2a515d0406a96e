"""`kvreplay profile validate`: real runs, measured points and published numbers beside their replays, on one page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich.table import Table

from replay.driving import ready
from replay.errors import ConfigError
from replay.fidelity import logs, page
from replay.fidelity.arguments import given
from replay.fidelity.calibrate import with_defaults
from replay.fidelity.calibration import Calibration
from replay.fidelity.deviation import errors
from replay.fidelity.fit import START
from replay.fidelity.runs import FITTED, RUNS, SHARE, beside, own_blocks, runs
from replay.fidelity.runs import validate as validate_run
from replay.study.progress import steps
from replay.table import plain_table, show
from replay.write import check_writable, together

USAGE = """usage: kvreplay profile validate from=FOLDER [out=FOLDER]

  from=FOLDER   recorded runs and per-layer profiles in LLMServingSim's layout (bench/examples, profiler/perf)
  out=FOLDER    where validation.parquet, .csv and .html go; runs/validation by default

   or: kvreplay profile validate log=FILE [out=FOLDER] [as kvreplay run]

  log=FILE      log of a real engine, replayed on the cluster and hardware that the other keys say, nothing fitted

   or: kvreplay profile validate points=FOLDER [limit=N] [out=FOLDER]

  points=FOLDER measured TTFT and TPOT of served models with kernel tables of their GPUs, in AIConfigurator's layout
  limit=N       as many points, drawn from each GPU, model and engine in proportion; all by default"""
OUT = "runs/validation"
STATISTICS = ("mean", "p50", "p90", "p99")
METRICS = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "E2E"}


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments of `kvreplay profile validate` ask for.

    returns : exit code
    raises  : ConfigError for an unknown key, or a folder without runs
    """
    if not arguments or any(text in ("-h", "--help") for text in arguments):
        print(USAGE)
        return 0 if arguments else 2
    if any(text.startswith("log=") for text in arguments):
        return _log(arguments)
    own = given("validate", arguments, ("from", "points", "limit", "out"))
    out = Path(own.get("out", OUT))
    if "points" in own:
        return _points(own["points"], own.get("limit"), out)
    if "from" not in own:
        raise ConfigError("profile validate needs the folder of the recorded runs. Write from=FOLDER.")
    found = list(runs(Path(own["from"])))
    if not found:
        raise ConfigError(f"from must name a folder with {RUNS}/GPU/MODEL/vllm and profiles of these GPUs, but "
                          f"'{own['from']}' has none.")  # fmt: skip
    check_writable(out)
    ready()
    rows: list[dict[str, Any]] = []
    points: list[pl.DataFrame] = []
    with steps("replaying recorded runs", len(found)) as told:
        for run in found:
            errors_of_run, each = validate_run(run)
            rows += errors_of_run
            points.append(each)
            told()
    frame, requests = pl.DataFrame(rows), pl.concat(points)
    _told(frame, requests, out)
    return 0


def _log(arguments: Sequence[str]) -> int:
    """Replay one log as the other arguments say."""
    own = {key: value for key, _, value in (text.partition("=") for text in arguments) if key in ("log", "out")}
    out = Path(own.get("out", OUT))
    log = own_blocks(logs.read(own["log"]))
    check_writable(out)
    work = Calibration(log, SHARE, FITTED, with_defaults([text for text in arguments if text.partition("=")[0]
                                                          not in ("log", "out")], log))  # fmt: skip
    ready()
    whole = work.replayed(dict(START), len(work.trace))
    rows = [{"run": log.name, "part": "all, nothing fitted", "metric": row["metric"], "statistic": row["statistic"],
             "recorded": row["recorded"], "replayed": row["replayed"], "error": row["replayed_error"]}
            for row in errors(work.served, {"replayed": whole})]  # fmt: skip
    _told(pl.DataFrame(rows), beside(work.served, whole, log.name), out)
    return 0


def _points(folder: str, limit: str | None, out: Path) -> int:
    """Replay measured points, and say how far off the held-out half is."""
    from replay.fidelity import silicon

    if limit is not None and not limit.isdigit():
        raise ConfigError(f"limit must be a whole number of points, but is '{limit}'.")
    check_writable(out)
    ready()
    frame = silicon.validate(folder, None if limit is None else int(limit))
    errors_by = silicon.summary(frame)
    with together(out) as place:
        for name, table in (("points", frame), ("points_summary", errors_by)):
            with open(place(f"{name}.parquet"), "wb") as file:
                table.write_parquet(file)
            place(f"{name}.csv").write_text(table.write_csv(), encoding="utf-8")
    made = plain_table("GPU", "model", "engine", "points", "TPOT %\nmedian", "\nP90", "TTFT %\nmedian", "\nP90", left=3)
    for row in errors_by.to_dicts():
        shares = [row[f"{metric}_error_{name}"] for metric in ("tpot", "ttft") for name in ("p50", "p90")]
        made.add_row(row["gpu"], row["model"], row["backend"], str(row["points"]), *(f"{100 * x:.1f}" for x in shares))
    left = silicon.reasons(frame).to_dicts()
    show("absolute errors of the half that nothing was fitted to", made, "",
         *(f"not predicted, {row['points']}: {row['reason']}" for row in left), f"results in {out}")  # fmt: skip
    return 0


def _told(frame: pl.DataFrame, requests: pl.DataFrame, out: Path) -> None:
    """Write and show errors and what they come from."""
    made = page.page(frame, requests)
    with together(out) as place:
        for name, table in (("validation", frame), ("requests", requests)):
            with open(place(f"{name}.parquet"), "wb") as file:
                table.write_parquet(file)
            place(f"{name}.csv").write_text(table.write_csv(), encoding="utf-8")
        place("summary.json").write_text(json.dumps(summary(frame), indent=2) + "\n", encoding="utf-8")
        if made is not None:
            place("validation.html").write_text(made, encoding="utf-8")
    told_page = [] if made else ["no page: pip install 'kvreplay[report]'"]
    show(errors_table(frame), "", *worst_lines(frame), *told_page, f"results in {out}")


def summary(frame: pl.DataFrame) -> dict[str, float]:
    """Return run.part.metric_statistic_error -> signed relative error."""
    return {f"{row['run']}.{row['part']}.{row['metric']}_{row['statistic']}_error": row["error"]
            for row in frame.to_dicts()}  # fmt: skip


def errors_table(frame: pl.DataFrame) -> Table:
    """Make the table of signed errors in percent: a row a run and part, mean / P50 / P90 / P99 of each metric."""
    headings = [f"{name} %\nmean / P50 / P90 / P99" for name in METRICS.values()]
    made = plain_table("run", "part", *headings, left=2 + len(headings))
    for (run, part), rows in frame.group_by("run", "part", maintain_order=True):
        known = {(row["metric"], row["statistic"]): row["error"] for row in rows.to_dicts()}
        made.add_row(str(run), str(part), *(" / ".join(percent(known.get((metric, name))) for name in STATISTICS)
                                            for metric in METRICS))  # fmt: skip
    return made


def worst_lines(frame: pl.DataFrame) -> list[str]:
    """Name the worst number of each run and part."""
    lines = []
    for (run, part), rows in frame.group_by("run", "part", maintain_order=True):
        worst: Mapping[str, Any] = rows.sort(pl.col("error").abs(), descending=True).row(0, named=True)
        name = f"{METRICS[worst['metric']]} {worst['statistic']}"
        lines.append(f"worst of {run}, {part}: {name}, {percent(worst['error'])} %")
    return lines


def percent(error: float | None) -> str:
    """Write a relative error in percent with its sign."""
    return "-" if error is None else f"{100 * error:+.1f}"

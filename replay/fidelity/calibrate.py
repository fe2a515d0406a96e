"""`kvreplay profile calibrate`: fit a profile to the first part of an engine's log, and judge it on the rest."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from rich.table import Table

from replay.driving import ready
from replay.errors import ConfigError
from replay.fidelity import logs
from replay.fidelity.calibration import Calibration
from replay.fidelity.deviation import errors_table
from replay.fidelity.fit import PARAMETERS, SCALES, Fitted
from replay.hardware.file import save as save_profile
from replay.study.verb import split
from replay.table import number, plain_table, show
from replay.write import check_writable, together

OWN = ("log", "out")
DEFAULTS: dict[str, Any] = {"share": 1 / 3, "fit": ("prefill", "decode", "host_s"), "format": None, "columns": None}
USAGE = """usage: kvreplay profile calibrate log=FILE out=FILE.json [key=value ...]

  log=FILE                 log of a real engine, or its folder; formats: {formats}
  out=FILE.json            the calibrated profile: hardware=measured hardware.path=FILE.json uses it;
                           FILE.calibration.json and .csv beside it hold parameters and errors
  calibrate.share=0.33     requests, the first to arrive, that are fitted; the errors are told of the others
  calibrate.fit=prefill,decode,host_s      some of {parameters}
  calibrate.format=NAME    of the log; by default its content tells
  calibrate.columns={{arrival_s: start, ...}}     column map of a plain table
  hardware=... model=... cluster.max_batch=... and other keys of kvreplay run: the profile to start from and the
  cluster that was recorded; one mixed instance by default, with the limits that the log states

prefill, decode and kv multiply what prefill, decode iterations and reading the cache cost (kv goes with decode where
it is not listed), host_s is added to every iteration, admission_s to every request before it is queued."""


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments of `kvreplay profile calibrate` ask for.

    returns : exit code
    raises  : ConfigError, LogError, WriteError
    """
    if not arguments or any(text in ("-h", "--help") for text in arguments):
        print(USAGE.format(formats=", ".join(logs.formats()), parameters=", ".join(PARAMETERS)))
        return 0 if arguments else 2
    own, others = _own(arguments)
    values, others = split("calibrate", others, DEFAULTS, _read)
    out = Path(own["out"])
    log = logs.read(own["log"], values["format"], values["columns"])
    check_writable(out.parent)
    work = Calibration(log, values["share"], values["fit"], with_defaults(others, log))
    ready()
    work.run()
    _save(out, work)
    show(*told(work), "", f"profile in {out}, figures in {out.with_suffix('.calibration.json')} and .csv")
    return 0


def told(work: Calibration) -> list[Any]:
    """Return what is shown of a calibration: the parameters, then the errors."""
    fitted, failed = work.fitted, work.log.requests.height - work.served.height
    left = f"{failed} failed requests are left out; " if failed else ""
    title = f"the other {work.served.height - work.first} requests of {work.log.name}, before and after calibration"
    return [f"fitted to the first {work.first} requests", parameters_table(fitted, work.names), "",
            f"{left}{fitted.replays} replays; loss {number(fitted.loss_before)} before, {number(fitted.loss_after)} "
            f"after; 95 % intervals by a bootstrap over blocks of requests", "",
            title, errors_table(work.rows, ["before", "after"])]  # fmt: skip


def parameters_table(fitted: Fitted, names: Sequence[str]) -> Table:
    """Make the table of parameters: value, 95 % interval, and what was not determined."""
    made = plain_table("parameter", "value", "95 % interval")
    made.add_column("", no_wrap=True)
    for name in names:
        factor, unit = (1.0, "x") if name in SCALES else (1e3, "ms")
        ends = [_signed(end, factor) for end in fitted.intervals.get(name, ())]
        made.add_row(name, f"{_signed(fitted.values[name], factor)} {unit}", " to ".join(ends),
                     "" if ends else "not determined by the log: left as it was")  # fmt: skip
    return made


def _signed(value: float, factor: float) -> str:
    return f"{'-' if value < 0 else ''}{number(abs(value), factor)}"


def _save(out: Path, work: Calibration) -> None:
    fitted = work.fitted
    content = {
        "log": work.log.name, "format": work.log.format, "requests": work.served.height, "fitted_requests": work.first,
        "share": work.share, "parameters": {name: fitted.values[name] for name in work.names},
        "intervals_95": fitted.intervals, "undetermined": list(fitted.undetermined), "replays": fitted.replays,
        "loss_before": fitted.loss_before, "loss_after": fitted.loss_after,
        "overrides": list(work.one.overrides),
        "errors": {f"{row['metric']}_{row['statistic']}_{label}": row[f"{label}_error"] for row in work.rows
                   for label in ("before", "after")},
    }  # fmt: skip
    with together(out.parent) as place:
        save_profile(work.calibrated, place(out.name))
        place(out.with_suffix(".calibration.json").name).write_text(json.dumps(content, indent=2) + "\n",
                                                                    encoding="utf-8")  # fmt: skip
        place(out.with_suffix(".calibration.csv").name).write_text(pl.DataFrame(work.rows).write_csv(),
                                                                   encoding="utf-8")  # fmt: skip


def _own(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    own = {key: text.partition("=")[2] for text in arguments for key in OWN if text.startswith(f"{key}=")}
    for key, example in (("log", "a log of a real engine: log=runs/observed"), ("out", "where the profile goes: "
                                                                               "out=FILE.json")):
        if not own.get(key):
            raise ConfigError(f"kvreplay profile calibrate needs {example}.")
    if not own["out"].endswith(".json"):
        raise ConfigError(f"out must name a profile file, *.json, but is '{own['out']}'. Write out=FILE.json.")
    return own, [text for text in arguments if text.partition("=")[0] not in OWN]


def with_defaults(arguments: Sequence[str], log: logs.Log) -> list[str]:
    """Put one instance, and the limits that the log states, before what the user says."""
    given = {text.lstrip("+").partition("=")[0] for text in arguments}
    usual = {"cluster": "mixed_1", "slo": "none", **log.settings}
    return [*(f"{key}={value}" for key, value in usual.items() if key not in given), *arguments]


def _read(key: str, text: str) -> Any:
    if key == "share":
        try:
            share = float(text)
        except ValueError:
            share = 0.0
        if not 0.0 < share < 1.0:
            raise ConfigError(f"calibrate.share must be a share above 0 and below 1, but is '{text}'.")
        return share
    if key == "fit":
        return tuple(part.strip() for part in text.strip("[]").split(",") if part.strip())
    if key == "format":
        return text
    try:
        columns = yaml.safe_load(text)
    except yaml.YAMLError:
        columns = None
    if not isinstance(columns, dict) or not all(isinstance(value, str) for value in columns.values()):
        raise ConfigError(f"calibrate.columns must map columns of a log to those of the table, as in "
                          f"{{arrival_s: start}}, but is '{text}'.")
    return {str(name): value for name, value in columns.items()}

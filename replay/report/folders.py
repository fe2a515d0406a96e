"""Read what a report is about: run directories, multiruns, and the folders of studies."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from replay.errors import ConfigError
from replay.metrics import Value
from replay.result import TABLES
from replay.slo import Slo, build_slo

NEEDED = (
    "prompt_tokens",
    "output_tokens",
    "tier",
    "status",
    "prefill_instance",
    "decode_instance",
    "hit_tokens",
    "queue_s",
    "ttft_s",
    "tpot_s",
    "e2e_s",
    "generated_tokens",
    "preemptions",
    "slo_met",
    "arrival_ps",
    "scheduled_ps",
    "first_token_ps",
    "finish_ps",
)
# kind of study -> the table that tells it, and those that may stand beside it
STUDIES = {
    "tune": ("trials", "importance"),
    "compare": ("differences", "replicates", "worst"),
    "capacity": ("capacities", "curve", "slo_curve"),
}


@dataclass(frozen=True, eq=False)
class Run:
    """One run directory; `label` names it throughout the page."""

    label: str
    folder: Path
    requests: pl.DataFrame = field(repr=False)
    summary: dict[str, Value] = field(repr=False)
    digest: str
    yaml: str = field(repr=False)
    config: dict[str, Any] = field(default_factory=dict, repr=False)
    slo: Slo | None = field(default=None, repr=False)
    events: Path | None = None
    tables: dict[str, pl.DataFrame] = field(default_factory=dict, repr=False)

    @property
    def tiers(self) -> list[str]:
        """Tiers that have requests, the most urgent first where the configuration tells."""
        present = self.requests["tier"].unique(maintain_order=True).to_list()
        known = self.slo.names if self.slo else []
        return [tier for tier in known if tier in present] + [tier for tier in present if tier not in known]


@dataclass(frozen=True, eq=False)
class Sweep:
    """A multirun: a row a run, the columns that tell its runs apart, and the runs that are drawn."""

    folder: Path
    rows: pl.DataFrame = field(repr=False)
    varying: tuple[str, ...]
    runs: tuple[Run, ...]


@dataclass(frozen=True, eq=False)
class Study:
    """The folder of a study: its tables by name, its numbers, and its YAML files by name."""

    kind: str
    folder: Path
    tables: dict[str, pl.DataFrame] = field(repr=False)
    summary: dict[str, Any] = field(repr=False)
    texts: dict[str, str] = field(repr=False)


def read(folders: Sequence[Path], most_runs: int) -> list[Run | Sweep | Study]:
    """Read each folder, once, as what its files tell it to be; labels of runs are apart.

    most_runs : of a multirun, the runs that are read whole; of the others only their rows
    raises    : ConfigError for a folder that is none of these, or a file that cannot be read
    """
    folders = list({folder.resolve(): folder for folder in folders}.values())
    names = _apart(folders)
    found = [_read(folder, name, most_runs) for folder, name in zip(folders, names, strict=True)]
    labels = [
        run.label for one in found for run in (one.runs if isinstance(one, Sweep) else (one,)) if isinstance(run, Run)
    ]
    if len(set(labels)) == len(labels):
        return found
    return [_under(one, name) if isinstance(one, Sweep) else one for one, name in zip(found, names, strict=True)]


def _under(sweep: Sweep, name: str) -> Sweep:
    """Put the name of a multirun before the labels of its runs."""
    runs = tuple(replace(run, label=f"{name}: {run.label}") for run in sweep.runs)
    return replace(sweep, rows=sweep.rows.with_columns(label=pl.lit(f"{name}: ") + pl.col("label")), runs=runs)


def _read(folder: Path, name: str, most_runs: int) -> Run | Sweep | Study:
    if not folder.is_dir():
        reason = "is a file" if folder.exists() else "does not exist"
        raise ConfigError(f"a report is about folders, but '{folder}' {reason}. Name the run directory (out_dir).")
    for kind, (first, *others) in STUDIES.items():
        if (folder / f"{first}.parquet").exists():
            present = [table for table in (first, *others) if (folder / f"{table}.parquet").exists()]
            texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.yaml"))}
            summary = _numbers(folder) if (folder / "summary.json").exists() else {}
            return Study(
                kind, folder, {table: parquet(folder / f"{table}.parquet") for table in present}, summary, texts
            )
    if (folder / "comparison.parquet").exists():
        return _sweep(folder, name, most_runs)
    if (folder / "requests.parquet").exists():
        return _run(folder, name)
    raise ConfigError(
        f"'{folder}' must be a run directory, a multirun or the folder of a study, but has neither requests.parquet "
        "nor comparison.parquet, trials.parquet, differences.parquet or capacities.parquet. Make one with kvreplay run."
    )


def parquet(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read a Parquet file, or those of the named columns that it has.

    raises : ConfigError if it cannot be read
    """
    try:
        if columns is None:
            return pl.read_parquet(path)
        present = pl.read_parquet_schema(path)
        return pl.read_parquet(path, columns=[name for name in columns if name in present])
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"'{path}' cannot be read as Parquet: {reason}. Make it again.") from None


def _numbers(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"'{folder}' must be a finished run or study, but {path.name}: {reason}.") from None
    if not isinstance(found, dict):
        raise ConfigError(f"'{path}' must map names to numbers, but is a {type(found).__name__}. Make it again.")
    return found


def _run(folder: Path, label: str) -> Run:
    summary = _numbers(folder)
    requests = parquet(folder / "requests.parquet", NEEDED)
    missing = [name for name in NEEDED if name not in requests.columns]
    if missing:
        raise ConfigError(
            f"'{folder / 'requests.parquet'}' must have the columns of a run, but {missing[0]} is "
            f"missing. Replay it again with this version."
        )
    if not requests.height:
        raise ConfigError(f"'{folder / 'requests.parquet'}' has no rows: there is nothing to report.")
    text, config, slo = _config(folder / "config.yaml")
    digest, events = folder / "digest.txt", folder / "events.arrow"
    return Run(
        label=label,
        folder=folder,
        requests=requests,
        summary=summary,
        digest=digest.read_text(encoding="utf-8").strip() if digest.exists() else str(summary.get("digest", "")),
        yaml=text,
        config=config,
        slo=slo,
        events=events if events.exists() else None,
        tables={name: parquet(folder / f"{name}.parquet") for name in TABLES if (folder / f"{name}.parquet").exists()},
    )


def _config(path: Path) -> tuple[str, dict[str, Any], Slo | None]:
    """Return the text of a configuration, its values and its objectives; none for a replay called from Python."""
    if not path.exists():
        return "", {}, None
    try:
        text = path.read_text(encoding="utf-8")
        node = OmegaConf.to_container(OmegaConf.create(text))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"'{path}' cannot be read as YAML: {reason}. Replay it again.") from None
    config = {str(key): value for key, value in node.items()} if isinstance(node, dict) else {}
    return text, config, build_slo(config["slo"]) if config.get("slo") else None


def _sweep(folder: Path, name: str, most_runs: int) -> Sweep:
    rows = parquet(folder / "comparison.parquet")
    if not {"run", "error"} <= set(rows.columns):
        raise ConfigError(
            f"'{folder / 'comparison.parquet'}' must have the columns run and error of a multirun. "
            f"Make it again with kvreplay run -m."
        )
    names = rows.columns
    # What varied stands between `run` and the numbers of the summary; of runs that all failed there are none.
    first = "requests" if "requests" in names else "error"
    varying = tuple(names[1 : names.index(first)])
    labels = _labels(rows, varying)
    rows = rows.with_columns(pl.Series("label", labels))
    good = rows.filter(pl.col("error").is_null()).head(most_runs)
    runs = tuple(_run(folder / str(row["run"]), row["label"]) for row in good.select("run", "label").to_dicts())
    return Sweep(folder, rows, varying, runs)


def _labels(rows: pl.DataFrame, varying: Sequence[str]) -> list[str]:
    """Name runs by what varied: "kv_locality" of one override, "route=kv_locality seed=1" of several."""
    short = {name: name.rpartition("/")[2].removeprefix("policy.").removeprefix("config.") for name in varying}
    if len(set(short.values())) < len(short):
        short = {name: name for name in varying}
    found = []
    for row in rows.to_dicts():
        parts = [str(row[name]) if len(varying) == 1 else f"{short[name]}={row[name]}" for name in varying]
        found.append(" ".join(parts) or f"run {row['run']}")
    if len(set(found)) < len(found):
        found = [f"{run}: {text}" for run, text in zip(rows["run"].to_list(), found, strict=True)]
    return found


def _apart(folders: Sequence[Path]) -> list[str]:
    """Name folders by as many of their last parts as tell them apart."""
    whole = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, whole)) + 1):
        names = ["/".join(parts[-count:]) for parts in whole]
        if len(set(names)) == len(set(whole)):
            break
    return names

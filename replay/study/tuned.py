"""What a study found: its best beside the default on the held-out window, all trials, importances, configurations."""

import json
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import polars as pl
from optuna.trial import FrozenTrial, TrialState

from replay.errors import SweepError
from replay.study import storage
from replay.study.experiment import GROUP, experiment
from replay.study.search import Search
from replay.study.space import Dimension, Value, of_policies, put
from replay.study.trials import Goals
from replay.table import number, plain_table, show
from replay.write import together

MOST_SHOWN = 12  # members of a Pareto front


def finish(search: Search, keys: Sequence[Dimension], config: Mapping[str, Any], arguments: Sequence[str],
           folder: Path) -> None:  # fmt: skip
    """Replay the default and the best settings on the held-out window; write and show all."""
    trials = search.study.get_trials(deepcopy=False)
    best = best_of(search.study, search.goals)
    if not best:
        reasons = [trial.user_attrs[storage.REASON] for trial in trials if storage.REASON in trial.user_attrs]
        raise SweepError(f"no trial of the study was completed. {reasons[-1] if reasons else 'Give it more trials.'}")
    settings = [setting(search, keys, trial) for trial in best]
    rows = [_row(search, "as configured", config), *(_row(search, f"trial {trial.number}", one[0])
                                                     for trial, one in zip(best, settings, strict=True))]  # fmt: skip
    frame, important = table_of(trials, search.goals), importances(search.study, search.goals)
    with together(folder) as place:
        for name, found in (("trials", frame), ("importance", important), ("settings", pl.DataFrame(rows))):
            with open(place(f"{name}.parquet"), "wb") as file:
                found.write_parquet(file)
            place(f"{name}.csv").write_text(found.write_csv(), encoding="utf-8")
        text = json.dumps(summary(rows, trials, search.goals), indent=2) + "\n"
        place("summary.json").write_text(text, encoding="utf-8")
    names = _saved(best, settings, arguments, folder)
    show(*report(search, frame, important, rows), "", f"results in {folder}",
         f"{'the best' if len(names) == 1 else 'one of the front'} runs by: kvreplay run --config-dir={folder} "
         f"+{GROUP}={names[0]}")  # fmt: skip


def best_of(study: optuna.Study, goals: Goals) -> list[FrozenTrial]:
    """Return the best trial, or the Pareto front; where none keeps the constraints, the one that breaks them least."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return []
    kept = [trial for trial in complete if broken(trial) == 0.0]
    if not kept:
        return [min(complete, key=broken)]
    return list(study.best_trials) if len(goals.objectives) > 1 else [study.best_trial]


def broken(trial: FrozenTrial) -> float:
    """Return by how much a trial breaks its constraints, all together; 0 where it keeps them."""
    return sum(max(0.0, value) for value in constraints(trial).values())


def constraints(trial: FrozenTrial) -> dict[str, float]:
    """Return constraint -> by how much it is broken, at most 0 where it is kept."""
    return {key.partition(":")[2]: value for key, value in trial.system_attrs.items() if key.startswith("constraints:")}


def setting(search: Search, keys: Sequence[Dimension], trial: FrozenTrial) -> tuple[dict[str, Any], dict[str, Value],
                                                                                    dict[str, Value]]:  # fmt: skip
    """Return what a trial set: its configuration, the groups that it chose, and its values by dotted key."""
    groups = {one.key: trial.params[one.name] for one in keys if one.group and one.name in trial.params}
    config = json.loads(json.dumps(search.compose(groups)))
    own = [*(one for one in keys if not one.group), *of_policies(config, search.plan["tunables"], groups)]
    values = {one.key: trial.params[one.name] for one in own if one.name in trial.params}
    for key, value in values.items():
        put(config, key, value)
    return config, groups, values


def _row(search: Search, label: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the objectives and constraints of a setting on both windows."""
    row: dict[str, Any] = {"setting": label}
    names = dict.fromkeys([*search.goals.objectives, *search.goals.constraints])
    judge = search.judge
    for window, found in (("tuned", judge.tuned(config, search.goals)), ("held_out", judge.held_out(config))):
        row |= {f"{window}.{name}": found.get(name) for name in names}
    return row


def table_of(trials: Sequence[FrozenTrial], goals: Goals) -> pl.DataFrame:
    """Return a row a trial: number, state, param.*, objective.*, constraint.*, took_s, reason."""
    rows = []
    for trial in trials:
        done = trial.state == TrialState.COMPLETE  # Optuna gives a pruned trial the value of the part that it saw
        values = trial.values if done and trial.values else [None] * len(goals.objectives)
        rows.append({
            "number": trial.number, "state": trial.state.name.lower(),
            **{f"objective.{name}": value for name, value in zip(goals.objectives, values, strict=True)},
            **{f"constraint.{name}": value for name, value in constraints(trial).items()},
            **{f"param.{name}": value for name, value in trial.params.items()},
            "took_s": trial.user_attrs.get("took_s"), "reason": trial.user_attrs.get(storage.REASON),
        })  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None, strict=False)


def importances(study: optuna.Study, goals: Goals) -> pl.DataFrame:
    """Return the share of each parameter in what the objectives vary by (fANOVA); no rows where that cannot be told."""
    rows = []
    for place, name in enumerate(goals.objectives):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = optuna.importance.get_param_importances(
                    study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
                    target=partial(_value, place),
                )  # fmt: skip
        except (ValueError, RuntimeError, ImportError):  # too few trials, or none that differ
            continue
        rows += [{"key": key, "objective": name, "importance": value} for key, value in found.items()]
    return pl.DataFrame(rows, schema={"key": pl.String, "objective": pl.String, "importance": pl.Float64})


def _value(place: int, trial: FrozenTrial) -> float:
    return float(trial.values[place])


def summary(rows: Sequence[Mapping[str, Any]], trials: Sequence[FrozenTrial], goals: Goals) -> dict[str, Any]:
    """Return flat name -> number: of the configuration as it was (default) and of the first best setting (tuned).

    default.NAME, tuned.NAME on the window tuned on; held_out.default.NAME, held_out.tuned.NAME; direction.NAME
    """
    found: dict[str, Any] = {"trials": len(trials)}
    for state in ("complete", "pruned", "fail"):
        found[f"trials_{state}"] = sum(trial.state.name.lower() == state for trial in trials)
    for label, row in (("default", rows[0]), ("tuned", rows[1])):
        for key, value in row.items():
            window, _, name = key.partition(".")
            if name:
                found[f"{label}.{name}" if window == "tuned" else f"held_out.{label}.{name}"] = value
    return found | {f"direction.{name}": way for name, way in zip(goals.objectives, goals.directions, strict=True)}


def _saved(best: Sequence[FrozenTrial], settings: Sequence[tuple[Any, dict[str, Value], dict[str, Value]]],
           arguments: Sequence[str], folder: Path) -> list[str]:  # fmt: skip
    """Write each best setting as a configuration of the group experiment; return their names."""
    names = ["best"] if len(best) == 1 else [f"best_{trial.number}" for trial in best]
    with together(folder / GROUP) as place:
        for name, trial, (_, groups, values) in zip(names, best, settings, strict=True):
            about = f"trial {trial.number} of a study: {', '.join(f'{value:.6g}' for value in trial.values)}"
            place(f"{name}.yaml").write_text(experiment(arguments, groups, values, about), encoding="utf-8")
    return names


def report(search: Search, trials: pl.DataFrame, important: pl.DataFrame,
           rows: Sequence[Mapping[str, Any]]) -> list[Any]:  # fmt: skip
    """Return what is shown: the settings on both windows, what mattered, what was found, and a verdict."""
    goals = search.goals
    names = dict.fromkeys([*goals.objectives, *goals.constraints])
    table = plain_table("", *(f"{name}\n{window}" for name in names for window in ("tuned on", "held out")))
    for row in rows[: MOST_SHOWN + 1]:
        cells = [number(row[f"{window}.{name}"]) for name in names for window in ("tuned", "held_out")]
        table.add_row(row["setting"], *cells)
    counts = ", ".join(f"{count:,} {state}" for state, count in trials["state"].value_counts(sort=True).rows())
    parts: list[Any] = [f"{trials.height:,} trials: {counts}", "", table]
    if len(rows) > MOST_SHOWN + 1:
        parts.append(f"and {len(rows) - MOST_SHOWN - 1} more of the front in settings.parquet")
    parts.append("")
    if len(rows) == 2:
        first = trials.filter(pl.col("number") == int(rows[1]["setting"].split()[1])).to_dicts()[0]
        found = [f"{key.removeprefix('param.')}={_told(value)}" for key, value in first.items()
                 if key.startswith("param.") and value is not None]  # fmt: skip
        parts.append(f"{rows[1]['setting']}: {' '.join(found)}")
    if important.height:
        parts.append("importance: " + ", ".join(
            f"{row['key']} {row['importance']:.2f}" for row in important.filter(
                pl.col("objective") == goals.objectives[0]).head(6).to_dicts()))  # fmt: skip
    return [*parts, *verdict(goals, rows)]


def verdict(goals: Goals, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what the held-out window says of the best settings, and which constraints they break.

    rows : the configuration as it was, then the best setting, or the members of a front
    """
    default, *best = rows
    lines = []
    for name, direction in zip(goals.objectives, goals.directions, strict=True):
        before = default[f"held_out.{name}"]
        after = [row[f"held_out.{name}"] for row in best]
        if before is None or None in after:
            lines.append(f"{name}: nothing to compare on the held-out window")
            continue
        gains = [value > before if direction == "maximize" else value < before for value in after]
        if len(best) > 1:
            lines.append(f"{name}: {sum(gains)} of {len(best)} settings of the front are better than "
                         f"the configured one on the held-out window ({number(before)})")  # fmt: skip
            continue
        word = "is better than" if gains[0] else "equals" if after[0] == before else "is worse than"
        lines.append(f"{name}: the tuned setting {word} the configured one on the held-out window "
                     f"({number(after[0])} against {number(before)})")  # fmt: skip
    for name, (side, bound) in goals.constraints.items():
        for window, label in (("tuned", "tuned"), ("held_out", "held-out")):
            asked = f"{name} must be {side.replace('_', ' ')} {bound:g}"
            values = [row[f"{window}.{name}"] for row in best]
            broken = [one for one in values if one is None or (one < bound if side == "at_least" else one > bound)]
            if broken and len(best) > 1:
                lines.append(f"{asked}: {len(broken)} of {len(best)} settings break that on the {label} window")
            elif broken:
                lines.append(f"{asked}, but is {number(broken[0])} on the {label} window")
    return lines


def _told(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)

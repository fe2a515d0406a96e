"""Tuning: a known optimum is found, a study goes on as if nothing had happened, and what it saves can be run."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import polars as pl
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from replay import cli
from replay.errors import ConfigError
from replay.study import storage, trials
from replay.study.space import of_keys
from tests.test_sweep import started

SMALL = ["trace.requests=400", "cluster.mixed=2", "policy/route=kv_locality"]


def tuned(folder: Path, *arguments: str) -> pl.DataFrame:
    """Run the verb; return its trials."""
    assert cli.main(["tune", *SMALL, f"out_dir={folder}", *arguments]) == 0
    return pl.read_parquet(folder / "trials.parquet")


@pytest.fixture
def landscape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a hill in the place of replays: attainment is best, .9, at max_batch 100 and a token budget of 3,000."""

    def tuned(self: Any, config: Any, goals: Any, report: Any = None, stopped: Any = None) -> dict[str, Any]:
        batch, budget = config["cluster"]["max_batch"], config["cluster"]["token_budget"]
        height = 0.9 - ((batch - 100) / 400) ** 2 - ((budget - 3000) / 8000) ** 2
        if report is not None and report(height, 0):
            raise trials.Pruned
        return {"slo_attainment": height, "ttft_s_mean": batch / 100.0, "digest": "x", "usd_per_hour": None}

    monkeypatch.setattr(trials.Judge, "tuned", tuned)
    monkeypatch.setattr(trials.Judge, "held_out", lambda self, config: tuned(self, config, None))
    monkeypatch.setattr("replay.study.tune.ready", lambda: None)


SPACE = "study.space={cluster.max_batch: {low: 1, high: 400, log: true}, cluster.token_budget: {low: 500, high: 8000}}"


def test_the_optimum_of_a_known_landscape_is_found(landscape: None, tmp_path: Path) -> None:
    keys = [SPACE, "study.tunables=[]", "study.trials=80", "study.pruner=none"]
    rows = tuned(tmp_path, *keys)
    best = rows.sort("objective.slo_attainment", descending=True).row(0, named=True)
    assert best["objective.slo_attainment"] > 0.89
    assert abs(best["param.cluster.max_batch"] - 100) < 40 and abs(best["param.cluster.token_budget"] - 3000) < 900
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["held_out.tuned.slo_attainment"] == summary["tuned.slo_attainment"] > 0.89
    first = rows.row(0, named=True)  # the configuration as it is goes first
    assert (first["param.cluster.max_batch"], first["param.cluster.token_budget"]) == (256, 2048)


def test_constraints_hold_and_a_front_trades_off(landscape: None, tmp_path: Path, capsys: Any) -> None:
    common = [SPACE, "study.tunables=[]", "study.trials=40"]
    rows = tuned(tmp_path / "a", *common, "study.constraints={ttft_s_mean: {at_most: 0.5}}")
    number = int(capsys.readouterr().out.rpartition("trial ")[2].split(":")[0])
    best = rows.filter(pl.col("number") == number).row(0, named=True)
    assert best["param.cluster.max_batch"] <= 50 and best["constraint.ttft_s_mean"] <= 0.0
    feasible = rows.filter(pl.col("constraint.ttft_s_mean") <= 0)
    assert best["objective.slo_attainment"] == feasible["objective.slo_attainment"].max()
    tuned(tmp_path / "b", *common, "study.objectives=[slo_attainment,ttft_s_mean]", "study.sampler=nsga2")
    front = pl.read_parquet(tmp_path / "b" / "settings.parquet").slice(1).sort("tuned.ttft_s_mean")
    assert front.height > 2 and front["tuned.slo_attainment"].is_sorted()
    assert len(list((tmp_path / "b" / "experiment").glob("best_*.yaml"))) == front.height
    assert f"of {front.height} settings of the front are better than the configured one" in capsys.readouterr().out
    tuned(tmp_path / "c", *common, "study.constraints={ttft_s_mean: {at_most: -1}}", "study.trials=12")
    assert "ttft_s_mean must be at most -1, but is" in capsys.readouterr().out


def test_trials_that_lag_behind_are_pruned(landscape: None, tmp_path: Path) -> None:
    rows = tuned(tmp_path, SPACE, "study.tunables=[]", "study.trials=60")
    states = dict(rows["state"].value_counts().rows())
    assert states["pruned"] > 5 and states["complete"] >= 10
    assert rows.filter(state="pruned")["objective.slo_attainment"].null_count() == states["pruned"]


def parameters(rows: pl.DataFrame) -> list[tuple[Any, ...]]:
    """Return what the trials tried and how they ended, without how long they took."""
    kept = rows.filter(pl.col("state") != "fail")
    return kept.select(name for name in rows.columns if name not in ("number", "took_s")).rows()


def test_a_study_goes_on_as_if_it_had_not_been_cut_short(tmp_path: Path, capsys: Any) -> None:
    keys = ["study.space={cluster.max_batch: [8, 16, 64]}", "study.objectives=[ttft_s_p99]", "study.windows=[0.3]"]
    whole = tuned(tmp_path / "whole", *keys, "study.trials=40", "seed=5")
    driver = started(["tune", *SMALL, *keys, "study.trials=40", "seed=5", f"out_dir={tmp_path / 'cut'}"])
    for _ in range(600):
        if _done(tmp_path / "cut") >= 7 or driver.poll() is not None:
            break
        time.sleep(0.02)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    assert 7 <= _done(tmp_path / "cut") < 40
    cut = tuned(tmp_path / "cut", *keys, "study.trials=40", "seed=5")
    assert parameters(cut) == parameters(whole)
    more = tuned(tmp_path / "whole", *keys, "study.trials=42", "seed=5")
    assert more.height == 42 and parameters(more)[:40] == parameters(whole)
    assert cli.main(["tune", *SMALL, *keys, "study.trials=44", "seed=6", f"out_dir={tmp_path / 'whole'}"]) == 1
    assert "was begun for another configuration" in capsys.readouterr().err


def test_ctrl_c_leaves_no_trial_behind_that_was_not_judged(
    landscape: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    keys = [SPACE, "study.tunables=[]", "study.trials=20", "seed=4", "study.workers=2"]
    whole = tuned(tmp_path / "whole", *keys)
    judge, calls = trials.Judge.tuned, []

    def interrupted(self: Any, config: Any, goals: Any, report: Any = None, stopped: Any = lambda: False) -> Any:
        calls.append(1)
        if len(calls) == 8:  # the second of the fourth batch
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        if stopped():
            raise trials.Stopped
        return judge(self, config, goals, report)

    monkeypatch.setattr(trials.Judge, "tuned", interrupted)
    assert cli.main(["tune", *SMALL, *keys, f"out_dir={tmp_path / 'cut'}"]) == 130
    cut = pl.read_parquet(tmp_path / "cut" / "trials.parquet")
    assert cut.height == 8 and cut.filter(pl.col("state") == "fail")["number"].to_list() == [6, 7]
    monkeypatch.setattr(trials.Judge, "tuned", judge)
    assert parameters(tuned(tmp_path / "cut", *keys)) == parameters(whole)


def _done(folder: Path) -> int:
    if not (folder / storage.JOURNAL).exists():
        return 0
    kept = JournalStorage(JournalFileBackend(str(folder / storage.JOURNAL)))
    try:
        return storage.counted(optuna.load_study(storage=kept, study_name="tune").get_trials(deepcopy=False))
    except KeyError:
        return 0


def test_groups_are_chosen_with_the_tunables_of_what_is_chosen(tmp_path: Path) -> None:
    space = "study.space={policy/route: [kv_locality, linear_score, round_robin], kv: [none, dram]}"
    rows = tuned(tmp_path, space, "study.trials=14", "study.objectives=[ttft_s_mean]", "study.pruner=none",
                 "study.sampler=random")  # fmt: skip
    assert set(rows["state"]) == {"complete"}
    for row in rows.to_dicts():
        for policy, tunable in (("kv_locality", "balancing_threshold"), ("linear_score", "hit_weight")):
            asked = row[f"param.policy.route.{policy}.{tunable}"] is not None
            assert asked == (row["param.policy/route"] == policy)
    assert rows["param.policy/route"].n_unique() == 3 and rows["param.kv"].n_unique() == 2
    saved = (tmp_path / "experiment" / "best.yaml").read_text()
    assert "override /policy/route: " in saved and "override /kv: " in saved


def test_the_best_is_a_configuration_that_gives_what_the_study_saw(tmp_path: Path) -> None:
    tuned(tmp_path / "a", "study.trials=6", "study.objectives=[ttft_s_mean]", "study.train=0.99", "seed=3",
          "study.space={cluster.max_batch: [4, 6]}", "+slo.tiers.iron={ttft_s: 2.0}")  # fmt: skip
    assert cli.main(["run", f"--config-dir={tmp_path / 'a'}", "+experiment=best", f"out_dir={tmp_path / 'b'}"]) == 0
    best = pl.read_parquet(tmp_path / "a" / "settings.parquet").row(1, named=True)
    rows = pl.read_parquet(tmp_path / "b" / "requests.parquet")
    last_s = rows["arrival_s"][-1] * 0.99
    again = rows.filter(pl.col("arrival_s") < last_s)["ttft_s"].mean()
    assert again == pytest.approx(best["tuned.ttft_s_mean"], rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["study.trails=3"], "no configuration key 'study.trails'. Did you mean 'study.trials'"),
        (["study.trials=0"], "study.trials must be a whole number"),
        (["study.sampler=magic"], "study.sampler must be one of tpe"),
        (["study.objectives=[speed]"], "'speed' is none"),
        (["study.constraints={gold.ttft_s_p99: 3}"], "{at_least: NUMBER} or {at_most: NUMBER}"),
        (["study.space={cluster.max_bach: [1, 2]}"], "the configuration has not"),
        (["study.space={cluster.max_batch: {low: 9, high: 2}}"], "low <= high"),
        (["study.space={kv: {low: 9, high: 2}}"], "must be a list of values"),
        (["study.tunables=[route.weight]"], "study.tunables names 'route.weight'"),
        (["study.windows=[1.5]"], "study.windows must be finite, above 0"),
        (["study.directions=[up]"], "must have maximize or minimize"),
        (["study.storage=postgresql+psycopg://nobody@localhost:1/none"], "can be reached"),
        (["policy/route=round_robin"], "nothing to tune"),
        (["-m", "study.worker=0,1"], "-m needs hydra/launcher=joblib or ray"),
    ],
)
def test_what_cannot_be_tuned_is_told(arguments: list[str], words: str, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["tune", *SMALL, f"out_dir={tmp_path / 'x'}", "study.trials=2", *arguments]) == 1
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1 and not (tmp_path / "x" / "trials.parquet").exists()


def test_spaces_keep_whole_numbers_whole() -> None:
    low, high = of_keys({"a": {"low": 1, "high": 9}, "b": {"low": 1, "high": 9.5}})
    assert low.whole and not high.whole and high.holds(2.5) and not low.holds(10) and not low.holds(True)
    with pytest.raises(ConfigError, match="must list names of configurations"):
        of_keys({"kv": [1, 2]})

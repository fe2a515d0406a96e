"""Recorded runs: found beside their profiles, replayed within what docs/fidelity.md says, and told on a page."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from replay import cli
from replay.fidelity import page
from replay.fidelity.experts import Link
from replay.fidelity.logs import Log
from replay.fidelity.runs import own_blocks, runs, shape_of, validate
from tests.recorded import recorded


def test_models_of_runs_have_shapes() -> None:
    names = ("Llama-3.1-8B", "Qwen3-30B-A3B-Instruct-2507", "Qwen3-32B")
    assert [shape_of(name) for name in names] == ["llama3_8b", "qwen3_30b_a3b", "qwen3_32b"]


def test_prompts_get_blocks_of_their_own() -> None:
    rows = pl.DataFrame({"arrival_s": [0.0, 1.0, 2.0], "prompt_tokens": [40, 15, 33], "output_tokens": [2, 2, 2]})
    log = own_blocks(Log(rows, "made up", "table"))
    assert log.requests["prefix_blocks"].to_list() == [[0, 1], [], [2, 3]] and log.block_tokens == 16
    assert own_blocks(log) is log
    assert log.trace().column("prompt_tokens").tolist() == [40, 15, 33]


def test_a_recorded_run_is_replayed_as_closely_as_told() -> None:
    folder = recorded("measured/llmservingsim")
    found = {run.name: run for run in runs(folder)}
    assert len(found) >= 3
    rows, points = validate(found["RTXPRO6000 Llama-3.1-8B"])
    frame = pl.DataFrame(rows)
    assert points.height == 300 and frame["part"].n_unique() == 3
    plain = frame.filter(part="all, nothing fitted")
    assert plain.filter(metric="tpot_s")["error"].abs().max() < 0.02
    assert plain.filter(metric="e2e_s")["error"].abs().max() < 0.03
    assert plain.filter(metric="ttft_s")["error"].abs().max() < 0.10
    calibrated = frame.filter(part="last two thirds, calibrated")
    before = frame.filter(part="last two thirds, nothing fitted")
    assert calibrated["error"].abs().mean() < before["error"].abs().mean() and calibrated["error"].abs().max() < 0.05
    made = page.page(frame, points)
    assert made is None or "Recorded runs against their replays" in made


def test_ranks_that_step_together_are_replayed_as_closely_as_told() -> None:
    """Two ranks over shared experts: the link is that of the run's config.json, nothing is fitted."""
    found = {run.name: run for run in runs(recorded("measured/llmservingsim"))}
    run = found["RTXPRO6000 Qwen3-30B-A3B-Instruct-2507"]
    assert run.link == Link(16e9, 20e-6)
    frame = pl.DataFrame(validate(run)[0]).filter(part="all, nothing fitted")
    assert frame.filter(metric="tpot_s")["error"].abs().max() < 0.05
    assert frame.filter(metric="e2e_s")["error"].abs().max() < 0.05
    assert abs(frame.filter(metric="ttft_s", statistic="p50")["error"].item()) < 0.05


@pytest.mark.parametrize("arguments", [["from=nowhere"], ["to=x"], ["from="], ["out=x"]])
def test_what_cannot_be_validated_is_told(arguments: list[str], tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["profile", "validate", *arguments]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "ConfigError" in told and not list(tmp_path.iterdir())


def test_steps_of_profile_are_told(capsys: Any) -> None:
    assert cli.main(["profile", "--help"]) == 0 and "calibrate" in capsys.readouterr().out
    assert cli.main(["profile"]) == 2
    assert cli.main(["profile", "bild"]) == 1
    assert "Did you mean 'build'?" in capsys.readouterr().err
    assert json.dumps(sorted(run.name for run in runs(Path("nowhere")))) == "[]"


@pytest.mark.parametrize("arguments", [["points=nowhere"], ["points=nowhere", "limit=x"], ["points=x", "bound=2"]])
def test_points_that_cannot_be_validated_are_told(arguments: list[str], tmp_path: Path, monkeypatch: Any,
                                                  capsys: Any) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main(["profile", "validate", *arguments]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "ConfigError" in told and not list(tmp_path.iterdir())


def test_measured_points_are_validated_by_a_command(tmp_path: Path, capsys: Any) -> None:
    folder = recorded("measured/aiconfigurator")
    assert cli.main(["profile", "validate", f"points={folder}", "limit=12", f"out={tmp_path}"]) == 0
    told = capsys.readouterr().out
    points = pl.read_parquet(tmp_path / "points.parquet")
    assert "TPOT %" in told and "no kernel tables of" in told
    done = points.filter(pl.col("reason").is_null())  # a drawn one may still not fit in memory
    assert 10 <= done.height <= 12 and set(done["split"]) <= {"fit", "held out"}
    assert pl.read_parquet(tmp_path / "points_summary.parquet")["gpu"].to_list()[-1] == "all"

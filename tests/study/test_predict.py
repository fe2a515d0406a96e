"""The verb `predict`: a model is trained, judged and used; gains are drawn; what is wrong is said in one sentence."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from replay import cli
from replay.result import Result
from tests.refusals import refused

TRACE = ["trace=sessions", "trace.requests=3000"]
RUN = [*TRACE, "cluster=mixed_1", "hardware=linear"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_model_is_trained_and_used(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "train", *TRACE, "predictor=history", "out=models/mine"]) == 0
    assert "history learned" in capsys.readouterr().out
    assert [path.name for path in folder.iterdir()] == ["models"]
    with np.load("models/mine.npz") as archive:
        page = json.loads(str(archive["about"]))
    assert (
        page["columns"] == ["prefix_blocks", "session"] and page["rows"] == 3000 and len(page["digest"]) == 64
    )
    used = ["run", *RUN, "policy/order=shortest_predicted", "predictor=history", "predictor.model=models/mine.npz"]
    assert cli.main([*used, "out_dir=used"]) == 0
    assert cli.main([*used, "predictor.inference_s=measured", "out_dir=slow"]) == 0
    fast, slow = Result.load("used"), Result.load("slow")
    assert "prediction_tau" in fast.summary and fast.digest != slow.digest
    capsys.readouterr()
    other = ["run", "trace=poisson", "trace.requests=300", "predictor=history", "predictor.model=models/mine.npz"]
    refused(other, "has no prefix_blocks, session", folder, capsys)
    refused(
        [*used[:-2], "predictor=boosted", used[-1]], "is of kind history, but predictor.kind is boosted", folder, capsys
    )


def test_predictors_are_judged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["predict", "evaluate", *RUN, "predictor=history,survival", "predict.origins=2", "out_dir=judged"]
    assert cli.main(arguments) == 0
    told = capsys.readouterr().out
    assert "tau-b" in told and "regret" in told and "adaptive" in told
    rows = pl.read_parquet("judged/evaluation.parquet")
    assert rows["predictor"].unique(maintain_order=True).to_list() == ["constant", "history", "survival"]
    assert rows["origin"].to_list() == [0, 1] * 3 and rows["requests"].to_list() == [600] * 6
    regret = pl.read_csv("judged/regret.csv")
    assert regret["predictor"].to_list() == ["none", "constant", "history", "survival", "oracle"]
    assert regret["regret"][0] == 1.0 and regret["regret"][-1] == 0.0
    page = (folder / "judged" / "evaluation.html").read_text()
    assert "predicted against true" in page and "cdn.plot.ly" not in page.split("<script", 1)[0]
    summary = json.loads((folder / "judged" / "summary.json").read_text())
    assert 0.8 < summary["history_coverage"] < 1.0 and summary["constant_below_p50"] > 0.3
    assert sorted(path.name for path in (folder / "judged").iterdir()) == [
        "coverage.csv", "coverage.parquet", "evaluation.csv", "evaluation.html", "evaluation.parquet", "regret.csv",
        "regret.parquet", "summary.json"]  # fmt: skip


def test_gains_grow_with_what_is_known(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["trace=poisson", "trace.requests=600", "trace.rate_per_s=3", "cluster=mixed_1", "hardware=linear",
           "cluster.max_batch=2"]  # fmt: skip
    arguments = ["predict", "gain", *few, "predict.tau=0,0.5,1", "predict.loads=1,1.5",
                 "predict.orders=shortest_predicted",
                 "predict.objectives=e2e_s_mean", "out_dir=gains"]  # fmt: skip
    assert cli.main(arguments) == 0
    assert "gain at" in capsys.readouterr().out
    rows = pl.read_parquet("gains/gain.parquet")
    assert rows.height == 6 and rows["objective"].unique().to_list() == ["e2e_s_mean"]
    for load in (1.0, 1.5):
        gains = rows.filter(pl.col("load") == load)["gain"].to_list()
        assert gains[2] > gains[1] and gains[2] > 0.05
    assert (folder / "gains" / "gain.html").exists() and (folder / "gains" / "gain.csv").exists()


@pytest.mark.parametrize(("arguments", "words"), [
    (["predict"], "predict must be told what to do"),
    (["predict", "guess"], "train, evaluate, gain, but was told 'guess'"),
    (["predict", "train", *TRACE], "needs the file to write, once"),
    (["predict", "train", *TRACE, "out=m", "predictor=oracle"], "only group, history, boosted, rank, survival are"),
    (["predict", "train", *TRACE, "out=m", "-m"], "predict looks at one run"),
    (["predict", "train", "trace.requests=20", "out=m"], "at least 50 finished requests"),
    (["predict", "evaluate", *TRACE, "predict.origins=9"], "must leave as much to learn from"),
    (["predict", "evaluate", *TRACE, "predict.share=2"], "predict.share must be a share above 0"),
    (["predict", "evaluate", *TRACE, "predict.what=2"], "there is no key 'predict.what'"),
    (["predict", "evaluate", *TRACE, "predictor=magic"], "there is no predictor called 'magic'"),
    (["predict", "gain", *TRACE, "predict.tau=2"], "predict.tau must be numbers from 0 to 1"),
    (["predict", "gain", *TRACE, "predict.orders=fcfs"], "must name one number of summary.json for each"),
])  # fmt: skip
def test_what_is_wrong_is_said(
    arguments: list[str], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(arguments, words, folder, capsys)

"""Calibration: on logs of our own engine known scales come back, and what a log does not determine is said."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from replay import cli, replay
from replay.cluster import cluster
from replay.errors import ConfigError
from replay.fidelity import logs
from replay.fidelity.calibration import Calibration
from replay.fidelity.deviation import errors
from replay.fidelity.fit import fit
from replay.fidelity.scaling import scaled
from replay.hardware.file import load
from tests.recorded import recorded
from tests.refusals import refused
from tests.small import small_profile

SHAPE = {"prefill_token_s": 5e-5, "iteration_s": 0.004, "decode_request_s": 2e-4, "kv_token_s": 2e-6}
HARDWARE = [f"hardware.{key}={value}" for key, value in SHAPE.items()]
BASE = ["hardware=linear", *HARDWARE, "cluster.token_budget=512"]


def worst(rows: list[dict[str, Any]], label: str) -> float:
    """Return the largest absolute error of a label's rows."""
    return max(abs(row[f"{label}_error"]) for row in rows)


def engine_log(folder: Path, requests: int = 90, rate_per_s: float = 3.0, **scales: float) -> Path:
    """Replay a workload with a scaled profile, and write what a client would have recorded."""
    from dataclasses import replace

    from traces.synthetic import from_config

    lengths = {"law": "lognormal", "cv": 0.8, "max": 4000}
    trace = from_config({"kind": "poisson", "rate_per_s": rate_per_s, "requests": requests,
                         "prompt_tokens": {**lengths, "mean": 800}, "output_tokens": {**lengths, "mean": 60}}, 5)
    plain = cluster("mixed_1", hardware={"base": "linear", **SHAPE}, token_budget=512)
    found = tuple(replace(one, profile=scaled(one.profile, **scales)) for one in plain.instances)
    rows = replay(trace, replace(plain, instances=found), slo="none").requests
    rows.select("arrival_s", "prompt_tokens", "output_tokens", "ttft_s", "e2e_s").write_csv(folder / "log.csv")
    return folder / "log.csv"


def calibrated(path: Path, names: tuple[str, ...], share: float = 0.4) -> Calibration:
    """Calibrate the unscaled profile to a log."""
    work = Calibration(logs.read(path), share, names, ["cluster=mixed_1", "slo=none", *BASE])
    work.run()
    return work


def test_known_scales_are_recovered_and_the_rest_of_the_log_is_met(tmp_path: Path) -> None:
    known = {"prefill": 1.7, "decode": 0.6, "kv": 3.0}
    work = calibrated(engine_log(tmp_path, **known), ("prefill", "decode", "kv"))
    assert not work.fitted.undetermined
    for name, value in known.items():
        assert work.fitted.values[name] == pytest.approx(value, rel=0.08), name
        low, high = work.fitted.intervals[name]
        assert 0.95 * low <= value <= 1.05 * high and high / low < 1.3, name
    assert worst(work.rows, "before") > 0.2 and worst(work.rows, "after") < 0.02
    assert work.fitted.loss_after < 0.01 * work.fitted.loss_before


def test_time_of_the_host_is_recovered(tmp_path: Path) -> None:
    """Where the scales are known, so that nothing else can stand for it."""
    for host_s in (0.003, -0.002):
        work = calibrated(engine_log(tmp_path, host_s=host_s), ("prefill", "host_s"))
        assert work.fitted.values["host_s"] == pytest.approx(host_s, rel=0.04)
        assert work.fitted.values["prefill"] == pytest.approx(1.0, rel=0.04)


def test_what_the_log_does_not_determine_is_left_as_it_was(tmp_path: Path) -> None:
    """With answers of one token nothing is decoded: no log of them can tell what decoding costs."""
    path = engine_log(tmp_path, prefill=2.0)
    frame = pl.read_csv(path).with_columns(output_tokens=pl.lit(1), e2e_s=pl.col("ttft_s"))
    frame.write_csv(path)
    from replay.fidelity.calibration import Calibration

    work = Calibration(logs.read(path), 0.4, ("prefill", "decode"), ["cluster=mixed_1", "slo=none", *BASE])
    work.run()
    assert list(work.fitted.undetermined) == ["decode"] and work.fitted.values["decode"] == 1.0
    assert "decode" not in work.fitted.intervals and work.fitted.values["prefill"] > 1.3


def test_the_admission_of_a_request_is_fitted_beside_its_iterations(tmp_path: Path) -> None:
    path = engine_log(tmp_path, rate_per_s=0.5)
    pl.read_csv(path).with_columns(pl.col("ttft_s") + 0.05, pl.col("e2e_s") + 0.05).write_csv(path)
    work = calibrated(path, ("decode", "admission_s"))
    assert work.fitted.values["admission_s"] == pytest.approx(0.05, rel=0.02)
    assert work.fitted.values["decode"] == pytest.approx(1.0, rel=0.02)


def test_the_command_writes_a_profile_that_a_run_can_use(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    engine_log(tmp_path, prefill=1.5, decode=0.8, kv=0.8)  # what is not fitted of its own goes with decode
    arguments = ["profile", "calibrate", "log=log.csv", "out=new/mine.json", "calibrate.share=0.5",
                 "calibrate.fit=prefill,decode", *BASE]
    assert cli.main(arguments) == 0
    told = capsys.readouterr().out
    assert "fitted to the first 45 requests" in told and "95 % interval" in told and "TPOT ms" in told
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "mine.json", "mine.calibration.json", "mine.calibration.csv"}
    profile, stated = load("new/mine.json"), json.loads((tmp_path / "new/mine.calibration.json").read_text())
    assert "calibrated on the first 45 of 90 requests of log.csv" in profile.provenance
    assert profile.prefill_token_ps == round(5e7 * stated["parameters"]["prefill"])
    assert stated["parameters"] == pytest.approx({"prefill": 1.5, "decode": 0.8}, rel=0.05)
    rows = pl.read_csv("new/mine.calibration.csv")
    assert rows.height == 12 and rows["after_error"].abs().max() < 0.1 < rows["before_error"].abs().max()
    before = {path: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    assert cli.main(arguments) == 0
    assert before == {path: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    assert cli.main(["run", "hardware=measured", "hardware.path=new/mine.json", "trace.requests=20", "cluster=mixed_1",
                     "out_dir=run"]) == 0


@pytest.mark.parametrize(("arguments", "words"), [
    (["out=a.json"], "needs a log of a real engine"),
    (["log=log.csv"], "needs where the profile goes"),
    (["log=log.csv", "out=a.txt"], "out must name a profile file"),
    (["log=nothing.csv", "out=a.json"], "there is none at nothing.csv"),
    (["log=broken.csv", "out=a.json"], "has no 'arrival_s'"),
    (["log=short.csv", "out=a.json"], "must leave 8 requests to fit"),
    (["log=untimed.csv", "out=a.json"], "needs the times of tokens"),
    (["log=log.csv", "out=a.json", "calibrate.share=2"], "share above 0 and below 1"),
    (["log=log.csv", "out=a.json", "calibrate.fit=speed"], "calibrate.fit must list some of prefill"),
    (["log=log.csv", "out=a.json", "calibrate.fit=[]"], "calibrate.fit must list some of prefill"),
    (["log=log.csv", "out=a.json", "calibrate.what=1"], "there is no key 'calibrate.what'"),
    (["log=log.csv", "out=a.json", "calibrate.columns=3"], "calibrate.columns must map"),
    (["log=log.csv", "out=a.json", "hardware=nothing"], "there is no hardware called 'nothing'"),
    (["log=log.csv", "out=a.json", "cluster.kv_blocks=2"], "the cluster must serve what the engine served"),
    (["log=log.csv", "out=a.json", "seed=1,2"], "fits one configuration"),
    (["log=log.csv", "out=a.json", "cluster=pd_hetero"], "fits one profile"),
])  # fmt: skip
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, capsys, arguments, words) -> None:
    monkeypatch.chdir(tmp_path)
    head = "arrival_s,prompt_tokens,output_tokens"
    (tmp_path / "log.csv").write_text(f"{head},ttft_s,e2e_s\n" + "".join(f"{i},100,5,1,2\n" for i in range(40)))
    (tmp_path / "short.csv").write_text(f"{head},ttft_s,e2e_s\n" + "".join(f"{i},100,5,1,2\n" for i in range(9)))
    (tmp_path / "untimed.csv").write_text(f"{head}\n" + "".join(f"{i},100,5\n" for i in range(40)))
    (tmp_path / "broken.csv").write_text("a,b\n1,2\n")
    refused(["profile", "calibrate", *arguments], words, tmp_path, capsys)


def test_help_lists_formats_and_parameters(capsys: Any) -> None:
    assert cli.main(["profile", "calibrate", "--help"]) == 0
    told = capsys.readouterr().out
    assert "otel_spans" in told and "admission_s" in told


def test_errors_are_signed_and_leave_out_what_was_not_recorded() -> None:
    recorded_rows = pl.DataFrame({"ttft_s": [1.0, 3.0], "tpot_s": [None, 0.1], "e2e_s": [None, None]},
                                 schema_overrides={"e2e_s": pl.Float64})
    replayed = pl.DataFrame({"ttft_s": [2.0, 4.0], "tpot_s": [9.0, 0.05], "e2e_s": [1.0, 1.0]})
    found = {(row["metric"], row["statistic"]): row["x_error"] for row in errors(recorded_rows, {"x": replayed})}
    assert found["ttft_s", "mean"] == 0.5 and found["tpot_s", "p50"] == -0.5 and ("e2e_s", "mean") not in found


def test_no_parameters_are_refused() -> None:
    with pytest.raises(ConfigError, match="some of prefill, decode"):
        fit(lambda values: pytest.fail("replayed"), (), small_profile(iteration_ps=10))


def test_a_third_of_a_real_run_of_vllm_predicts_the_rest(tmp_path: Path) -> None:
    """From the spec sheet of another card of the same generation: every figure of the other 200 requests within 5 %."""
    log = logs.read(recorded("measured/llmservingsim/bench/examples/RTX4090/Llama-3.1-8B") / "vllm")
    limits = [f"{key}={value}" for key, value in log.settings.items()]
    arguments = ["cluster=mixed_1", "slo=none", "hardware=l40s", "model=llama3_8b", *limits]
    work = Calibration(log, 1 / 3, ("prefill", "decode", "host_s"), arguments)
    work.run()
    assert worst(work.rows, "before") > 0.2 and worst(work.rows, "after") < 0.05

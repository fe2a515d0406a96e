"""The noise-controlled oracle meets its targets, the same for the same seed; what it cannot do it says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from predictors import predict
from predictors.errors import PredictorError
from predictors.metrics import quality
from replay import cli, replay
from replay.result import Result
from tests.refusals import refused
from tests.small import small_cluster, small_instance, small_profile
from traces.schema import Trace
from traces.synthetic import make

LENGTHS = {"prompt_tokens": {"law": "lognormal", "mean": 300, "cv": 1.0},
           "output_tokens": {"law": "lognormal", "mean": 200, "cv": 1.5}}  # fmt: skip
TRACE: Trace = make("poisson", requests=4000, seed=5, rate_per_s=10.0, **LENGTHS)
TRUE = TRACE.column("output_tokens")


def oracle(seed: int = 1, **values: Any) -> np.ndarray:
    """Predict the usual trace with an oracle."""
    found = predict({"kind": "oracle", **values}, TRACE, seed)
    assert found is not None and found.tokens.dtype == np.int32 and found.tokens.min() >= 1
    assert (found.p90 == found.tokens).all() and (found.p99 == found.tokens).all()
    return found.tokens


@pytest.mark.parametrize("target", [0.02, 0.26, 0.64, 0.95])
def test_tau_is_met(target: float) -> None:
    found = oracle(tau=target)
    assert abs(stats.kendalltau(found, TRUE).statistic - target) <= 0.01
    assert quality(found, TRUE)["prediction_tau"] == stats.kendalltau(found, TRUE).statistic


@pytest.mark.parametrize("target", [1.0, 50.0, 400.0])
def test_mean_error_is_met(target: float) -> None:
    found = oracle(mae_tokens=target)
    assert np.abs(found - TRUE.astype(float)).mean() == pytest.approx(target, rel=0.01)
    assert quality(found, TRUE)["prediction_mae_tokens"] == np.abs(found - TRUE.astype(float)).mean()


def test_shrinking_keeps_ranks_and_lowers_errors() -> None:
    """With much noise the best guess is the mean, whose errors end; ranks stay but for ties."""
    plain, shrunk = oracle(sigma=3.0), oracle(sigma=3.0, shrink=True)
    found = {name: quality(rows, TRUE) for name, rows in (("plain", plain), ("shrunk", shrunk))}
    assert abs(found["plain"]["prediction_tau"] - found["shrunk"]["prediction_tau"]) < 0.01  # type: ignore[operator]
    assert found["shrunk"]["prediction_log_mae"] < 0.5 * found["plain"]["prediction_log_mae"]  # type: ignore[operator]
    noise = np.log(oracle(sigma=1.0).astype(float)) - np.log(TRUE)
    logs, variance = np.log(TRUE), np.log(TRUE).var()
    expected = logs.mean() + (logs + noise - logs.mean()) * variance / (variance + 1.0)
    near = np.log(oracle(sigma=1.0, shrink=True).astype(float))
    assert np.abs(near - expected)[TRUE > 20].max() < 0.2
    with pytest.raises(PredictorError, match="predictor.shrink must be true or false"):
        oracle(sigma=1.0, shrink=1)


def test_no_noise_is_the_truth_and_more_is_worse() -> None:
    assert (oracle(sigma=0.0) == TRUE).all()
    errors = [quality(oracle(sigma=sigma), TRUE)["prediction_log_mae"] for sigma in (0.0, 0.3, 1.0, 3.0)]
    assert errors == sorted(errors, key=lambda error: error or 0.0) and errors[0] == 0.0
    assert (oracle(sigma=0.0, bias=2.0) == 2 * TRUE).all()


def test_draws_follow_the_seed() -> None:
    assert (oracle(seed=7, sigma=1.0) == oracle(seed=7, sigma=1.0)).all()
    assert (oracle(seed=7, sigma=1.0) != oracle(seed=8, sigma=1.0)).mean() > 0.9


@pytest.mark.parametrize(("node", "words"), [
    ({"kind": "oracle"}, "needs one of predictor.sigma, tau and mae_tokens, but has none"),
    ({"kind": "oracle", "tau": 0.5, "sigma": 1.0}, "but has sigma, tau"),
    ({"kind": "oracle", "tau": 1.5}, "predictor.tau must be a number from 0 to 1, but is 1.5"),
    ({"kind": "oracle", "sigma": -1}, "predictor.sigma must be a number from 0"),
    ({"kind": "oracle", "mae_tokens": 1.0, "bias": 2.0}, "cannot be reached"),
    ({"kind": "oracle", "sigma": 1, "tokens": 3}, "predictor.tokens is no key of a predictor of kind oracle"),
    ({"kind": "constant", "tokens": 0}, "predictor.tokens must be a whole number from 1"),
    ({"kind": "magic"}, "predictor.kind must be one of none, constant, oracle, online, group, history, boosted, rank, "
                        "survival, but is 'magic'"),
    ("oracle", "predictor must be a configuration node"),
])  # fmt: skip
def test_bad_nodes_are_refused(node: Any, words: str) -> None:
    with pytest.raises(PredictorError, match=words.replace("(", r"\(")):
        predict(node, TRACE, 0)


def test_constants_know_nothing() -> None:
    found = predict({"kind": "constant", "tokens": 64}, TRACE, 0)
    assert found is not None and set(found.tokens) == {64} and quality(found.tokens, TRUE)["prediction_tau"] is None
    assert predict({"kind": "none"}, TRACE, 0) is None is predict(None, TRACE, 0)


def test_knowing_lengths_shortens_the_mean() -> None:
    """On a full instance that serves one request at a time, the shortest first by a perfect prediction."""
    profile = small_profile(iteration_ps=10**9, decode_request_ps=1)
    instance = small_instance("mixed", profile, max_batch=1, kv_blocks=10**5, token_budget=4096)
    order = {"order": {"name": "shortest_predicted", "output_weight": 256.0}}
    trace = make("poisson", requests=400, seed=5, rate_per_s=6.0, **LENGTHS)
    known = predict({"kind": "oracle", "sigma": 0.0}, trace, 0)
    means = [replay(trace, small_cluster([instance]), policies, predictions=known).summary["e2e_s_mean"]
             for policies in (order, {})]  # fmt: skip
    assert means[0] < 0.8 * means[1]


def test_a_run_says_how_good_its_predictions_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    run = ["run", "trace.requests=200", "hardware=linear"]
    assert cli.main([*run, "out_dir=with", "predictor=oracle", "predictor.tau=0.4"]) == 0
    assert "predictions: tau 0.4" in capsys.readouterr().out
    assert cli.main([*run, "out_dir=without"]) == 0
    found, plain = Result.load("with"), Result.load("without")
    assert abs(float(found.summary["prediction_tau"]) - 0.4) <= 0.01  # type: ignore[arg-type]
    assert found.digest == plain.digest and "prediction_tau" not in plain.summary
    capsys.readouterr()
    refused([*run, "predictor=oracle", "predictor.tau=2"], "predictor.tau must be a number", tmp_path, capsys)

"""Capacity by bisection, and the search for a placement, on cases with known answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from replay import cli, session
from replay.study.capacity import LEAST_SCALE, MOST_SCALE, capacity
from replay.study.place import placements
from tests.refusals import refused


@pytest.mark.parametrize("edge", [0.013, 0.5, 0.99, 1.0, 1.7, 900.0])
def test_capacity_finds_the_edge(edge: float) -> None:
    asked: list[float] = []

    def keeps(scale: float) -> bool:
        asked.append(scale)
        return scale <= edge

    found = capacity(keeps, tolerance=0.01)
    assert edge / 1.01 <= found <= edge and len(asked) == len(set(asked)) < 40


def test_capacity_says_what_has_no_edge() -> None:
    assert capacity(lambda scale: True) == MOST_SCALE
    assert capacity(lambda scale: False) == 0.0 and LEAST_SCALE > 0


def test_neighbours_differ_by_one_instance() -> None:
    assert placements({"prefill": 3, "decode": 2}) == [(3, 2), (2, 2), (3, 1), (4, 1), (2, 3), (4, 2), (3, 3)]
    assert placements({"prefill": 1, "decode": 1}) == [(1, 1), (2, 1), (1, 2)]


TRACE = ["trace=poisson", "trace.requests=400", "trace.rate_per_s=10"]
TRACE += [f"trace.{name}_tokens={mean}" for name, mean in (("prompt", 1000), ("output", 100))]
PLAIN = ["hardware=linear", "hardware.iteration_s=0.001", "hardware.prefill_token_s=0.0002", "cluster=pd_1p1d",
         "slo=single", "slo.tiers.all.ttft_s=4.0", "slo.tiers.all.tpot_s=0.05", "kv=none"]  # fmt: skip


def test_a_placement_has_as_many_instances_as_the_rate_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten prompts a second of .2 s each: an instance carries about half of that, and one is not enough."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["place", *TRACE, *PLAIN, "place.tp=1", "place.tolerance=0.1", "out_dir=mine"]) == 0
    found = json.loads((tmp_path / "mine" / "summary.json").read_text())
    assert 0.4 <= found["prefill_tp1_rate_scale"] < 0.6 and found["prefill"] in (2, 3)
    assert found["slo_attainment"] >= 0.85
    near = json.loads((tmp_path / "mine" / "placements.json").read_text())
    assert near[0]["gpus"] == found["gpus"] and len(near) > 3
    capsys.readouterr()
    refused(["place", *TRACE, *PLAIN, "place.target=2", "out_dir=other"], "place.target must be", tmp_path, capsys)
    refused(["place", *TRACE, *PLAIN, "place.size=2", "out_dir=other"], "no key 'place.size'", tmp_path, capsys)
    refused(["place", *TRACE, *PLAIN, "place.tp=0", "out_dir=other"], "place.tp must be", tmp_path, capsys)
    assert cli.main(["run", *TRACE, *PLAIN, "out_dir=one"]) == 0
    one = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert one["slo_attainment"] < 0.5
    capsys.readouterr()
    refused(["place", *TRACE, *PLAIN, "predictor=constant", "predictor.tokens=0"], "predictor.tokens", tmp_path, capsys)
    hopeless = [*TRACE, *PLAIN, "slo.tiers.all.ttft_s=0.001", "place.tp=1"]
    refused(["place", *hopeless, "out_dir=other"], "no prefill instance of place.tp=1", tmp_path, capsys)


def test_every_replay_of_a_search_has_the_predictions_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given: list[Any] = []
    plain = session.replay

    def noted(*arguments: Any, **options: Any) -> Any:
        given.append(options["predictions"])
        return plain(*arguments, **options)

    monkeypatch.setattr(session, "replay", noted)
    predicts = ["predictor=constant", "predictor.tokens=77", "policy/order=shortest_predicted"]
    assert cli.main(["place", *TRACE, *PLAIN, *predicts, "place.tp=1", "place.tolerance=0.5"]) == 0
    assert len(given) > 4 and all(set(predictions.tokens) == {77} for predictions in given)

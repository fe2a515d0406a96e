"""Stages beside the transformer, worked out by hand: times, gates, what binds, money; from configuration; refusals."""

from pathlib import Path
from typing import Any

import pytest

from replay.cluster import cluster
from replay.errors import ConfigError, TraceError
from replay.hardware.conf import load, names
from replay.laws import check_stages
from replay.pipeline import usd_per_hour
from replay.result import ORDER, Result
from replay.session import Session
from replay.stages import BEFORE, BESIDE, SEGMENT, Law
from replay.stages_config import OPTIONAL, RESERVED, build_stages
from tests.refusals import refused
from traces.schema import Trace, build

PREFILL_S, DECODE_S = 0.2, 0.1
ONE_S: dict[str, Any] = {"base_s": 1.0}


def trace(arrival_s: list[float], outputs: list[int], **columns: Any) -> Trace:
    """Make requests of 100 prompt tokens."""
    lengths = {"prompt_tokens": [100] * len(outputs), "output_tokens": outputs}
    return build("hand", {"arrival_s": arrival_s, **lengths, **columns})


def replayed(given: Trace, stages: dict[str, Any], slo: Any = "none", **more: Any) -> Result:
    """Replay on one instance: an iteration takes 0.1 s, and a prompt 0.1 s more."""
    where = cluster("mixed_1", {"base": "linear", "iteration_s": DECODE_S, "prefill_token_s": 1e-3,
                                "prefill_token_sq_s": 0.0, "decode_request_s": 0.0, "kv_token_s": 0.0},
                    prefix_cache=False, stages=stages)  # fmt: skip
    session = Session(given, where, slo=slo, **more)
    while not session.advance(1000):
        pass
    return session.result()


def column(result: Result, name: str) -> list[Any]:
    """Return a column, rounded to ns."""
    return [round(value, 9) if isinstance(value, float) else value for value in result.requests[name].to_list()]


def test_a_stage_before_delays_all_that_follows() -> None:
    found = replayed(trace([0.0, 0.0], [2, 2]), {"vision": {"place": "before", **ONE_S, "link_latency_s": 0.5}})
    assert column(found, "vision_queue_s") == [0.0, 1.0] and column(found, "vision_s") == [1.0, 1.0]
    assert column(found, "ttft_s") == pytest.approx([1.5 + PREFILL_S, 2.5 + PREFILL_S])
    assert column(found, "e2e_s") == pytest.approx([1.5 + PREFILL_S + DECODE_S, 2.5 + PREFILL_S + DECODE_S])
    assert column(found, "binds") == ["vision", "vision"]
    assert found.summary["stage.vision.binds_share"] == 1.0 and found.summary["stage.decoder.binds_share"] == 0.0
    assert found.summary["stage.vision.utilisation"] == pytest.approx(2.0 / 2.8)


def test_a_gate_holds_the_first_token_back() -> None:
    """Tokens that were decoded before it opens come with it; the gaps between the decoder's tokens stay."""
    stage = {"place": "beside", "base_s": 0.45, "gates": "first_token"}
    found = replayed(trace([0.0], [11]), {"check": stage})
    assert column(found, "ttft_s") == [0.45] and column(found, "e2e_s") == pytest.approx([PREFILL_S + 10 * DECODE_S])
    assert column(found, "tpot_s") == pytest.approx([(1.2 - 0.45) / 10]) and column(found, "max_itl_s") == [0.1]
    assert column(found, "binds") == ["decoder"] and column(found, "binds_first") == ["check"]
    late = replayed(trace([0.0], [2]), {"check": stage})
    assert column(late, "ttft_s") == column(late, "e2e_s") == [0.45] and column(late, "tpot_s") == [0.0]
    assert column(late, "binds") == ["check"] and column(late, "binds_first") == ["check"]


def test_a_request_ends_with_the_last_of_its_stages() -> None:
    """Beside the decoder only the longer counts; what comes after waits for both; SLO and turns are of the end."""
    stages = {"long": {"place": "beside", **ONE_S}, "last": {"place": "after", "base_s": 0.25}}
    given = trace([0.0, 0.0], [2, 1], parent=[-1, 0], think_s=[0.0, 0.5])
    slo = {"tiers": {"all": {"e2e_s": 1.2}}, "default": "all", "unlisted": "default"}
    found = replayed(given, stages, slo)
    assert column(found, "e2e_s") == [1.25, 1.25] and column(found, "arrival_s") == [0.0, 1.75]
    assert column(found, "ttft_s") == [PREFILL_S] * 2 and column(found, "binds") == ["long", "long"]
    assert column(found, "slo_met") == [False, False] and found.summary["slo_attainment"] == 0.0


def test_calls_of_segments_come_as_tokens_do() -> None:
    """7 tokens in segments of 3: calls at .4, .7 and .8 s; a server that takes .25 s a call ends at .65, .95, 1.2."""
    stage = {"place": "segment", "every_tokens": 3, "base_s": 0.25}
    found = replayed(trace([0.0], [7]), {"guard": stage})
    assert column(found, "e2e_s") == [1.2] and column(found, "guard_s") == [0.75]
    assert column(found, "guard_queue_s") == [0.15] and column(found, "tpot_s") == pytest.approx([DECODE_S])
    assert found.summary["stage.guard.calls"] == 3 and column(found, "binds") == ["decoder"]


def test_a_batch_waits_for_more_and_takes_the_urgent_first() -> None:
    stage = {"place": "before", "base_s": 0.1, "item_s": 0.1, "max_batch": 2, "wait_s": 0.3, "by_tier": True}
    slo = {"tiers": {"gold": {}, "bronze": {}}, "default": "bronze", "unlisted": "default"}
    given = trace([0.0, 0.1, 0.15, 0.2], [1] * 4, tier=["bronze", "bronze", "bronze", "gold"])
    found = replayed(given, {"vision": stage}, slo)
    # two start at .1 and take .3; then the last, urgent, goes first, beside the third; alone nobody would wait
    assert column(found, "vision_queue_s") == pytest.approx([0.1, 0.0, 0.25, 0.2])
    alone = replayed(trace([0.0], [1]), {"vision": stage})
    assert column(alone, "vision_queue_s") == pytest.approx([0.3])


def test_stages_form_a_graph() -> None:
    """Two at once behind one, one behind both; a stage that a request has not is no obstacle."""
    graph = {"d": {"place": "before", "after": ["b", "c"], "base_s": 0.4}, "b": {"place": "before", "after": ["a"],
             "base_s": 0.1}, "c": {"place": "before", "after": ["a"], "base_s": 0.3},
             "a": {"place": "before", "base_s": 0.2}}  # fmt: skip
    found = replayed(trace([0.0], [1]), graph)
    assert column(found, "ttft_s") == pytest.approx([0.9 + PREFILL_S]) and column(found, "binds") == ["d"]
    found = replayed(trace([0.0], [1]), {**graph, "c": {**graph["c"], "share": 0.0}})
    assert column(found, "ttft_s") == pytest.approx([0.7 + PREFILL_S]) and column(found, "c_s") == [None]


def test_images_of_the_trace_are_items() -> None:
    stage = {"place": "before", "items": "images", "item_s": 0.1, "item_bytes": 2e6, "link_bytes_per_s": 1e7}
    found = replayed(trace([0.0, 0.0, 5.0], [1, 1, 1], images=[2, 0, 1]), {"vision": stage})
    assert column(found, "vision_s") == [0.2, None, 0.1]
    assert column(found, "ttft_s") == pytest.approx([0.2 + 0.4 + PREFILL_S, PREFILL_S, 0.1 + 0.2 + PREFILL_S])
    with pytest.raises(TraceError, match="stages.vision.items is the column 'images', but hand has no such column"):
        replayed(trace([0.0], [1]), {"vision": stage})


def test_servers_share_the_images_of_a_request() -> None:
    """Three images on two servers: two at once, then the third; the time in the queue is summed over calls."""
    stage = {"place": "before", "items": "images", "split": True, "servers": 2, "item_s": 1.0}
    found = replayed(trace([0.0], [1], images=[3]), {"vision": stage})
    assert column(found, "ttft_s") == pytest.approx([2.0 + PREFILL_S]) and column(found, "vision_s") == [3.0]
    assert column(found, "vision_queue_s") == [1.0] and found.summary["stage.vision.calls"] == 3


def test_a_rejected_request_has_spent_the_stage_before() -> None:
    found = replayed(trace([0.0], [1]), {"vision": {"place": "before", **ONE_S}, "rank": {"place": "after"}}, {
        "tiers": {"all": {"ttft_s": 0.01}}, "default": "all", "unlisted": "default"},
        policies={"admit": "slo_feasible"})  # fmt: skip
    assert column(found, "status") == ["rejected"] and column(found, "vision_s") == [1.0]
    assert column(found, "rank_s") == [None] and column(found, "binds") == [None]


def test_servers_are_paid_for() -> None:
    stages = {"a": {"place": "before", "servers": 3, "price_per_server_hour": 2.0, "gpus": 2},
              "b": {"place": "after", "servers": 2, "cores": 10.0}}  # fmt: skip
    assert usd_per_hour(build_stages(stages), 0.05) == 3 * 2.0 + 2 * 10 * 0.05
    prices = {"cpu_usd_per_core_hour": 0.05}
    found, bare = replayed(trace([0.0], [1]), stages, prices=prices), replayed(trace([0.0], [1]), {}, prices=prices)
    assert found.summary["usd_per_hour_stages"] == 7.0 and "usd_per_hour_stages" not in bare.summary
    assert cluster("mixed_1", stages=stages).gpus - cluster("mixed_1").gpus == 6


def test_no_stage_changes_nothing() -> None:
    """Nor do stages that nobody has: the same digest, and the columns beside them."""
    given = trace([0.0, 0.1, 0.3], [5, 9, 1])
    bare = replayed(given, {})
    found = replayed(given, {"vision": {"place": "before", "share": 0.0}, "guard": {
        "place": "segment", "every_tokens": 4, "share": 0.0}})  # fmt: skip
    assert found.digest == bare.digest and "binds" not in bare.requests.columns
    assert {name.removesuffix("_s") for name in ORDER if name.endswith("_s")} <= RESERVED


def test_a_broken_law_is_found() -> None:
    where = cluster("mixed_1", stages={"vision": {"place": "before", **ONE_S}})
    session = Session(trace([0.0], [1]), where, slo="none")
    while not session.advance(1000):
        pass
    check_stages(session.state)
    for name in ("calls", "waiting_area"):
        kept = session.state.pipeline.stations[name].copy()
        session.state.pipeline.stations[name] += 1
        with pytest.raises(Exception, match="must be"):
            check_stages(session.state)
        session.state.pipeline.stations[name] = kept


def test_files_have_known_keys_and_say_where_they_stand() -> None:
    assert names("stages") == ["chain", "none", "vision_encoder", "vision_encoder_cpu", "white_box_cpu",
                               "white_box_gpu"]  # fmt: skip
    text = (Path(__file__).parents[1] / "conf" / "stages" / "none.yaml").read_text(encoding="utf-8")
    assert all(f"#   {key}: " in text for key in OPTIONAL) and build_stages(load("stages", "none")) == ()
    chain = {stage.name: stage for stage in build_stages(load("stages", "chain"))}
    assert chain["vision"].items == Law("geometric", 2.0, 1.0) and chain["guard"].every_tokens == 64
    assert chain["vision"].needs == (list(chain).index("moderate"),) and chain["retrieve"].place == BESIDE
    assert {chain["moderate"].place, chain["guard"].place} == {BEFORE, SEGMENT}


PLAIN = {"place": "before"}
WRONG = {
    "must be a configuration node, but is 3": 3,
    "stages.a must be a node": {"a": 1},
    "a name of its own": {"Big": PLAIN},
    "one is called 'decoder'": {"decoder": PLAIN},
    "stages.a needs place": {"a": {}},
    "stages.a.servrs is not a known key. Did you mean stages.a.servers": {"a": {**PLAIN, "servrs": 2}},
    "stages.a.place must be one of before, beside, segment, after": {"a": {"place": "behind"}},
    "is a circle": {"a": {**PLAIN, "after": ["b"]}, "b": {**PLAIN, "after": ["a"]}},
    "names 'c'": {"a": {**PLAIN, "after": ["c"]}},
    "names 'b'": {"a": {**PLAIN, "after": ["b"]}, "b": {"place": "after"}},
    "must be a list of stages": {"a": {**PLAIN, "after": "b"}, "b": PLAIN},
    "gates is for stages beside": {"a": {**PLAIN, "gates": "finish"}},
    "every_tokens must be set for stages of place segment": {"a": {"place": "segment"}},
    "and for no other": {"a": {**PLAIN, "every_tokens": 4}},
    "a segment is a call already": {"a": {"place": "segment", "every_tokens": 4, "split": True}},
    "go over a link": {"a": {**PLAIN, "item_bytes": 5.0}},
    "cannot be output_tokens before": {"a": {**PLAIN, "items": "output_tokens"}},
    "items must be one of images": {"a": {**PLAIN, "items": "pictures"}},
    "items must be a whole number": {"a": {**PLAIN, "items": 0}},
    "law must be one of constant": {"a": {**PLAIN, "item_s": {"law": "gauss", "mean": 1.0}}},
    "geometric law must be at least 1": {"a": {**PLAIN, "items": {"law": "geometric", "mean": 0.5}}},
    "share must be finite, at least 0 and at most 1": {"a": {**PLAIN, "share": 1.5}},
    "at most 32 stages": {f"s{k}": PLAIN for k in range(33)},
}


@pytest.mark.parametrize("words", WRONG)
def test_what_cannot_be_meant_is_refused(words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_stages(WRONG[words])
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["stages=vision"], "there is no stages called 'vision'"),
        (["stages=vision_encoder", "stages.vision.servrs=3"], "stages.vision.servrs"),
        (["stages=vision_encoder", "stages.vision.servers=0"], "stages.vision.servers must be a whole number"),
        (["stages=vision_encoder", "trace=poisson"], "is the column 'images'"),
        (["+stages.tree={place: segment}"], "stages.tree.every_tokens must be set"),
        (["stages=null"], "stages must be the name of a configuration"),
    ],
)
def test_the_command_refuses_in_one_sentence(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(["run", "trace.requests=20", *arguments], words, tmp_path, capsys)

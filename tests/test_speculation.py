"""Speculative decoding worked out by hand: tokens, times, blocks, counts; beside failures; configuration, refusals."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay.cluster import Cluster, cluster
from replay.errors import ConfigError
from replay.hardware.conf import load, names
from replay.result import Result
from replay.session import Session
from replay.speculation import KEYS, Speculation, build_speculation
from replay.table import speculation as said
from tests.refusals import refused
from tests.small import small_cluster, small_instance, small_policies, small_profile, small_trace

STEP_PS = 100
PS = 1e-12
NODE = load("speculation", "none")


def drafts(*acceptance: float, **costs: int) -> Speculation:
    """Return what proposes a token for each probability."""
    return Speculation(np.array(acceptance), **costs)


def on(speculation: Speculation | None, profile: Any = None, **limits: int) -> Cluster:
    """Build one instance whose iterations take STEP_PS."""
    instance = small_instance("mixed", profile or small_profile(iteration_ps=STEP_PS), **limits)
    return replace(small_cluster([instance]), speculation=speculation)


def finished(rows: list[tuple[int, int, int]], where: Cluster, slice_events: int = 10_000, **options: Any) -> Session:
    """Replay requests of (arrival [ps], prompt tokens, output tokens)."""
    session = Session(small_trace(rows), where, options.pop("policies", small_policies()), slo="none", **options)
    while not session.advance(slice_events):
        pass
    return session


FIRST = (0, 1, 1)  # keeps the instance busy until those that come at 1 ps can begin together


def spans_ps(session: Session) -> list[int]:
    """Return the time from the first to the last token of each request."""
    return (session.state.jobs["finish_ps"] - session.state.jobs["first_token_ps"]).tolist()


def test_accepted_tokens_come_with_their_iterations() -> None:
    """9 tokens: one by the prefill, then 4 an iteration; TPOT is time over tokens, three gaps of four are none."""
    session = finished([(0, 4, 9)], on(drafts(1.0, 1.0, 1.0)), gaps=True)
    found = Result.from_session(session)
    assert spans_ps(session) == [2 * STEP_PS] and session.state.gaps.tolist() == [STEP_PS, 0, 0, 0, STEP_PS, 0, 0, 0]
    row = found.requests.row(0, named=True)
    assert row["tpot_s"] == pytest.approx(2 * STEP_PS * PS / 8) and row["max_itl_ps"] == STEP_PS
    assert (row["draft_iterations"], row["accepted_tokens"], row["generated_tokens"]) == (2, 6, 9)
    assert found.summary["itl_s_mean"] == pytest.approx(25 * PS) and found.summary["itl_s_p50"] == 0.0
    names_of = ("tokens_per_iteration", "accepted_per_iteration", "acceptance_rate", "draft_tokens")
    assert [found.summary[name] for name in (*names_of, "wasted_draft_tokens")] == [4.0, 3.0, 1.0, 6, 0]
    told = "4.000 tokens a request and iteration: of 6 drafted tokens 100 % accepted, 0 wasted"
    assert said(found.summary) == ["", told]
    assert said(finished([(0, 4, 1)], on(drafts(1.0))).result().summary) == said({}) == []


def test_no_more_than_the_output_is_kept() -> None:
    """7 tokens: one, four, then two of four: a token and one of three drafts, two wasted."""
    session = finished([(0, 4, 7)], on(drafts(1.0, 1.0, 1.0)))
    numbers = Result.from_session(session).summary
    assert spans_ps(session) == [2 * STEP_PS] and int(session.state.requests["generated_tokens"][0]) == 7
    assert (numbers["draft_tokens"], numbers["wasted_draft_tokens"]) == (6, 2)


def test_what_is_always_refused_changes_no_time() -> None:
    """With a free draft; the digest is that of one token an iteration, where memory is ample."""
    rows = [(row * 130, 5, 11) for row in range(9)]
    bare, found = finished(rows, on(None)), finished(rows, on(drafts(0.0, 1.0)))
    assert found.result().digest == bare.result().digest
    assert found.result().summary["acceptance_rate"] == 0.0 and "acceptance_rate" not in bare.result().summary
    assert "draft_iterations" not in bare.result().requests.columns


def test_verified_tokens_fill_captured_graphs() -> None:
    """Graphs of 4 and 8 tokens: two requests that draft one each take the first, three the second."""
    profile = small_profile(iteration_ps=STEP_PS, decode_segments=[(0, 100, 0), (5, 250, 0)])
    for count, step_ps in ((2, 100), (3, 250)):
        session = finished([FIRST, *[(1, 1, 3)] * count], on(drafts(1.0), profile))
        assert spans_ps(session) == [0, *[step_ps] * count]


def test_drafts_cost_of_their_own_and_a_share() -> None:
    """Two requests, two drafts: tokens 100 + 6 x 10 instead of 2 x 10, each draft 7 + 2 x 3 and half a plain 148."""
    profile = small_profile(token_segments=[(0, 100, 10)], decode_request_ps=5, kv_token_ps=1)
    where = on(drafts(1.0, 1.0, draft_ps=7, draft_request_ps=3, share_ppm=500_000), profile)
    plain_ps = 100 + 2 * 10 + 2 * 5 + 2 * 9
    verified_ps = 100 + 6 * 10 + 2 * 5 + 2 * 9
    assert spans_ps(finished([FIRST, *[(1, 8, 4)] * 2], where)) == [0, *[verified_ps + 2 * (13 + plain_ps // 2)] * 2]
    beside = small_profile(iteration_ps=100, prefill_token_ps=10)  # what one more token costs there
    assert spans_ps(finished([(0, 8, 4)], on(drafts(1.0, 1.0), beside))) == [100 + 2 * 10]


def test_proposed_tokens_have_their_blocks() -> None:
    """Blocks of 4: a prompt of 8 and 5 tokens need 3 blocks at most, 3 drafted tokens beside them one more."""
    for speculation, blocks, status in ((None, 3, "finished"), (drafts(0.0, 0.0, 0.0), 3, "failed"),
                                        (drafts(0.0, 0.0, 0.0), 4, "finished")):  # fmt: skip
        found = finished([(0, 8, 5)], on(speculation, kv_blocks=blocks)).result()
        assert found.requests["status"].to_list() == [status]


def test_blocks_ahead_preempt() -> None:
    """Two requests of 8 + 9 tokens in 8 blocks: alone they fit; with seven drafts each the second has to go."""
    rows = [(0, 8, 9)] * 2
    assert finished(rows, on(None, kv_blocks=8)).state.jobs["preemptions"].tolist() == [0, 0]
    found = finished(rows, on(drafts(*[0.0] * 7), kv_blocks=8))
    assert found.state.jobs["preemptions"][0] == 0 < found.state.jobs["preemptions"][1]


def test_draws_are_a_requests_own() -> None:
    """What is accepted of a request depends on seed and row only: not on batches, pauses or who else is there."""
    rows = [(row * 70, 5, 60) for row in range(12)]
    half, roomy = drafts(0.5, 0.5, 0.5), {"kv_blocks": 1000}

    def drawn(where: Cluster, seed: int = 0, **named: Any) -> list[Any]:
        drafted = finished(rows, where, seed=seed, policies=small_policies(**named)).state.speculation.drafts
        return list(zip(drafted["iterations"].tolist(), drafted["accepted_tokens"].tolist(), strict=True))

    found = drawn(on(half, **roomy))
    paused = drawn(on(half, **roomy), batch="prefill_first", order="shortest_prompt")
    assert found == paused == drawn(on(half, **roomy, max_batch=2))
    assert found != drawn(on(half, **roomy), seed=1) and len(set(found)) > 3


def test_tenants_are_charged_every_token() -> None:
    """Those of one iteration too, on the instance and in the cluster."""
    trace = small_trace([(row * 70, 5, 10 + row) for row in range(8)], tenant=["a", "b"] * 4)
    session = Session(trace, on(drafts(0.9, 0.9)), small_policies(order="vtc"), slo="none")
    while not session.advance(1000):
        pass
    charged = session.state.asking.accounts["output_tokens"].tolist()
    assert charged == [[0, sum(range(10, 18, 2)), sum(range(11, 18, 2))]] * 2


def test_failures_and_slices_change_no_law() -> None:
    """Instances that fail in the middle of an iteration give back the blocks ahead too."""
    plan = [{"at_s": at_s, "kind": "instance", "what": k % 2, "for_s": 0.3} for k, at_s in enumerate((0.5, 1.1, 1.9))]
    where = cluster("mixed_1", "linear", mixed=2, kv_blocks=60, speculation="eagle", failures={
        "base": "fleet", "plan": plan, "mtbf_s": {}, "detect_s": 0.05})  # fmt: skip
    rows = [(round(row * 0.05e12), 100, 150) for row in range(40)]
    whole = finished(rows, where)
    numbers = whole.result().summary
    assert numbers["lost_requests"] > 0 and numbers["finished"] == 40 and numbers["preemptions"] > 0
    assert finished(rows, where, 1).result().digest == whole.result().digest


def test_files_say_where_they_stand() -> None:
    assert names("speculation") == ["eagle", "mtp", "ngram", "none"] and build_speculation(NODE) is None
    text = (Path(__file__).parents[1] / "conf" / "speculation" / "none.yaml").read_text(encoding="utf-8")
    assert all(f"\n{key}: " in text for key in KEYS)
    built = {name: build_speculation(load("speculation", name)) for name in ("eagle", "mtp", "ngram")}
    means = {name: round(one.tokens_per_iteration, 3) for name, one in built.items() if one is not None}
    assert means == {"eagle": 2.604, "mtp": 1.85, "ngram": 1.624}


WRONG = {
    "must be a configuration node, but is 3": 3,
    "speculation.acceptence is not a known key. Did you mean speculation.acceptance": {**NODE, "acceptence": 1},
    "draft_tokens must be a whole number from 0 to 64": {**NODE, "draft_tokens": 65},
    "they are None and None": {**NODE, "draft_tokens": 1},
    "they are 0.5 and [0.5]": {**NODE, "draft_tokens": 1, "acceptance": 0.5, "acceptance_by_position": [0.5]},
    "speculation.acceptance must be finite, at least 0 and at most 1": {**NODE, "draft_tokens": 1, "acceptance": 1.5},
    "for each of the 2 drafted tokens": {**NODE, "draft_tokens": 2, "acceptance_by_position": [0.5]},
    "acceptance_by_position[1] must be": {**NODE, "draft_tokens": 2, "acceptance_by_position": [0.5, -0.1]},
    "draft_s must be finite": {**NODE, "draft_tokens": 1, "acceptance": 0.5, "draft_s": -1.0},
    "draft_share must be finite": {**NODE, "draft_tokens": 1, "acceptance": 0.5, "draft_share": 11.0},
}


@pytest.mark.parametrize("words", WRONG)
def test_what_cannot_be_meant_is_refused(words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_speculation(WRONG[words])
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_iterations_stay_in_range() -> None:
    with pytest.raises(ConfigError, match="drafting and verifying must stay below"):
        finished([(0, 4, 4)], on(drafts(0.5, draft_ps=1 << 62)))
    with pytest.raises(ConfigError, match="drafting and verifying must stay below"):
        finished([(0, 4, 4)], on(drafts(0.5, share_ppm=10**6), small_profile(iteration_ps=1 << 50)))


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["speculation=medusa"], "there is no speculation called 'medusa'"),
        (["speculation=eagle", "speculation.draft_token=2"], "speculation.draft_token"),
        (["speculation.draft_tokens=2"], "one must be null, but they are None and None"),
    ],
)
def test_the_command_refuses_in_one_sentence(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(["run", "trace.requests=20", *arguments], words, tmp_path, capsys)

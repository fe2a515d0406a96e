"""Failures worked out by hand: what is lost and what is not, when it goes on, and how long that takes, in picoseconds.

One prefill and two decode instances; an iteration takes 100 ps. A request of 8 tokens comes at 10 ps and has its first
token at 110 ps; its card takes 10 ps a token and 50 ps of latency: sent at 190 ps, on a decode instance at 240 ps.
"""

from dataclasses import replace
from typing import Any

import pytest

from replay.engine.life_rows import plan_of
from replay.errors import ConfigError
from replay.life import Failures, Life, Pool
from replay.session import Session
from tests.small import PS, small_cluster, small_instance, small_policies, small_profile, small_trace

LONG_PS = 100_000
DETECT_PS = 30


def plan(*rows: tuple[Any, ...]) -> Failures:
    """Return failures of (kind, what, at [ps], for [ps]), and a speed if that is not 0."""
    names = ("kind", "what", "at_s", "for_s", "speed")
    named = [dict(zip(names, (*row, 0.0), strict=False)) for row in rows]
    return Failures(tuple(row | {"at_s": row["at_s"] * PS, "for_s": row["for_s"] * PS} for row in named),
                    {}, {}, None, 0.0)  # fmt: skip


def replayed(failures: Failures, outputs: int, recover: str = "resume", detect_ps: int = DETECT_PS) -> dict[str, Any]:
    """Replay the request; returns its row and the summary."""
    pools = (Pool("prefill", 1, 1, 1), Pool("decode", 1, 2, 2))
    instances = [small_instance(role, small_profile(iteration_ps=100), token_fs=10_000, latency_ps=50)
                 for role in ("prefill", "decode", "decode")]  # fmt: skip
    where = replace(small_cluster(instances), life=Life(pools, 0, 0, 0, failures, detect_ps, 4, 1))
    session = Session(small_trace([(10, 8, outputs)]), where, small_policies(recover=recover))
    assert session.advance(10_000)
    result = session.result()
    return result.summary | result.requests.row(0, named=True)


@pytest.mark.parametrize(
    ("failures", "finish_ps"),
    [
        # nothing fails, or only once all was sent: it arrives at 240 ps and has three more tokens
        ([], 540),
        ([("instance", 0, 200, LONG_PS)], 540),
        # its decode instance fails at 150 ps, known at 180 ps; the card is busy until 190 ps, then sends to the other
        ([("instance", 1, 150, LONG_PS)], 190 + 80 + 50 + 300),
        # the card stops from 150 to 250 ps, or in two overlapping stops to 300 ps
        ([("link", 0, 150, 100)], 640),
        ([("link", 0, 150, 100), ("link", 0, 200, 100)], 690),
        ([("link", 0, 150, 150), ("link", 0, 200, 20)], 690),
        # at half and at a fifth of its speed: the slowest counts as it begins to send
        ([("link", 0, 100, 500, 0.5)], 540 + 80),
        ([("link", 0, 100, 500, 0.5), ("link", 0, 101, 5, 0.2)], 540 + 80),
        ([("link", 0, 100, 500, 0.5), ("link", 0, 101, 50, 0.2)], 540 + 320),
        # no decode instance is trusted, or the control plane is away, from before the prefill ends to 400 ps
        ([("suspect", 1, 50, 350), ("suspect", 2, 50, 350)], 400 + 80 + 50 + 300),
        ([("control", 0, 50, 350)], 400 + 80 + 50 + 300),
        # the control plane is away as it comes
        ([("control", 0, 5, 395)], 400 + 100 + 80 + 50 + 300),
        # the same until what would have been lost is noticed: its decode instance is down, chosen and sent to in vain
        ([("instance", 1, 105, LONG_PS)], 240 + 80 + 50 + 300),
    ],
)
def test_what_is_not_lost(failures: list[tuple[Any, ...]], finish_ps: int) -> None:
    found = replayed(plan(*failures), 4, detect_ps=30 if ("instance", 1, 105, LONG_PS) not in failures else 100)
    assert (found["finish_ps"], found["losses"], found["lost_requests"]) == (finish_ps, 0, 0)
    assert found["served_share"] == found[f"{found['tier']}.served_share"] == 1.0


def test_a_handoff_not_sent_is_lost_with_its_instance() -> None:
    """Lost at 150 ps with 8 tokens of KV, known at 180; prefilled anew from 1,150 to 1,250 ps, sent by 1,340."""
    found = replayed(plan(("instance", 0, 150, 1000)), 4)
    assert (found["finish_ps"], found["first_token_ps"], found["max_itl_ps"]) == (1340 + 50 + 200, 110, 1250 - 110)
    assert (found["losses"], found["recomputed_tokens"], found["restored_tokens"]) == (1, 8, 0)
    assert found["away_s"] == pytest.approx(30 * PS) and found["losses_of_a_failure_max"] == 1


@pytest.mark.parametrize(
    ("recover", "finish_ps", "first_token_ps", "recomputed", "restored", "again"),
    [
        # it has three tokens at 440 ps; its decode instance fails at 450 ps, known at 480 ps, and the other takes over
        ("restart", 580 + 80 + 50 + 500, 580, 8, 0, 3),
        ("resume", 580 + 110 + 50 + 200, 110, 10, 0, 0),
        # 8 tokens come from the replica by 480 + 80 + 50 ps
        ("restore", 610 + 100 + 110 + 50 + 200, 110, 2, 8, 0),
        ("give_up", None, 110, 0, 0, 0),
    ],
)
def test_recovery(recover: str, finish_ps: int | None, first_token_ps: int, recomputed: int, restored: int,
                  again: int) -> None:  # fmt: skip
    found = replayed(plan(("instance", 1, 450, LONG_PS)), 6, recover)
    assert (found["finish_ps"], found["first_token_ps"]) == (finish_ps, first_token_ps)
    assert (found["recomputed_tokens"], found["restored_tokens"]) == (recomputed, restored)
    assert (found["regenerated_tokens"], found["served_share"]) == (again, float(recover != "give_up"))


@pytest.mark.parametrize(
    ("failure", "changes"),
    [
        # asked at 1,000 ps, both are wanted; a start takes 1,500 ps, and longer only if the failure does
        (("instance", 1, 1200, 100), [(1000, "starting"), (1200, "down"), (2500, "up")]),
        (("instance", 1, 1200, 2000), [(1000, "starting"), (1200, "down"), (3200, "up")]),
        # what is off does not fail; on a lost node it cannot start before that is back, and is asked about again then
        (("instance", 1, 900, 600), [(1000, "starting"), (2500, "up")]),
        (("node", 0, 900, 600), [(2000, "starting"), (3500, "up")]),
    ],
)
def test_starts_that_fail(failure: tuple[Any, ...], changes: list[tuple[int, str]]) -> None:
    life = Life((Pool("mixed", 1, 2, 1),), 1000, 1500, 0, plan(failure), 0, 0, 2)
    where = replace(small_cluster([small_instance("mixed", small_profile(iteration_ps=100))] * 2), life=life)
    both = small_policies(scale=("schedule", {"night": 1.0}))
    session = Session(small_trace([(10, 4, 40), (3900, 4, 2)]), where, both)
    assert session.advance(10_000)
    rows = session.result().tables["life_changes"].iter_rows()
    assert [(round(time_s / PS), state) for time_s, instance, state in rows if instance == 1] == changes


def test_failures_by_chance_are_exponential_and_of_what_is_there() -> None:
    """Drawn by the seed, one after another for each thing, up to the last arrival; a plan names what is there."""
    trace = small_trace([(0, 4, 1), (10**17, 4, 1)])
    where = small_cluster([small_instance("mixed", small_profile(iteration_ps=100))] * 3)
    chance = Failures((), {"instance": 9.0, "node": 99.0}, {"instance": 1.0, "node": 1.0}, None, 0.0)
    life = Life((Pool("mixed", 1, 3, 3),), 0, 0, 0, chance, 0, 0, 2)
    rows = plan_of(life, where, trace, 1)[:-1]
    own = rows[(rows["kind"] == 0) & (rows["what"] == 2)]
    assert 10_000 * 0.9 < len(own) < 10_000 * 1.1 and set(rows["what"][rows["kind"] == 1]) == {0, 1}
    assert (own["at_ps"][1:] > own["at_ps"][:-1] + own["for_ps"][:-1]).all() and (rows["at_ps"] < 10**17).all()
    assert own["for_ps"].mean() * PS == pytest.approx(1.0, rel=0.05)
    assert (plan_of(life, where, trace, 2)[:99]["at_ps"] != rows[:99]["at_ps"]).any()
    with pytest.raises(ConfigError, match="one of the cluster's 3 of kind instance, but that at 1e-12 s is of 3"):
        plan_of(replace(life, failures=plan(("instance", 3, 1, 1))), where, trace, 1)
    with pytest.raises(ConfigError, match="at most 1,000,000 failures"):
        plan_of(replace(life, failures=replace(chance, mtbf_s={"instance": 1e-3}, mttr_s={"instance": 1e-3})),
                where, trace, 1)  # fmt: skip

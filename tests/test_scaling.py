"""Instances that come and go with the load: counts and times worked out by hand, and laws of what is paid and kept."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from replay.life import Failures, Life, Pool, settled
from replay.policy import DECODE, Span, describe, registry
from replay.result import Result
from replay.session import Session
from tests.small import small_cluster, small_instance, small_policies, small_profile, small_trace

NONE = Failures((), {}, {}, None, 0.0)
PS = 1e-12
COUNT = Span(0, 99)


def life(*pools: Pool, interval_ps: int = 1000, start_ps: int = 1500, budget: int = 0) -> Life:
    """Return a life in which nothing fails."""
    return Life(pools, interval_ps, start_ps, budget, NONE, 0, 0, 1)


def replayed(roles: str, rows: list[tuple[int, int, int]], how: Life, most: int = 10_000,
             chains: list[list[int]] | None = None, **named: Any) -> Session:  # fmt: skip
    """Replay requests on instances (p, m, d) with iterations of 100 ps, in slices of so many events."""
    names = {"p": "prefill", "m": "mixed", "d": "decode"}
    profile = replace(small_profile(iteration_ps=100), price_per_hour=3.6e15)  # a USD a picosecond
    instances = [small_instance(names[role], profile, token_fs=1) for role in roles]
    session = Session(small_trace(rows, chains), replace(small_cluster(instances), life=how), small_policies(**named))
    while not session.advance(most):
        pass
    return session


def changes(session: Session) -> list[tuple[int, int, str]]:
    """Return the changes of instances as (time [ps], instance, state)."""
    rows = Result.from_session(session).tables["life_changes"].iter_rows()
    return [(round(time_s / PS), instance, state) for time_s, instance, state in rows]


def told(pool: Any, pools: Any, now_ps: Any, first: COUNT = 1, second: COUNT = 1, third: COUNT = 1,
         fourth: COUNT = 1, decode: COUNT = 1) -> Any:  # fmt: skip
    """Give four answers at 1,000 to 4,000 ps, the last one for ever; a decode pool has one.

    source : of these tests
    """
    if pool.role == DECODE:
        return decode
    if pool.since_s < 2.5e-9:
        return first if pool.since_s < 1.5e-9 else second
    return third if pool.since_s < 3.5e-9 else fourth


def asked(roles: str, rows: list[tuple[int, int, int]], how: Life, *answers: int, decode: int = 1) -> Session:
    """Replay under a scale policy that gives these four answers, the last one again where there are fewer."""
    policy = describe("scale", told)
    registry()["scale"]["told"] = policy
    try:
        four = (*answers, *[answers[-1]] * 4)[:4]
        values = dict(zip(policy.tunables, (*four, decode), strict=True))
        return replayed(roles, rows, how, scale=("told", values))
    finally:
        registry()["scale"].pop("told")


TRACKING = ("target_tracking", {"target": 2.0, "window_s": 0.0})
# five requests at once, one at 6,950 ps, one at 9,950 ps that keeps the replay going
CROWD = [(10, 4, 50)] * 5 + [(6950, 4, 10), (9950, 4, 10)]


@pytest.mark.parametrize("most", [1, 7, 10_000])
def test_a_reactive_scaler_equals_its_trace_by_hand(most: int) -> None:
    """Five in flight at 1,000 ps, target 2: ceil(5 / 2) = 3, so two start, and serve at 2,500 ps.

    At 2,000 ps one of three is up: 5 / (3 * 2) is below 1, which would reverse the scale-up, so nothing changes. From
    3,000 to 5,000 ps 5 / 6 is more than a tenth below 1, but ceil(5 / 2) is 3 again. At 6,000 ps, the last ended at
    5,810 ps, nothing is in flight: down to `least`, the highest of the idle first, off at once. At 7,000 and 10,000 ps
    1 / 2 asks for one, which is there. So 11,000 + 5,000 + 5,000 ps are paid, at a USD each.
    """
    session = replayed("mmm", CROWD, life(Pool("mixed", 1, 3, 1)), most, scale=TRACKING)
    assert changes(session) == [
        (1000, 1, "starting"), (1000, 2, "starting"), (2500, 1, "up"), (2500, 2, "up"),
        (6000, 2, "draining"), (6000, 2, "off"), (6000, 1, "draining"), (6000, 1, "off"),
    ]  # fmt: skip
    result = Result.from_session(session)
    assert settled(session)["paid_ps"].tolist() == [11_000, 5000, 5000]
    assert result.summary["cost_usd"] == pytest.approx(21_000)
    assert result.summary["gpu_hours"] == pytest.approx(21_000 * PS / 3600)
    assert result.summary["gpu_hours_all_on"] == pytest.approx(33_000 * PS / 3600)
    assert result.summary["instances_started"] == 2 and result.summary["finished"] == 7


def test_misses_while_starting_by_hand() -> None:
    """No first token comes within 1 ps: of seven that miss, the five of the crowd decoded from 1,000 to 2,500 ps."""
    never = {"all": {"ttft_s": 1e-12}}
    where = replace(small_cluster([small_instance("mixed", small_profile(iteration_ps=100))] * 3),
                    life=life(Pool("mixed", 1, 3, 1)))  # fmt: skip
    slo = {"tiers": never, "default": "all", "unlisted": "default"}
    session = Session(small_trace(CROWD), where, small_policies(scale=TRACKING), slo=slo)
    session.advance(10_000)
    assert session.done
    found = session.result().summary
    assert (found["slo_attainment"], found["misses_while_starting"]) == (0.0, 5)


def test_a_start_waits_for_the_budget_and_no_longer() -> None:
    """At 1,000 ps decode goes from two to one and prefill from one to two; the leaver has a request until 6,200 ps.

    Two requests of 60 tokens: prefill ends at 110, one goes to each decode instance; these end at 110 + 59 * 100 ps and
    what their handoff took. The second prefill instance starts in the instant in which that one is off.
    """
    how = life(Pool("prefill", 1, 2, 1), Pool("decode", 1, 2, 2), budget=3)
    session = asked("ppdd", [(10, 4, 60)] * 2 + [(20_000, 4, 2)], how, 2)
    ends = session.result().requests["finish_ps"].to_list()
    leaver = int(session.state.jobs["decode_instance"][:2].max())
    assert leaver == 3
    gone = ends[int(session.state.jobs["decode_instance"][1] == 3)]
    assert gone % 1000 and changes(session) == [
        (1000, 3, "draining"), (gone, 3, "off"), (gone, 1, "starting"), (gone + 1500, 1, "up")]  # fmt: skip
    assert session.result().summary["finished"] == 3


def test_what_drains_comes_back_at_once_and_what_starts_is_called_off() -> None:
    """Asked for 1, 2, 3 and 2 of three, two up at first, both with a request: undrained, then started and cancelled."""
    how = life(Pool("mixed", 1, 3, 2))
    session = asked("mmm", [(10, 4, 60)] * 4, how, 1, 2, 3, 2)
    assert changes(session) == [(1000, 1, "draining"), (2000, 1, "up"), (3000, 2, "starting"), (4000, 2, "off")]
    assert int(session.state.lives.setting["timers"][0]) <= 1 and session.result().summary["finished"] == 4


def test_least_and_most_bound_what_is_asked_for() -> None:
    rows = [(10, 4, 60)] * 3 + [(9000, 4, 2)]
    assert changes(asked("mmm", rows, life(Pool("mixed", 2, 3, 2)), 0)) == []
    grown = changes(asked("mmm", rows, life(Pool("mixed", 1, 3, 2)), 99))
    assert grown == [(1000, 2, "starting"), (2500, 2, "up")]


SCALERS = [TRACKING, ("predictive", {"season_s": 60.0, "smooth_s": 0.0}), ("sla_planner", {"forecast": 2}),
           ("schedule", {"day": 0.5}), ("role_switch", {"patience": 1, "margin": 0.5, "smooth_s": 0.0}),
           "fixed"]  # fmt: skip


@pytest.mark.parametrize("scale", SCALERS, ids=str)
@pytest.mark.parametrize("roles", ["mmm", "ppdd"])
def test_draining_loses_nothing_and_paid_time_is_conserved(scale: Any, roles: str) -> None:
    """Every request finishes; paid, and charged, is what lies between switching on and off; a budget holds."""
    random = np.random.default_rng(5)
    rows = sorted((int(at), int(random.integers(1, 40)), int(random.integers(1, 40)))
                  for at in random.integers(0, 60_000, 80))  # fmt: skip
    pools = [Pool(name, 1, roles.count(name[0]), 1) for name in ("prefill", "mixed", "decode") if name[0] in roles]
    for budget in (0, 3):
        session = replayed(roles, rows, life(*pools, interval_ps=700, budget=budget), scale=scale)
        result = session.result()
        assert result.summary["finished"] == 80 and not result.summary["lost_requests"]
        now_ps = int(session.state.cluster["now_ps"][0])
        paid, on = [0] * len(roles), {i: 0 for i, row in enumerate(initial(roles, pools)) if row}
        for at, i, state in changes(session):
            if state == "off":
                paid[i] += at - on.pop(i)
            elif state == "starting":
                assert i not in on
                on[i] = at
            assert not budget or len(on) <= budget
        for i, since in on.items():
            paid[i] += now_ps - since
        assert settled(session)["paid_ps"].tolist() == paid
        assert result.summary["cost_usd"] == pytest.approx(sum(paid))


def initial(roles: str, pools: list[Pool]) -> list[bool]:
    """Return which instances are on at first: so many of each pool, the lowest ones."""
    firsts = {pool.role[0]: pool.initial for pool in pools}
    return [roles[:i].count(role) < firsts[role] for i, role in enumerate(roles)]


def test_hours_of_many_instances_do_not_overflow() -> None:
    """Sixty instances for 250,000 s, when the last question comes: 1.5e19 ps in all, more than 64 bits hold."""
    rows = [(10, 4, 2), (2 * 10**17, 4, 2)]
    session = replayed("m" * 60, rows, life(Pool("mixed", 1, 60, 60), interval_ps=25 * 10**16))
    found = session.result().summary
    assert session.now_s == pytest.approx(250_000) and found["availability"] == 1.0
    assert found["gpu_hours"] == found["gpu_hours_all_on"] == pytest.approx(60 * 250_000 / 3600)


def test_shrinking_loses_a_cache_and_says_so() -> None:
    """Prompts of two blocks of 4 tokens, one on each instance; at 1,000 ps half of the two go, and 8 tokens with it."""
    rows = [(10, 8, 4), (20, 8, 4), (5000, 8, 2)]
    half = ("schedule", {"day": 0.5, "night": 0.5})
    session = replayed("mm", rows, life(Pool("mixed", 1, 2, 2)), chains=[[1, 2], [3, 4], [3, 4]], scale=half)
    found = session.result()
    assert changes(session) == [(1000, 1, "draining"), (1000, 1, "off")]
    assert (found.summary["cached_tokens_lost"], found.summary["cached_tokens_shrunk"]) == (8, 8)
    assert found.requests["hit_tokens"].to_list() == [0, 0, 0]

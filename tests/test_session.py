"""Sessions: slices, forks, partial results, limits, and what a policy may know."""

from concurrent.futures import ThreadPoolExecutor
from random import Random
from time import sleep

import numpy as np
import pytest

from replay.engine import schema
from replay.engine.compile import once
from replay.engine.request_schema import REQUEST
from replay.errors import ConfigError
from replay.session import Session, replay
from tests.odd_policies import registered
from tests.scenarios import Scenario, scenario
from tests.sessions import engine_run, finished, session_of, twin_run
from tests.small import small_cluster, small_instance, small_profile, small_trace


def many_requests(count: int = 400) -> list[tuple[int, int, int]]:
    return [(k * 900, 1 + k * 7 % 40, 1 + k * 13 % 60) for k in range(count)]


def engine_digest(case: Scenario) -> str:
    return engine_run(case).digest


def mixed_session(**options: object) -> Session:
    profile = small_profile(iteration_ps=400, prefill_token_ps=20, decode_request_ps=10)
    cluster = small_cluster([small_instance("mixed", profile, kv_blocks=200) for _ in range(4)])
    return Session(small_trace(many_requests()), cluster, **options)


@pytest.mark.parametrize("seed", range(12))
def test_a_fork_under_the_same_policies_ends_the_same(seed: int) -> None:
    with registered():
        case = scenario(Random(seed))
        whole = engine_run(case).digest
        session = session_of(case)
        session.advance(40)
        copy = session.fork()
        assert finished(copy).result().digest == whole
        assert finished(session).result().digest == whole


def test_a_fork_under_another_policy_leaves_the_first_alone() -> None:
    whole = finished(mixed_session()).result().digest
    session = mixed_session()
    session.advance(500)
    other = finished(session.fork({"route": "round_robin"}))
    assert other.result().digest != whole
    assert session.state.cluster["events"][0] == 500
    assert finished(session).result().digest == whole


def test_a_partial_result_has_every_request_once_and_the_rest_unfinished() -> None:
    session = mixed_session()
    session.advance(300)
    summary = session.result().summary
    assert 0 < summary["finished"] < 400 and summary["finished"] + summary["unfinished"] == 400
    assert len(session.result().requests) == 400
    assert finished(session).result().summary["finished"] == 400


def test_what_is_switched_off_changes_no_byte() -> None:
    plain = finished(mixed_session()).result().digest
    assert finished(mixed_session(events=True)).result().digest == plain
    assert finished(mixed_session(predictions=np.arange(400))).result().digest == plain


def test_the_event_log_is_whole_and_in_order() -> None:
    session = finished(mixed_session(events=True), 57)
    log = np.concatenate(session.log)
    assert (np.diff(log["time_ps"]) >= 0).all()
    for kind in (schema.LOG_ARRIVE, schema.LOG_ENQUEUE, schema.LOG_TOKEN, schema.LOG_FINISH):
        assert sorted(log["request"][log["kind"] == kind]) == list(range(400))


def test_a_policy_row_holds_no_true_output_length() -> None:
    for row in (REQUEST, schema.VIEW, schema.SLOT):
        assert not [name for name in row.names if "output" in name]


def test_state_takes_at_most_250_bytes_per_request() -> None:
    assert REQUEST.itemsize + schema.JOB.itemsize <= 250
    session = mixed_session()
    per_request = [array for array in session.state[:14] if len(array) == len(session.trace)]
    assert sum(array.nbytes for array in per_request) / len(session.trace) <= 250


def test_a_leap_longer_than_the_longest_is_split_without_a_trace() -> None:
    profile = small_profile(iteration_ps=3, decode_request_ps=1)
    cluster = small_cluster([small_instance("mixed", profile, kv_blocks=1_000_000)])
    trace = small_trace([(0, 5, 3 * schema.MAX_LEAP)])
    long, short = (finished(Session(trace, cluster, leap=leap), 10**7).result() for leap in (True, False))
    assert long.digest == short.digest
    assert long.summary["events"] < 10 < short.summary["events"]


def test_time_beyond_the_clock_is_refused_in_one_sentence() -> None:
    profile = small_profile(iteration_ps=2**50)
    cluster = small_cluster([small_instance("mixed", profile, kv_blocks=1_000_000)])
    with pytest.raises(ConfigError, match="replayed time must stay under 93 days"):
        replay(small_trace([(0, 5, 20_000)]), cluster)


@pytest.mark.parametrize("seed", range(40, 70))
def test_kept_gaps_are_those_of_the_twin_whatever_the_leaps(seed: int) -> None:
    with registered():
        case = scenario(Random(seed))
        leapt, stepped = (finished(session_of(case, gaps=True, leap=leap)) for leap in (True, False))
        expected = twin_run(case)["gaps"]
    assert (leapt.state.gaps == stepped.state.gaps).all()
    assert leapt.result().digest == stepped.result().digest == engine_digest(case)
    tier = np.repeat(leapt.state.requests["tier"], leapt.state.jobs["output_tokens"] - 1)
    for index, gaps in enumerate(expected):
        kept = leapt.state.gaps[: len(tier)][tier == index]
        assert sorted(kept[kept > 0]) == sorted(gaps)


def test_the_longest_tenth_of_gaps_is_averaged_by_request() -> None:
    result = finished(mixed_session(gaps=True)).result()
    state = finished(mixed_session(gaps=True)).state
    for r in (0, 3, 57, 311):
        first, count = int(state.gap_first[r]), int(state.jobs["output_tokens"][r]) - 1
        longest = sorted(int(gap) for gap in state.gaps[first : first + count])[::-1][: -(-count // 10)]
        found = result.requests["itl_top10_s"][r]
        assert found is None if count == 0 else found == pytest.approx(sum(longest) / len(longest) * 1e-12, rel=1e-12)
        total = int(state.jobs["finish_ps"][r] - state.jobs["first_token_ps"][r])
        assert int(state.gaps[first : first + count].sum()) == total
    assert result.summary["itl_top10_s_p99"] >= result.summary["itl_s_p99"]
    assert "itl_top10_s_p99" not in finished(mixed_session()).result().summary


def test_threads_compile_a_part_once_and_one_at_a_time() -> None:
    """The runs of a multirun need the same parts at the same moment."""
    doing = 0
    begun: list[tuple[int, int]] = []

    @once
    def part(number: int) -> object:
        nonlocal doing
        doing += 1
        begun.append((number, doing))
        sleep(0.01)
        doing -= 1
        return object()

    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(part, [1, 2] * 4))
    assert sorted(begun) == [(1, 1), (2, 1)] and len(set(parts)) == 2

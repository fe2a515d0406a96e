"""Laws that hold whatever the policies do: nothing is lost, time never runs back, and Little's law at every station."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from replay.engine import schema
from replay.engine.schema import KINDS, State
from tests.odd_policies import registered
from tests.scenarios import Scenario, hierarchical, scenario
from tests.sessions import engine_run, finished, session_of

SEEDS = range(3000, 3030)
FEW_SEEDS = range(3000, 3010)
SAMPLES = 9
PLACED = (schema.FETCHING, schema.WAITING, schema.HANDOFF)


@pytest.fixture(autouse=True)
def odd() -> Iterator[None]:
    """Offer the odd policies to the scenarios."""
    with registered():
        yield


def case_of(seed: int) -> Scenario:
    """Return a scenario small enough to look at after every event."""
    return scenario(Random(seed), 25)


def tiered_case_of(seed: int) -> Scenario:
    """Return a small scenario with a KV hierarchy that writes down what its holders keep."""
    case = hierarchical(case_of(seed), Random(f"hierarchy {seed}"))
    assert case.cluster.kv is not None
    return replace(case, cluster=replace(case.cluster, kv=replace(case.cluster.kv, samples=SAMPLES)))


def check_blocks(state: State) -> None:
    """Every KV block of every instance and store is in one place; a cached prefix has everything before it."""
    views, instances, slots = state.views, state.instances, state.cache.slots
    parts = views["free_blocks"] + views["cached_blocks"] + instances["private_blocks"] + instances["pinned_blocks"]
    assert (parts == views["total_blocks"]).all()
    assert (views["free_blocks"] >= 0).all() and (instances["private_blocks"] >= 0).all()
    num_prefill, num_instances = int(state.cluster["num_prefill"][0]), int(state.cluster["num_instances"][0])
    for c in range(state.cache.slot_of.shape[1]):
        i = c if c < num_prefill else c - num_prefill + num_instances  # decode instances keep no prefixes
        row_of = np.where(state.cache.slot_of[:, c] < -1, -2 - state.cache.slot_of[:, c], state.cache.slot_of[:, c])
        resident = row_of >= 0
        rows = slots[row_of[resident]]
        assert (rows["node"] == np.flatnonzero(resident)).all(), "a row serves two nodes or holders"
        assert rows["blocks"][rows["pins"] == 0].sum() == views["cached_blocks"][i]
        assert rows["blocks"][rows["pins"] > 0].sum() == instances["pinned_blocks"][i]
        for row in rows:
            node = state.cache.nodes[row["node"]]
            assert 0 < row["blocks"] <= node["blocks"]
            assert (row["blocks"] == node["blocks"]) == (state.cache.slot_of[row["node"], c] >= 0)
            if node["parent"] >= 0:
                above = slots[row_of[node["parent"]]]
                assert resident[node["parent"]] and above["blocks"] == state.cache.nodes[node["parent"]]["blocks"]
                assert above["pins"] >= row["pins"]


def check_requests(state: State) -> None:
    """The counts of the views are the requests that are there, each in one place."""
    stage, jobs, views = state.jobs["stage"], state.jobs, state.views
    where = np.where(stage == schema.HANDOFF, jobs["decode_instance"], jobs["instance"])
    where = np.where(stage == schema.FETCHING, jobs["prefill_instance"], where)  # of a fetch, or a load it waits for
    for i in range(int(state.cluster["num_instances"][0])):
        assert views["waiting"][i] == np.count_nonzero(np.isin(stage, PLACED) & (where == i))
        decoding = np.count_nonzero((stage == schema.DECODING) & (jobs["decode_instance"] == i))
        prefilling = np.count_nonzero((stage == schema.PREFILLING) & (jobs["instance"] == i))
        assert views["decoding"][i] == decoding
        assert views["running"][i] == decoding + prefilling <= views["max_batch"][i]
    assert state.cluster["held_count"][0] == np.count_nonzero(stage == schema.HELD)
    assert state.cluster["gone"][0] == np.count_nonzero(stage == schema.GONE)


@pytest.mark.parametrize("case", [case_of, tiered_case_of])
@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_conservation_after_every_event(seed: int, case: Callable[[int], Scenario]) -> None:
    """Blocks and requests are conserved, and time never runs back, event by event."""
    session = session_of(case(seed))
    now_ps, done = 0, False
    while not done:
        done = session.advance(1)
        assert session.state.cluster["now_ps"][0] >= now_ps
        now_ps = session.state.cluster["now_ps"][0]
        check_blocks(session.state)
        check_requests(session.state)


@pytest.mark.parametrize("case", [case_of, tiered_case_of])
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_left_at_the_end(seed: int, case: Callable[[int], Scenario]) -> None:
    """Empty queues, no block in use, no token owed; every request has one row and one end."""
    state = finished(session_of(case(seed))).state
    check_blocks(state)
    check_requests(state)
    held = state.cluster["held_count"][0]
    assert np.count_nonzero(state.jobs["stage"] != schema.GONE) == held + np.count_nonzero(
        state.jobs["stage"] == schema.PENDING
    )
    for name in ("waiting", "running", "decoding", "queued_tokens", "waiting_tokens"):
        assert (state.views[name] == 0).all(), name
    assert (state.instances["private_blocks"] == 0).all() and (state.instances["pinned_blocks"] == 0).all()
    assert (state.jobs["private_blocks"] == 0).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_written_down_is_what_was_kept(seed: int) -> None:
    """Looking changes nothing; samples are evenly apart, from the start, as many as asked for at most, in bounds."""
    case = tiered_case_of(seed)
    session = session_of(case)
    session.state.cluster["sample_ps"] = 300  # a second is longer than these replays
    finished(session)
    kv = case.cluster.kv
    assert kv is not None
    unseen = replace(case, cluster=replace(case.cluster, kv=replace(kv, samples=0)))
    assert engine_run(unseen).digest == session.result().digest and "occupancy" not in engine_run(unseen).tables
    frame = session.result().tables["occupancy"]
    assert frame.width == 1 + len(session.state.prefill_views) + len(kv.stores) and 1 <= len(frame) <= SAMPLES
    gaps = np.diff(session.state.hierarchy.occupancy[: len(frame), 0])
    assert len(frame) > SAMPLES // 3 or len(gaps) <= 1 or gaps[0] == 300, "rows are thinned no more than needed"
    assert frame["time_s"][0] == 0.0 and len(set(gaps.tolist())) <= 1 and (gaps > 0).all()
    views = session.state.views
    first = int(session.state.cluster["num_instances"][0])
    sizes = [*views["total_blocks"][: len(session.state.prefill_views)], *views["total_blocks"][first:]]
    kept = frame.drop("time_s").to_numpy()
    assert (kept >= 0).all() and (kept <= np.array(sizes)).all()


@pytest.mark.parametrize("case", [case_of, tiered_case_of])
@pytest.mark.parametrize("seed", SEEDS)
def test_rows_are_consistent(seed: int, case: Callable[[int], Scenario]) -> None:
    """The times of a request are in order, and it has all its tokens or a reason."""
    session = finished(session_of(case(seed)))
    rows = session.result().requests
    assert len(rows) == len(session.trace)
    for row in rows.iter_rows(named=True):
        if row["status"] == "finished":
            times = [row[name] for name in ("arrival_ps", "scheduled_ps", "first_token_ps", "finish_ps")]
            assert times == sorted(times) and row["generated_tokens"] == row["output_tokens"]
            assert (row["max_itl_ps"] is None) == (row["output_tokens"] == 1)
            assert (row["finish_ps"] == row["first_token_ps"]) == (row["output_tokens"] == 1)
        else:
            assert row["finish_ps"] is None
        assert 0 <= row["hit_tokens"] < row["prompt_tokens"]


@pytest.mark.parametrize("case", [case_of, tiered_case_of])
@pytest.mark.parametrize("seed", SEEDS)
def test_tokens_are_conserved(seed: int, case: Callable[[int], Scenario]) -> None:
    """Prefill computed what no cache gave, once more for each preemption; gaps number the tokens but the first."""
    state = finished(session_of(case(seed))).state
    jobs, requests = state.jobs, state.requests
    began, generated = jobs["scheduled_ps"] >= 0, int(requests["generated_tokens"].sum())
    assert state.instances["tokens_out"].sum() == generated
    assert state.histogram.sum() == generated - np.count_nonzero(jobs["first_token_ps"] >= 0)
    least = (requests["prompt_tokens"] - jobs["hit_tokens"])[began].sum()
    computed = state.instances["prefill_done_tokens"].sum()
    assert computed == least if jobs["preemptions"].sum() == 0 else computed > 0


def stays(log: np.ndarray, jobs: np.ndarray, instances: int) -> tuple[list[int], list[int]]:
    """Sum every request's time waiting at and running on each instance, from the event log.

    jobs    : JOB rows at the end; they say where a fetch went
    returns : waiting, running [ps], (instances,) each; a request waits from the moment that it is sent
    """
    waiting, running = [0] * instances, [0] * instances
    since: dict[int, tuple[list[int], int, int]] = {}  # request -> sum to add to, instance, from when

    def move(request: int, time_ps: int, total: list[int] | None, instance: int) -> None:
        if request in since:
            before, place, start_ps = since.pop(request)
            before[place] += time_ps - start_ps
        if total is not None:
            since[request] = (total, instance, time_ps)

    for place, event in enumerate(log):
        kind = KINDS[event["kind"]]
        request, time_ps, instance = (int(event[name]) for name in ("request", "time_ps", "instance"))
        if kind == "admit":
            move(request, time_ps, running, instance)
        elif kind == "preempt" or (kind == "enqueue" and request not in since):
            move(request, time_ps, waiting, instance)
        elif kind == "fetch":
            move(request, time_ps, waiting, int(jobs["prefill_instance"][request]))
        elif kind == "handoff":
            later = log[place:][log["request"][place:] == request]  # a request that migrates is handed over again
            came = later[later["kind"] == KINDS.index("deliver")]
            target = came["instance"][0] if len(came) else jobs["decode_instance"][request]
            move(request, time_ps, waiting, int(target))
        elif kind in ("finish", "fail", "reject"):
            move(request, time_ps, None, instance)
    assert not since, "a request stayed for ever"
    return waiting, running


@pytest.mark.parametrize("seed", SEEDS)
def test_littles_law(seed: int) -> None:
    """At every station the time integral of the number of requests is the sum of their stays.

    The kernel integrates its counts, event by event; the stays come from the event log, request by request.
    """
    session = finished(session_of(case_of(seed), events=True))
    state = session.state
    log = np.concatenate([np.asarray(part) for part in session.log])
    waiting, running = stays(log, state.jobs, len(state.instances))
    # Sums of float seconds: each of at most one addition a change rounds by 2^-53 of the total.
    bound = 1e-15 * (len(log) + 1)
    for i in range(len(state.instances)):
        assert state.instances["waiting_area"][i] == pytest.approx(waiting[i] * 1e-12, rel=bound, abs=1e-24)
        assert state.instances["running_area"][i] == pytest.approx(running[i] * 1e-12, rel=bound, abs=1e-24)
    links, held = between(log, len(state.instances))
    for i in range(len(state.instances)):
        assert state.instances["link_area"][i] == pytest.approx(links[i] * 1e-12, rel=bound, abs=1e-24)
    # the cluster queue may end with requests that nobody ever took: they count until its last change
    if state.cluster["held_count"][0] == 0:
        assert state.cluster["held_area"][0] == pytest.approx(held * 1e-12, rel=bound, abs=1e-24)


def between(log: np.ndarray, instances: int) -> tuple[list[int], int]:
    """Sum every request's time on each network card, and in the cluster queue, from the event log.

    returns : links [ps] (instances,), cluster queue [ps]
    """
    links, held = [0] * instances, 0
    carried: dict[int, tuple[int, int]] = {}
    waits: dict[int, int] = {}
    for event in log:
        kind = KINDS[event["kind"]]
        request, time_ps, instance = (int(event[name]) for name in ("request", "time_ps", "instance"))
        if kind == "hold":
            waits[request] = time_ps
        elif kind in ("enqueue", "fetch", "fail") and request in waits:
            held += time_ps - waits.pop(request)
        if kind in ("handoff", "fetch"):
            carried[request] = (instance, time_ps)
        elif kind == "deliver":
            sender, start_ps = carried.pop(request)
            links[sender] += time_ps - start_ps
    return links, held

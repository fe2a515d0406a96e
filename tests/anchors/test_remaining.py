"""Orders that look at what is left: SRPT, predictions with limited preemption, deadlines, guards against starvation."""

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest

from replay.cluster import Cluster
from replay.session import Session
from tests.anchors import formulas
from tests.anchors.stations import LONGEST_TOKENS, PS, Run, agrees, compiled, poisson, sample_rate, serve, servers
from tests.small import small_cluster, small_instance, small_profile, small_trace
from traces.schema import Trace, build

pytestmark = compiled
COUNT, LOAD, ITERATION_S = 150_000, 0.8, 1e-2


def counted_jobs(seed: int, count: int, load: float) -> Trace:
    """Make jobs of one prompt token and a geometric number of iterations, a hundred on average: a second."""
    outputs = np.random.default_rng((seed, 4)).geometric(ITERATION_S, count)
    columns = {"arrival_s": poisson(seed, count, load), "prompt_tokens": np.ones_like(outputs)}
    return build("counted", columns | {"output_tokens": outputs})


def stepping_server() -> Cluster:
    """Build an instance whose every iteration takes ITERATION_S and yields a token; preemption loses no work."""
    return servers(iteration_s=ITERATION_S, prefill_token_s=0.0, decode_request_s=0.0, token_budget=LONGEST_TOKENS)


def srpt_mean(run: Run) -> float:
    """Return what the formula gives for the sample of a run."""
    return formulas.shortest_remaining(sample_rate(run), run.jobs["output_tokens"] * ITERATION_S)


def test_the_formula_gives_the_published_value() -> None:
    """Exponential sizes at load .8: 2.3528."""
    sizes = -np.log1p(-(np.arange(400_000) + 0.5) / 400_000)
    assert formulas.shortest_remaining(0.8, sizes) == pytest.approx(2.3528, rel=2e-4)


@pytest.mark.parametrize("order", ["oracle_srpt", "trail"])
def test_least_remaining_first_is_srpt(order: str) -> None:
    """With its prediction always right, TRAIL at limit 1 is SRPT; an arrival waits for the iteration in progress."""
    trace = counted_jobs(91, COUNT, LOAD)
    values = {"limit": 1.0} if order == "trail" else {"output_weight": 256.0}  # prefill is free here
    policies = {"order": {"name": order, **values}}
    run = serve(trace, stepping_server(), policies, predictions=trace.column("output_tokens"))
    agrees(run.sojourn_s, srpt_mean(run), bias=2 * ITERATION_S)


def test_no_preemption_allowed_is_shortest_job_first() -> None:
    """TRAIL at limit 0, and the oracle that never preempts, are one schedule; more preemption is better, up to SRPT."""
    trace = counted_jobs(92, 20_000, LOAD)
    run = {limit: serve(trace, stepping_server(), {"order": {"name": "trail", "limit": limit}},
                        predictions=trace.column("output_tokens")) for limit in (0.0, 0.3, 1.0)}  # fmt: skip
    shortest = serve(trace, stepping_server(), {"order": {"name": "oracle_sjf", "output_weight": 1.0}})
    assert (run[0.0].jobs["finish_ps"] == shortest.jobs["finish_ps"]).all()
    assert run[0.0].jobs["preemptions"].sum() == 0 < run[0.3].jobs["preemptions"].sum()
    means = [float(run[limit].sojourn_s.mean()) for limit in (1.0, 0.3, 0.0)]
    assert means == sorted(means) and means[0] < 0.95 * means[2]


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_wrong_predictions_cost_what_preemption_makes_of_them(noise: float) -> None:
    """TRAIL never loses to FCFS by much, and a limit below 1 helps where predictions are poor."""
    trace = counted_jobs(93, 30_000, LOAD)
    sizes = trace.column("output_tokens")
    errors = np.exp(noise * np.random.default_rng(94).standard_normal(len(sizes)))
    predicted = np.maximum(1, np.rint(sizes * errors)).clip(max=10**6).astype(np.int64)
    found = {name: serve(trace, stepping_server(), {"order": name}, predictions=predicted).sojourn_s.mean()
             for name in ("fcfs", "shortest_predicted", "trail", "oracle_srpt")}  # fmt: skip
    assert found["oracle_srpt"] < found["trail"] < found["fcfs"]


def long_among_short() -> Trace:
    """Make one long job before an endless row of short ones that fill the server."""
    short = [(1000 + 500 * row, 1, 5) for row in range(4000)]
    return small_trace([(0, 1, 400), *short])


@pytest.mark.parametrize(("order", "guarded", "open_ended"), [
    ("rank", {"starvation_s": 1e-3, "quantum_s": 1e-3}, {"starvation_s": 86400.0}),
    ("skip_join_mlfq", {"quantum_s": 1e-4, "starvation_s": 0.01}, {"quantum_s": 1e-4, "starvation_s": 86400.0}),
])  # fmt: skip
def test_a_guard_lets_nobody_starve(order: str, guarded: dict[str, float], open_ended: dict[str, float]) -> None:
    """The server is full of short jobs for 2 units of time; the long one gets on only where the guard promotes it."""
    trace = scaled(long_among_short(), 1e6)
    profile = small_profile(iteration_ps=100 * 10**6)
    instance = small_instance("mixed", profile, max_batch=1, kv_blocks=1000, token_budget=1000)
    cluster = small_cluster([instance])
    last_s = float(trace.column("arrival_s").max())
    finish = {}
    for name, values in (("guarded", guarded), ("open", open_ended)):
        policies = {"order": {"name": order, **values}}
        session = Session(trace, cluster, policies, predictions=trace.column("output_tokens"))
        while not session.advance(1_000_000):
            pass
        finish[name] = float(session.state.jobs["finish_ps"][0]) / PS
    assert finish["open"] > last_s > finish["guarded"] > 0


def scaled(trace: Trace, factor: float) -> Trace:
    """Return a trace with every arrival so many times later."""
    columns = {name: trace.column(name) for name in ("prompt_tokens", "output_tokens")}
    return build("scaled", {"arrival_s": trace.column("arrival_s") * factor, **columns})


Task = tuple[int, int, int]  # arrival, tokens, tier: time in iterations
PROMISES = ((1, 1), (4, 2), (9, 3))  # of a tier: time to the first token, and for each further one


def deadlines(task: Task) -> list[int]:
    """Return when each token of a task is due."""
    arrival, tokens, tier = task
    first, pace = PROMISES[tier]
    return [arrival + first + k * pace for k in range(tokens)]


def feasible(tasks: Sequence[Task]) -> bool:
    """Whether one machine can make every token in time: no interval has more to do within it than it is long.

    Tokens are unit jobs released with their request; that they come one after another excludes no schedule, since
    their deadlines rise. source : Horn, Some simple scheduling algorithms, 1974
    """
    units = [(task[0], due) for task in tasks for due in deadlines(task)]
    starts, ends = {release for release, _ in units}, {due for _, due in units}
    return all(sum(a <= release and due <= b for release, due in units) <= b - a
               for a in starts for b in ends if a < b)  # fmt: skip


def late_tokens(tasks: Sequence[Task], order: str) -> int:
    """Return how many tokens come after they are due on an instance that makes one token an iteration."""
    step = 1000
    tasks = sorted(tasks)
    rows = [(arrival * step, 1, tokens) for arrival, tokens, _ in tasks]
    trace = small_trace(rows, tier=[f"t{tier}" for *_, tier in tasks])
    slo = {"tiers": {f"t{k}": {"ttft_s": (first + 0.5) * step / PS, "itl_s": pace * step / PS}
                     for k, (first, pace) in enumerate(PROMISES)}}  # fmt: skip
    cluster = small_cluster([small_instance("mixed", small_profile(iteration_ps=step), max_batch=1, kv_blocks=1000)])
    values = {"name": order, "preemptive": True} if order == "edf" else order
    session = Session(trace, cluster, {"order": values}, slo=slo, gaps=True)
    while not session.advance(10_000):
        pass
    late = 0
    for row, task in enumerate(tasks):
        first = int(session.state.gap_first[row])
        gaps = session.state.gaps[first : first + task[1] - 1]
        times = int(session.state.jobs["first_token_ps"][row]) + np.r_[0, np.cumsum(gaps)]
        late += int((times > np.array(deadlines(task)) * step).sum())
    return late


def test_edf_is_late_only_where_every_order_is() -> None:
    """Random sets of requests with token deadlines: what one machine can do at all, earliest deadline first does."""
    random, found = Random(5), {True: 0, False: 0}
    saved = 0
    for _ in range(250):
        arrivals = random.sample(range(10), random.randint(2, 6))  # two at once would find it idle one after the other
        tasks = [(arrival, random.randint(1, 4), random.randrange(3)) for arrival in arrivals]
        can = feasible(tasks)
        found[can] += 1
        late = late_tokens(tasks, "edf")
        assert (late == 0) == can, tasks
        saved += can and late_tokens(tasks, "fcfs") > 0
    assert min(found.values()) > 30 and saved > 10

"""Orders of one queue: Cobham's priorities, preemptive-resume, shortest job first, and what no order can change."""

import numpy as np
import pytest

from predictors.oracle import oracle
from replay.cluster import Cluster
from tests.anchors import formulas
from tests.anchors.stations import (
    LONGEST_TOKENS,
    PS,
    TIERS,
    UNIT_S,
    Run,
    agrees,
    compiled,
    exponential,
    jobs,
    moments,
    offered,
    poisson,
    sample_rate,
    serve,
    servers,
)
from traces.schema import Trace, build

pytestmark = compiled
COUNT = 800_000
LOAD = 0.8
SHARES = (0.125, 0.375, 0.5)
ITERATION_S = 1e-3
ORDERS = {
    "fcfs": "fcfs",
    "priority": "priority_by_tier",
    "aged": {"name": "priority_by_tier", "aging_s": 5.0},
    "shortest": "shortest_prompt",
}


def tiers(seed: int, count: int) -> np.ndarray:
    """Draw tier codes by SHARES."""
    return np.random.default_rng((seed, 3)).choice(3, count, p=SHARES)


def means_of(run: Run, unit_s: float, field: np.ndarray) -> tuple[list[float], list[float], list[float]]:
    """Return each tier's arrival rate, mean and second moment of service in the sample."""
    rates, firsts, seconds = [], [], []
    for tier in range(3):
        service_s = field[run.requests["tier"] == tier] * unit_s
        first, second = moments(service_s)
        rates.append(len(service_s) / len(run.jobs) * sample_rate(run))
        firsts.append(first)
        seconds.append(second)
    return rates, firsts, seconds


def counted_jobs(seed: int, count: int, tier: np.ndarray) -> Trace:
    """Make jobs of one prompt token and a geometric number of iterations, a thousand on average."""
    outputs = np.random.default_rng((seed, 4)).geometric(ITERATION_S, count)
    columns = {"arrival_s": poisson(seed, count, LOAD), "prompt_tokens": np.ones_like(outputs)}
    columns |= {"output_tokens": outputs, "tier": np.array(TIERS, dtype=object)[tier]}
    return build("counted", columns)


def stepping_server() -> Cluster:
    """Build an instance whose every iteration takes ITERATION_S and yields a token, whatever it computes.

    Prefill is free, so a preempted request's recompute, an iteration like any other, gives it its next token and loses
    no work: preemption by recompute is preemptive-resume.
    """
    return servers(iteration_s=ITERATION_S, prefill_token_s=0.0, decode_request_s=0.0, token_budget=LONGEST_TOKENS)


def test_priorities_are_cobhams() -> None:
    trace = jobs(poisson(61, COUNT, LOAD), exponential(61, COUNT), tiers(61, COUNT))
    run = serve(trace, servers(), {"order": "priority_by_tier"})
    sample = means_of(run, UNIT_S, run.requests["prompt_tokens"])
    for tier, expected in enumerate(formulas.cobham(*sample)):
        agrees(run.wait_s[run.requests["tier"] == tier], expected)


def test_preemptive_priorities_are_preemptive_resume() -> None:
    """An urgent request waits for the end of the iteration in progress, so a figure may be off by one or two."""
    trace = counted_jobs(67, COUNT, tiers(67, COUNT))
    run = serve(trace, stepping_server(), {"order": {"name": "priority_by_tier", "preemptive": True}})
    sample = means_of(run, ITERATION_S, run.jobs["output_tokens"])
    assert run.jobs["preemptions"].max() > 1
    for tier, expected in enumerate(formulas.preemptive_resume(*sample)):
        agrees(run.sojourn_s[run.requests["tier"] == tier], expected, bias=2 * ITERATION_S)


def test_preemption_loses_no_work_when_prefill_is_free() -> None:
    """One step a token, preempted or not: the server is busy for exactly the sum of all tokens."""
    trace = counted_jobs(71, 20_000, tiers(71, 20_000))
    run = serve(trace, stepping_server(), {"order": {"name": "priority_by_tier", "preemptive": True}})
    assert run.jobs["preemptions"].sum() > 1000
    busy_ps = int(run.state.instances["busy_ps"][0])
    assert busy_ps == int(run.jobs["output_tokens"].sum()) * round(ITERATION_S * PS)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_shortest_prompt_is_shortest_job_first(load: float) -> None:
    trace = jobs(poisson(73, COUNT, load), exponential(73, COUNT))
    run = serve(trace, servers(), {"order": "shortest_prompt"})
    agrees(run.sojourn_s, 1 + formulas.shortest_job_first_mean(load))
    size_s = run.requests["prompt_tokens"] * UNIT_S
    for low, high in ((0.0, 0.5), (0.5, 1.0), (1.0, 2.0), (2.0, 3.0)):
        among = (size_s >= low) & (size_s < high)
        agrees(run.wait_s[among], formulas.shortest_job_first_mean(load, low, high))


def weighted_wait(run: Run) -> int:
    """Return the sum of service x wait over all requests, exact [token ps]."""
    wait_ps = (run.jobs["scheduled_ps"] - run.requests["arrival_ps"]).tolist()
    prompts = run.requests["prompt_tokens"].tolist()
    return sum(prompt * wait for prompt, wait in zip(prompts, wait_ps, strict=True))


def test_no_order_changes_the_work_in_the_system() -> None:
    """Kleinrock's conservation law, on one sample path and exact.

    Unfinished work falls at rate 1 and jumps by S at an arrival, in whatever order it is done. Its integral is the sum
    of S W + S^2 / 2 over requests, so the sum of S W is one integer for every order that neither idles nor preempts.
    """
    count = 200_000
    trace = jobs(poisson(79, count, LOAD), exponential(79, count), tiers(79, count))
    runs = {name: serve(trace, servers(), {"order": order}) for name, order in ORDERS.items()}
    assert len({weighted_wait(run) for run in runs.values()}) == 1
    assert len({float(run.wait_s.mean()) for run in runs.values()}) == len(ORDERS)


@pytest.mark.parametrize("order", list(ORDERS))
def test_conservation_law_has_the_right_constant(order: str) -> None:
    """Sum of load_k Wq_k over size classes = load W0 / (1 - load)."""
    sizes = np.array([0.25, 1.0, 3.0])[tiers(83, COUNT)]
    rate = LOAD / float(np.dot(SHARES, [0.25, 1.0, 3.0]))
    run = serve(jobs(poisson(83, COUNT, rate), sizes, tiers(83, COUNT)), servers(), {"order": ORDERS[order]})
    rate, mean, second = offered(run)
    agrees(run.wait_s * sizes / mean, formulas.pollaczek_khinchine(rate, second, rate * mean))


def test_more_urgent_waits_less_and_aging_levels() -> None:
    trace = jobs(poisson(89, COUNT, LOAD), exponential(89, COUNT), tiers(89, COUNT))
    spread = {}
    for name in ("fcfs", "aged", "priority"):
        run = serve(trace, servers(), {"order": ORDERS[name]})
        waits = [float(run.wait_s[run.requests["tier"] == tier].mean()) for tier in range(3)]
        spread[name] = waits[2] - waits[0]
    assert abs(spread["fcfs"]) < 0.1 < spread["aged"] < spread["priority"]


@pytest.mark.parametrize("noise", [0.0, 0.5, 2.0])
def test_shortest_predicted_pays_for_its_errors(noise: float) -> None:
    """Non-preemptive SJF by a prediction P of the service S: E[Wq] = E[lambda E[S^2] / (2 (1 - rho'(P))^2)].

    rho'(y) = lambda E[S; P <= y], all of the sample: exact at no noise (SJF), near FCFS where predictions say nothing.
    source : Mitzenmacher, Scheduling with predictions and the price of misprediction, ITCS 2020 (SPJF)
    """
    trace = jobs(poisson(83, COUNT, LOAD), exponential(83, COUNT))
    service_s = trace.column("prompt_tokens") * UNIT_S
    errors = np.exp(noise * np.random.default_rng(84).standard_normal(COUNT))
    predicted = np.maximum(1, np.rint(service_s * errors * 1e5)).clip(max=2**31 - 1).astype(np.int64)
    policies = {"order": {"name": "shortest_predicted", "output_weight": 256.0}}
    run = serve(trace, servers(), policies, predictions=predicted)
    agrees(run.wait_s, spjf_wait_s(run, service_s, predicted))


@pytest.mark.parametrize("tau", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_the_gain_of_predictions_of_any_rank_correlation_is_the_formulas(tau: float) -> None:
    """The noise-controlled oracle from knowing nothing to the truth; at tau 0 the wait is that of FCFS, no more."""
    trace = jobs(poisson(83, COUNT, LOAD), exponential(83, COUNT))
    tokens = trace.column("prompt_tokens")
    service_s, predicted = tokens * UNIT_S, oracle(tokens, 85, tau=tau)
    policies = {"order": {"name": "rank", "preemptive": False, "starvation_s": 86_400.0}}  # by predictions alone
    run = serve(trace, servers(), policies, predictions=predicted)
    agrees(run.wait_s, spjf_wait_s(run, service_s, predicted))
    if tau == 0.0:
        rate, (mean, second) = sample_rate(run), moments(service_s)
        agrees(run.wait_s, rate * second / (2 * (1 - rate * mean)))


def spjf_wait_s(run: Run, service_s: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean wait of non-preemptive SJF by predictions, of the sample; equal ones are a class of Cobham's."""
    rate, (_, second) = sample_rate(run), moments(service_s)
    _, ranks, counts = np.unique(predicted, return_inverse=True, return_counts=True)
    upto = np.cumsum(np.bincount(ranks, service_s)) * rate / len(service_s)
    below = np.concatenate(([0.0], upto[:-1]))
    return float(np.average(rate * second / (2 * (1 - below) * (1 - upto)), weights=counts))

"""Several instances, one request at a time each: M/M/c, Erlang's loss, splitting, and the power of two choices."""

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from replay.policy import policy, registry
from tests.anchors import formulas
from tests.anchors.stations import PS, UNIT_S, agrees, compiled, exponential, jobs, offered, poisson, serve, servers

pytestmark = compiled
COUNT = 600_000


def while_free(request, instances, now_ps):
    """Admit a request only if an instance serves nothing.

    source : Erlang's loss system
    """
    for i in range(len(instances)):
        if instances[i].running + instances[i].waiting == 0:
            return True
    return False


@contextmanager
def registered(slot: str, function: Callable[..., Any]) -> Iterator[str]:
    """Register a policy of these tests within the context, so that the registry stays as users see it."""
    policy(slot)(function)
    try:
        yield function.__name__
    finally:
        del registry()[slot][function.__name__]


@pytest.mark.parametrize(("count", "load"), [(4, 0.8), (2, 0.5), (8, 0.8)])
def test_central_queue_is_mmc(count: int, load: float) -> None:
    trace = jobs(poisson(37, COUNT, count * load), exponential(37, COUNT))
    run = serve(trace, servers(count), {"route": "central_queue"})
    rate, mean, _ = offered(run)
    agrees(run.wait_s, formulas.mmc(rate, mean, count))


def test_every_wait_at_the_central_queue_is_kiefer_and_wolfowitzs() -> None:
    """Requests begin in order, each on the server that is free first: exact for each, whatever the service times."""
    run = serve(jobs(poisson(41, 100_000, 3.6), exponential(41, 100_000)), servers(4), {"route": "central_queue"})
    free_ps = [0] * 4
    starts = []
    prompts = run.requests["prompt_tokens"].tolist()
    for arrival_ps, prompt in zip(run.requests["arrival_ps"].tolist(), prompts, strict=True):
        starts.append(max(arrival_ps, free_ps[0]))
        heapq.heapreplace(free_ps, starts[-1] + prompt * round(UNIT_S * PS))
    assert run.jobs["scheduled_ps"].tolist() == starts


@pytest.mark.parametrize("law", ["exponential", "deterministic"])
@pytest.mark.parametrize(("count", "load"), [(4, 3.0), (8, 10.0)])
def test_a_loss_system_is_erlang_b_for_any_service(count: int, load: float, law: str) -> None:
    service_s = exponential(43, COUNT) if law == "exponential" else np.ones(COUNT)
    trace = jobs(poisson(43, COUNT, load), service_s)
    with registered("admit", while_free) as admit:
        run = serve(trace, servers(count), {"admit": admit, "route": "least_loaded"})
    rate, mean, _ = offered(run)
    agrees((~run.finished).astype(float), formulas.erlang_b(rate * mean, count))
    assert not run.wait_s[run.finished].any()


def test_a_random_split_of_poisson_is_poisson() -> None:
    run = serve(jobs(poisson(47, COUNT, 8 * 0.7), exponential(47, COUNT)), servers(8), {"route": "random"})
    rate, mean, _ = offered(run)
    agrees(run.sojourn_s, formulas.mm1(rate / 8, mean))


@pytest.mark.parametrize("load", [0.7, 0.9])
def test_the_better_of_two_random_queues_is_the_supermarket_model(load: float) -> None:
    """The fixed point is the limit of many queues; 100 of them are within 1 % of it."""
    count, jobs_in_all = 100, 300_000
    trace = jobs(poisson(53, jobs_in_all, count * load), exponential(53, jobs_in_all))
    run = serve(trace, servers(count), {"route": "power_of_two"})
    rate, mean, _ = offered(run)
    expected = mean * formulas.supermarket(rate * mean / count, 2)
    agrees(run.sojourn_s, expected, bias=0.01 * expected)

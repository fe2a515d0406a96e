"""Stages as queues: Jackson's tandem of stages and of stage and cluster, the fork-join of two, several servers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from replay.cluster import Cluster
from replay.engine import schema
from replay.session import Session
from replay.stages import AFTER, BEFORE, BESIDE, Law, Stage
from tests.anchors import formulas
from tests.anchors.stations import PS, SLO, agrees, compiled, exponential, jobs, poisson, servers
from traces.schema import Trace

pytestmark = compiled
COUNT = 400_000
NOTHING_S = 1e-9  # service of a cluster that is not to matter


def station(name: str, place: int, mean: float = 1.0, **more: Any) -> Stage:
    """Make a stage with exponential service."""
    return Stage(name, place, item_s=Law("exponential", mean), **more)


def sojourn_s(trace: Trace, cluster: Cluster, *stages: Stage, seed: int = 0) -> np.ndarray:
    """Replay a trace through stages and a cluster; returns arrival to finish of each request.

    Conservation, and Little's law at every stage, are checked at the end of the replay.
    """
    session = Session(trace, replace(cluster, stages=stages), slo=SLO, seed=seed)
    while not session.advance(10_000_000):
        pass
    assert (session.state.jobs["status"] == schema.FINISHED).all()
    return np.asarray(session.state.jobs["finish_ps"] - session.state.requests["arrival_ps"]) / PS


def arrivals(rate: float, seed: int) -> tuple[Trace, float]:
    """Make requests that ask next to nothing of a cluster; returns them and their own rate."""
    arrival_s = poisson(seed, COUNT, rate)
    return jobs(arrival_s, np.full(COUNT, NOTHING_S)), COUNT / float(arrival_s[-1])


def idle() -> Cluster:
    """Return a cluster that takes nothing."""
    return servers(1, max_batch=4096, prefill_token_s=NOTHING_S)


@pytest.mark.parametrize("place", [BEFORE, BESIDE, AFTER])
def test_two_stages_are_jacksons_tandem(place: int) -> None:
    """1 / (mu1 - rate) + 1 / (mu2 - rate), wherever the two stand.

    source : Jackson, Networks of waiting lines, Operations Research 1957
    """
    trace, rate = arrivals(0.7, 201)
    found = sojourn_s(trace, idle(), station("one", place), station("two", place, 0.8, needs=(0,)), seed=3)
    agrees(found, formulas.mm1(rate, 1.0) + formulas.mm1(rate, 0.8))


@pytest.mark.parametrize("place", [BEFORE, AFTER])
def test_a_stage_and_a_cluster_are_jacksons_tandem(place: int) -> None:
    """The cluster is an M/M/1 by its prompts, the stage one by its draws."""
    arrival_s, service_s = poisson(202, COUNT, 0.6), exponential(202, COUNT)
    rate = COUNT / float(arrival_s[-1])
    found = sojourn_s(jobs(arrival_s, service_s), servers(1), station("stage", place, 1.2), seed=5)
    agrees(found, formulas.mm1(rate, float(service_s.mean())) + formulas.mm1(rate, 1.2))


def fork_join(rate: float, mean: float) -> float:
    """Return the mean response of two M/M/1 queues that each job joins both: (12 - load) / 8 of that of one.

    source : Flatto and Hahn 1984; Nelson and Tantawi, IEEE Transactions on Computers 1988
    """
    return (12 - rate * mean) / 8 * formulas.mm1(rate, mean)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_two_stages_beside_are_a_fork_and_join(load: float) -> None:
    trace, rate = arrivals(load, 203)
    found = sojourn_s(trace, idle(), station("one", BESIDE), station("two", BESIDE), seed=7)
    agrees(found, fork_join(rate, 1.0))


def test_a_stage_beside_a_cluster_is_a_fork_and_join() -> None:
    arrival_s, service_s = poisson(204, COUNT, 0.6), exponential(204, COUNT)
    rate = COUNT / float(arrival_s[-1])
    found = sojourn_s(jobs(arrival_s, service_s), servers(1), station("stage", BESIDE), seed=9)
    agrees(found, fork_join(rate, 1.0))


def test_a_pool_is_mmc_and_a_constant_stage_md1() -> None:
    trace, rate = arrivals(3.2, 205)
    agrees(sojourn_s(trace, idle(), station("pool", BEFORE, servers=4), seed=11), 1.0 + formulas.mmc(rate, 1.0, 4))
    trace, rate = arrivals(0.8, 206)
    agrees(sojourn_s(trace, idle(), Stage("fixed", BEFORE, item_s=1.0)), formulas.md1(rate, 1.0))


def test_batches_of_any_size_are_a_bus_that_leaves_when_it_is_back() -> None:
    """A server that takes all that wait, D a batch, is never empty at high load: the wait tends to D / 2."""
    trace, _ = arrivals(200.0, 207)
    stage = Stage("bus", BEFORE, base_ps=PS, max_batch=1_000_000)
    agrees(sojourn_s(trace, idle(), stage), 1.5, bias=0.01)

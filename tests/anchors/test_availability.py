"""Servers that fail: availability is MTBF / (MTBF + MTTR), and jobs begin anew as often and take as long as they must.

Failures are exponential both ways. Tolerances are standard errors: of a time average of an alternating renewal process
that of its asymptotic variance, 2 a (1 - a) / (1 / MTBF + 1 / MTTR) / T; of jobs far apart that of their sample.
source : Trivedi, Probability and Statistics with Reliability, Queuing, and Computer Science Applications, 2002, 6 and 8
"""

from dataclasses import replace
from math import exp, expm1, sqrt

import numpy as np
import polars as pl
import pytest

from replay.life import Failures, Life, Pool
from replay.result import Result
from replay.session import replay
from tests.anchors.stations import compiled
from tests.small import small_cluster, small_instance, small_policies, small_profile
from traces.schema import build

pytestmark = compiled
PS = 1e-12
TOKEN_PS = 10**10  # a hundred tokens a second
ERRORS = 4.0  # standard errors that a mean may be off


def run(arrivals_s: np.ndarray, prompts: np.ndarray, servers: int, mtbf_s: float, mttr_s: float) -> Result:
    """Replay jobs, one at a time on each server, that begin anew after a failure, which is known at once."""
    columns = {"arrival_s": arrivals_s, "prompt_tokens": prompts, "output_tokens": np.ones(len(prompts), int)}
    failures = Failures((), {"instance": mtbf_s}, {"instance": mttr_s}, None, 0.0)
    life = Life((Pool("mixed", 1, servers, servers),), 0, 0, 0, failures, 0, 0, 1)
    profile = small_profile(iteration_ps=1, prefill_token_ps=TOKEN_PS)
    instance = small_instance("mixed", profile, max_batch=1, token_budget=10_000, kv_blocks=10_000)
    cluster = replace(small_cluster([instance] * servers), life=life)
    return replay(build("jobs", columns), cluster, small_policies(recover="restart"), seed=3)


def error_of(availability: float, mtbf_s: float, mttr_s: float, time_s: float) -> float:
    """Return the standard error of the share of a time in which a server is up."""
    return sqrt(2 * availability * (1 - availability) / (1 / mtbf_s + 1 / mttr_s) / time_s)


@pytest.mark.parametrize(("mtbf_s", "mttr_s"), [(20.0, 1.0), (9.0, 3.0), (5.0, 5.0), (1.0, 9.0)])
@pytest.mark.parametrize("servers", [1, 7])
def test_availability_is_mtbf_of_mtbf_and_mttr(servers: int, mtbf_s: float, mttr_s: float) -> None:
    """Of each server, of all together, and that all are up at once, as they fail independently."""
    end_s, expected = 60_000.0, mtbf_s / (mtbf_s + mttr_s)
    result = run(np.array([0.0, end_s]), np.ones(2, int), servers, mtbf_s, mttr_s)
    times = result.tables["lives"]
    shares = (times["up_s"] / (times["up_s"] + times["down_s"])).to_numpy()
    error = error_of(expected, mtbf_s, mttr_s, end_s)
    assert np.abs(shares - expected).max() < ERRORS * error
    assert abs(result.summary["availability"] - expected) < ERRORS * error / sqrt(servers)
    assert times["crashes"].min() > 0.9 * end_s / (mtbf_s + mttr_s)
    if servers > 1:
        assert abs(all_up(result, servers) - expected**servers) < 2 * ERRORS * error / sqrt(servers)


def all_up(result: Result, servers: int) -> float:
    """Return the share of the time in which all servers were up."""
    changes = result.tables["life_changes"]
    up = servers + pl.Series(np.where(changes["state"] == "up", 1, -1)).cum_sum().to_numpy()
    spans_s = np.diff(changes["time_s"].to_numpy())
    return float(spans_s[up[:-1] == servers].sum() / spans_s.sum())


@pytest.mark.parametrize(("service_s", "mtbf_s", "mttr_s"), [(1.0, 4.0, 1.0), (2.0, 4.0, 0.5), (1.0, 1.0, 3.0)])
def test_a_job_begins_anew_and_takes_as_long_as_it_must(service_s: float, mtbf_s: float, mttr_s: float) -> None:
    """With rate l of failures a job of s is lost e^(l s) - 1 times and takes (1 / l + MTTR)(e^(l s) - 1).

    One that finds the server down waits MTTR more, as repairs have no memory. Jobs are far apart.
    """
    random, count = np.random.default_rng(5), 20_000
    again = expm1(service_s / mtbf_s)
    takes_s = (mtbf_s + mttr_s) * again
    arrivals_s = np.cumsum(15 * takes_s + 20 * exp(service_s / mtbf_s) * random.random(count))
    result = run(arrivals_s, np.full(count, round(100 * service_s)), 1, mtbf_s, mttr_s)
    found = result.requests
    sojourn_s = ((found["finish_ps"] - found["arrival_ps"]) * PS).to_numpy()
    down = mttr_s / (mtbf_s + mttr_s)
    for values, expected in ((found["losses"].to_numpy(), again), (sojourn_s, takes_s + down * mttr_s)):
        assert abs(values.mean() - expected) < ERRORS * values.std() / sqrt(count), (values.mean(), expected)
    assert result.summary["finished"] == count and found["status"].unique().to_list() == ["finished"]

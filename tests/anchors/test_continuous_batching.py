"""Continuous batching as a queue that can be solved: iterations of fixed_s + request_s B seconds, a token each.

One prompt token costs what a decoding request costs, so a request's first iteration, its prefill, is like all others
and B counts it: each of B requests gets one token in fixed_s + request_s B. The formula lets a request join at once;
the engine lets it wait for the end of the iteration in progress. That wait is `queue_s`, known in closed form, and the
rest is the formula's up to the step being discrete. By Little's law it is E[N I] / (E[I] rate) over iterations
I = fixed_s + request_s N, that is (E[N] + request_s Var[N] / E[I]) / rate, where E[N] is
rate tokens fixed_s / (1 - rate tokens request_s) as in the formula. With the chain of `formulas.batching_residual` the
second term is the formula's less a share of rate request_s / 2, at most 0.2 %; other length laws move Var[N] by order
1 / tokens, half a percent. The second term is 2 % of the whole here, so DISCRETE is above both.
"""

import numpy as np
import pytest

from replay.cluster import Cluster
from tests.anchors import formulas
from tests.anchors.stations import LONGEST_TOKENS, PS, Run, agrees, compiled, poisson, sample_rate, serve, servers
from traces.schema import Trace, build

pytestmark = compiled
FIXED_S, REQUEST_S, TOKENS = 0.020, 0.0004, 200
COUNT = 200_000
DISCRETE = 0.001


def lengths(law: str, count: int) -> np.ndarray:
    """Draw output lengths of mean TOKENS."""
    random = np.random.default_rng(97)
    if law == "deterministic":
        return np.full(count, TOKENS)
    if law == "geometric":
        return random.geometric(1 / TOKENS, count)
    sigma = np.sqrt(np.log(5.0))  # CV^2 = 4
    return np.maximum(1, np.rint(random.lognormal(np.log(TOKENS) - sigma**2 / 2, sigma, count))).astype(int)


def requests(rate: float, law: str, count: int = COUNT) -> Trace:
    """Make requests of one prompt token with Poisson arrivals."""
    ones = np.ones(count, np.int32)
    columns = {"arrival_s": poisson(101, count, rate), "prompt_tokens": ones, "output_tokens": lengths(law, count)}
    return build(law, columns)


def batching_instance(request_s: float = REQUEST_S, max_batch: int = 4096) -> Cluster:
    """Build an instance whose iterations take FIXED_S + request_s B."""
    return servers(
        iteration_s=FIXED_S,
        prefill_token_s=request_s,
        decode_request_s=request_s,
        max_batch=max_batch,
        token_budget=LONGEST_TOKENS,
    )


def sample(run: Run) -> tuple[float, float]:
    """Return the sample's own arrival rate and mean length."""
    return sample_rate(run), float(run.jobs["output_tokens"].mean())


@pytest.mark.parametrize("law", ["geometric", "deterministic", "lognormal"])
@pytest.mark.parametrize("rate", [4, 8, 10])
def test_sojourn_is_that_of_processor_sharing_for_any_length_law(rate: float, law: str) -> None:
    run = serve(requests(rate, law), batching_instance())
    arrivals, tokens = sample(run)
    expected = formulas.batching(arrivals, tokens, FIXED_S, REQUEST_S)
    residual = formulas.batching_residual(arrivals, tokens, FIXED_S, REQUEST_S)
    agrees(run.sojourn_s - run.wait_s, expected, bias=DISCRETE * expected)
    agrees(run.wait_s, residual, bias=0.01 * residual)
    agrees(run.sojourn_s, expected + residual, bias=DISCRETE * expected)


def test_every_token_takes_the_formulas_time() -> None:
    """Token-weighted TPOT is the formula over the mean length."""
    run = serve(requests(8, "geometric"), batching_instance())
    rate, tokens = sample(run)
    per_token = (run.sojourn_s - run.wait_s) / tokens
    agrees(per_token, (FIXED_S + REQUEST_S) / (1 - rate * tokens * REQUEST_S), bias=DISCRETE * FIXED_S)


def test_a_cap_on_the_batch_is_a_birth_death_chain() -> None:
    """Only for exponential lengths; a request that finds a place free still waits, at most an iteration."""
    run = serve(requests(5, "geometric", 300_000), batching_instance(max_batch=48))
    rate, tokens = sample(run)
    expected = formulas.capped_batching(rate, tokens, FIXED_S, REQUEST_S, 48)
    agrees(run.sojourn_s, expected, bias=FIXED_S + REQUEST_S * 48)


def test_a_constant_step_shares_nothing() -> None:
    """Without a cost per request an iteration takes FIXED_S: a request's service is its length, to the picosecond."""
    trace = requests(4, "lognormal", 50_000)
    run = serve(trace, batching_instance(request_s=0.0))
    service_ps = run.jobs["finish_ps"] - run.jobs["scheduled_ps"]
    assert (service_ps == run.jobs["output_tokens"].astype(np.int64) * round(FIXED_S * PS)).all()
    agrees(run.wait_s, FIXED_S / 2)
    agrees(run.sojourn_s, float(run.jobs["output_tokens"].mean() + 0.5) * FIXED_S)

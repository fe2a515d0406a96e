"""Prefill and decode apart: the prefill pool as M/D/1, exponential stages as Jackson's tandem, constant ones as Friedman's."""

import numpy as np
import pytest

from replay.cluster import Cluster
from tests.anchors import formulas
from tests.anchors.stations import LONGEST_TOKENS, UNIT_S, Run, agrees, compiled, exponential, poisson, serve, servers
from traces.schema import Trace, build

pytestmark = compiled
COUNT = 400_000
PROMPT_TOKENS = 2000
PREFILL_S = PROMPT_TOKENS * UNIT_S
KV_TOKEN_BYTES = 1000
FAST = 1e15  # bytes per second: a prompt crosses in nanoseconds


def fixed_prompts(rate: float, outputs: int = 2) -> Trace:
    """Make requests of PROMPT_TOKENS with Poisson arrivals."""
    ones = np.ones(COUNT, np.int32)
    lengths = {"prompt_tokens": PROMPT_TOKENS * ones, "output_tokens": outputs * ones}
    return build("fixed", {"arrival_s": poisson(103, COUNT, rate), **lengths})


def split(name: str = "pd_1p1d", **changes: object) -> Cluster:
    """Build a split cluster whose links and decodes take next to nothing; one prompt an iteration fills the budget."""
    given = {"token_budget": PROMPT_TOKENS, "max_batch": 4096, "nic_bytes_per_s": FAST, "kv_token_bytes": KV_TOKEN_BYTES}
    return servers(name=name, **(given | changes))


@pytest.mark.parametrize("batch", ["chunked", "prefill_first"])
@pytest.mark.parametrize("load", [0.5, 0.8])
def test_a_prefill_instance_with_one_prompt_length_is_md1(load, batch):
    rate = load / PREFILL_S
    run = serve(fixed_prompts(rate), split(), {"batch": batch})
    agrees(run.ttft_s, formulas.md1(rate, PREFILL_S))


def test_a_prefill_pool_with_random_routing_is_md1_at_its_share():
    rate = 0.7 / PREFILL_S
    run = serve(fixed_prompts(4 * rate), split("pd_4p4d"), {"route": "random"})
    agrees(run.ttft_s, formulas.md1(rate, PREFILL_S))


def test_faster_prefill_is_md1_at_its_speed():
    """Intra-operator parallelism of speed-up K: D / K + R D^2 / (2 K (K - R D))."""
    speed, rate = 1.6, 0.9 / PREFILL_S
    run = serve(fixed_prompts(rate), split(prefill_token_s=UNIT_S / speed))
    expected = PREFILL_S / speed + rate * PREFILL_S**2 / (2 * speed * (speed - rate * PREFILL_S))
    assert expected == pytest.approx(formulas.md1(rate, PREFILL_S / speed))
    agrees(run.ttft_s, expected)


def decode_s(run: Run) -> np.ndarray:
    """Return first token to finish: link, queue and service of the decode side."""
    return (run.jobs["finish_ps"] - run.jobs["first_token_ps"]) * 1e-12


def test_exponential_stages_are_jacksons_tandem():
    """P -> link -> D with exponential service at P and at D and a link that only delays.

    Departures of M/M/1 are Poisson (Burke), a constant delay leaves them so, and each stage is an M/M/1 of its own.
    The decode service is a geometric number of iterations, whose second moment is that of the exponential less one step.
    """
    rate, step_s, latency_s = 0.7, 1e-3, 3.0
    steps = np.random.default_rng(109).geometric(step_s, COUNT)
    prompts = np.maximum(1, np.rint(exponential(107, COUNT) / UNIT_S))
    columns = {"arrival_s": poisson(107, COUNT, rate), "prompt_tokens": prompts, "output_tokens": steps + 1}
    run = serve(build("tandem", columns), split(
        max_batch=1, token_budget=LONGEST_TOKENS, decode_request_s=step_s, nic_latency_s=latency_s,
    ))  # fmt: skip
    agrees(run.ttft_s, formulas.mm1(rate, 1.0))
    agrees(decode_s(run) - latency_s, formulas.mm1(rate, 1.0), bias=step_s)
    agrees(run.sojourn_s, 2 * formulas.mm1(rate, 1.0) + latency_s, bias=step_s)


@pytest.mark.parametrize("link_s", [0.5 * PREFILL_S, 1.5 * PREFILL_S])
def test_constant_stages_wait_as_at_the_slowest_alone(link_s):
    """Friedman 1965: stages of constant service in a row have the total wait of the slowest as an M/D/1 by itself.

    All of the wait is at P when the link is faster; else P's wait is that of P, and the link's queue is the rest.
    """
    rate, slowest_s = 0.5 / PREFILL_S, max(PREFILL_S, link_s)
    on = split(nic_bytes_per_s=PROMPT_TOKENS * KV_TOKEN_BYTES / link_s)
    run = serve(fixed_prompts(rate), on)
    wait_s = formulas.md1(rate, slowest_s) - slowest_s
    agrees(run.ttft_s, formulas.md1(rate, PREFILL_S))
    agrees(run.sojourn_s, PREFILL_S + link_s + wait_s, bias=1e-6)
    if link_s < PREFILL_S:
        assert decode_s(run) == pytest.approx(np.full(COUNT, link_s), abs=1e-8)

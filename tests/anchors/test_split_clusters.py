"""Prefill and decode apart: a prefill pool as M/D/1, exponential stages as Jackson's tandem, constant ones as one."""

from typing import Any

import numpy as np
import pytest

from replay.cluster import Cluster
from tests.anchors import formulas
from tests.anchors.stations import (
    LONGEST_TOKENS,
    UNIT_S,
    Run,
    agrees,
    compiled,
    exponential,
    offered,
    poisson,
    sample_rate,
    serve,
    servers,
)
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


def split(name: str = "pd_1p1d", **changes: Any) -> Cluster:
    """Build a split cluster whose links and decodes take next to nothing; one prompt an iteration fills the budget."""
    given: dict[str, Any] = {"token_budget": PROMPT_TOKENS, "max_batch": 4096}
    given |= {"nic_bytes_per_s": FAST, "kv_token_bytes": KV_TOKEN_BYTES}
    return servers(name=name, **(given | changes))


@pytest.mark.parametrize("batch", ["chunked", "prefill_first"])
@pytest.mark.parametrize("load", [0.5, 0.8])
def test_a_prefill_instance_with_one_prompt_length_is_md1(load: float, batch: str) -> None:
    rate = load / PREFILL_S
    run = serve(fixed_prompts(rate), split(), {"batch": batch})
    agrees(run.ttft_s, formulas.md1(sample_rate(run), PREFILL_S))


def test_a_prefill_pool_with_random_routing_is_md1_at_its_share() -> None:
    rate = 0.7 / PREFILL_S
    run = serve(fixed_prompts(4 * rate), split("pd_4p4d"), {"route": "random"})
    agrees(run.ttft_s, formulas.md1(sample_rate(run) / 4, PREFILL_S))


def test_faster_prefill_is_md1_at_its_speed() -> None:
    """Intra-operator parallelism of speed-up K: D / K + R D^2 / (2 K (K - R D))."""
    speed, rate = 1.6, 0.9 / PREFILL_S
    run = serve(fixed_prompts(rate), split(prefill_token_s=UNIT_S / speed))
    rate = sample_rate(run)
    expected = PREFILL_S / speed + rate * PREFILL_S**2 / (2 * speed * (speed - rate * PREFILL_S))
    assert expected == pytest.approx(formulas.md1(rate, PREFILL_S / speed))
    agrees(run.ttft_s, expected)


def decode_s(run: Run) -> np.ndarray:
    """Return first token to finish: link, queue and service of the decode side."""
    return (run.jobs["finish_ps"] - run.jobs["first_token_ps"]) * 1e-12


def test_exponential_stages_are_jacksons_tandem() -> None:
    """P -> link -> D with exponential service at P and at D and a link that only delays.

    Departures of M/M/1 are Poisson (Burke), a constant delay leaves them so, and each stage is an M/M/1 of its own.
    The decode service is a geometric number of iterations, whose second moment is the exponential's less one step.
    """
    rate, step_s, latency_s = 0.7, 1e-3, 3.0
    steps = np.random.default_rng(109).geometric(step_s, COUNT)
    prompts = np.maximum(1, np.rint(exponential(107, COUNT) / UNIT_S))
    columns = {"arrival_s": poisson(107, COUNT, rate), "prompt_tokens": prompts, "output_tokens": steps + 1}
    run = serve(build("tandem", columns), split(
        max_batch=1, token_budget=LONGEST_TOKENS, decode_request_s=step_s, nic_latency_s=latency_s,
    ))  # fmt: skip
    rate, prefill_s, _ = offered(run)
    first, second = formulas.mm1(rate, prefill_s), formulas.mm1(rate, float(steps.mean()) * step_s)
    agrees(run.ttft_s, first)
    agrees(decode_s(run) - latency_s, second, bias=3 * step_s)
    agrees(run.sojourn_s, first + second + latency_s, bias=3 * step_s)


@pytest.mark.parametrize("link_s", [0.5 * PREFILL_S, 1.5 * PREFILL_S])
def test_constant_stages_wait_as_at_the_slowest_alone(link_s: float) -> None:
    """Friedman 1965: stages of constant service in a row have the total wait of the slowest as an M/D/1 by itself.

    All of the wait is at P when the link is faster; else P's wait is that of P, and the link's queue is the rest.
    """
    slowest_s = max(PREFILL_S, link_s)
    on = split(nic_bytes_per_s=PROMPT_TOKENS * KV_TOKEN_BYTES / link_s)
    run = serve(fixed_prompts(0.5 / PREFILL_S), on)
    rate = sample_rate(run)
    wait_s = formulas.md1(rate, slowest_s) - slowest_s
    agrees(run.ttft_s, formulas.md1(rate, PREFILL_S))
    agrees(run.sojourn_s, PREFILL_S + link_s + wait_s, bias=1e-6)
    if link_s < PREFILL_S:
        assert decode_s(run) == pytest.approx(np.full(COUNT, link_s), abs=1e-8)

"""Run the engine as plain queues: degenerate clusters, seeded traces, means with their standard errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import pytest

from replay.cluster import Cluster, cluster
from replay.engine import schema
from replay.session import Session
from traces.schema import Trace, build

UNIT_S = 1e-4  # one prompt token is so much service: ten thousand tokens a second
PS = 10**12
TIERS = ("gold", "silver", "bronze")
SLO = {"tiers": {name: {} for name in TIERS}, "default": "gold"}
LONGEST_TOKENS = 2**28

compiled = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="hundreds of thousands of requests: too slow interpreted"
)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished replay.

    state : engine State
    held  : the router holds requests at the cluster until an instance is free
    """

    state: schema.State
    held: bool

    @property
    def jobs(self) -> np.ndarray:
        """JOB rows of every request."""
        return np.asarray(self.state.jobs)

    @property
    def requests(self) -> np.ndarray:
        """REQUEST rows of every request."""
        return np.asarray(self.state.requests)

    @property
    def finished(self) -> np.ndarray:
        """Which requests finished, bool (requests,)."""
        return self.jobs["status"] == schema.FINISHED

    @property
    def wait_s(self) -> np.ndarray:
        """Arrival to first admission into a batch."""
        return (self.jobs["scheduled_ps"] - self.requests["arrival_ps"]) / PS

    @property
    def ttft_s(self) -> np.ndarray:
        """Arrival to first token."""
        return (self.jobs["first_token_ps"] - self.requests["arrival_ps"]) / PS

    @property
    def sojourn_s(self) -> np.ndarray:
        """Arrival to finish."""
        return (self.jobs["finish_ps"] - self.requests["arrival_ps"]) / PS


def poisson(seed: int, count: int, rate: float) -> np.ndarray:
    """Draw arrivals of a Poisson process, (count,) seconds."""
    return np.cumsum(np.random.default_rng((seed, 1)).exponential(1 / rate, count))


def exponential(seed: int, count: int) -> np.ndarray:
    """Draw exponential service times of mean 1, (count,) seconds."""
    return np.random.default_rng((seed, 2)).exponential(1.0, count)


def jobs(arrival_s: np.ndarray, service_s: np.ndarray, tiers: np.ndarray | None = None) -> Trace:
    """Make a trace whose prompts are service times on `servers`: one job, one iteration, one token.

    tiers : codes into TIERS
    """
    prompts = np.maximum(1, np.rint(service_s / UNIT_S)).astype(np.int32)
    columns: dict[str, Any] = {"arrival_s": arrival_s, "prompt_tokens": prompts, "output_tokens": np.ones_like(prompts)}
    if tiers is not None:
        columns["tier"] = np.array(TIERS, dtype=object)[tiers]
    return build("jobs", columns)


def servers(count: int = 1, name: str = "mixed_1", **changes: Any) -> Cluster:
    """Build instances that serve one request at a time, in one iteration of UNIT_S a prompt token.

    changes : keys of the cluster or its hardware, such as iteration_s
    """
    given: dict[str, Any] = {"mixed": count} if name == "mixed_1" else {}
    given |= {"iteration_s": 0.0, "prefill_token_s": UNIT_S, "decode_request_s": 1e-12, "nic_latency_s": 0.0}
    given |= {"max_batch": 1, "token_budget": LONGEST_TOKENS, "prefix_cache": False} | changes
    return cluster(name, **given)


def serve(
    trace: Trace, on: Cluster, policies: Mapping[str, Any] | None = None, seed: int = 0,
    predictions: np.ndarray | None = None,
) -> Run:  # fmt: skip
    """Replay a trace to its end and check Little's law at every station."""
    session = Session(trace, on, policies, slo=SLO, seed=seed, predictions=predictions)
    while not session.advance(10_000_000):
        pass
    run = Run(session.state, held=session.policies["route"].policy.name == "central_queue")
    check_littles_law(run)
    return run


def check_littles_law(run: Run) -> None:
    """Check that each instance's request-seconds, integrated over its counts, are the sum of its requests' times there.

    Both sides are  mean number x duration  and  rate x mean time x duration. A station is the queue and the batch of an
    instance; the way over the network belongs to the decode instance's queue. Requests held at the cluster have been at
    no instance yet: where some were, `waiting_area` lacks their time there and only the batch is compared.
    """
    done, rows = run.finished, run.jobs
    split = rows["prefill_instance"] != rows["decode_instance"]
    split &= rows["decode_instance"] >= 0
    leave_ps = np.where(split, rows["first_token_ps"], rows["finish_ps"])
    again = rows["preemptions"] > 0
    for i, instance in enumerate(run.state.instances):
        here = done & (rows["prefill_instance"] == i)
        came = done & split & (rows["decode_instance"] == i)
        total_s = _seconds(leave_ps - run.requests["arrival_ps"], here)
        total_s += _seconds(rows["finish_ps"] - rows["first_token_ps"], came)
        running_s = _seconds(leave_ps - rows["scheduled_ps"], here)
        waiting_area, running_area = float(instance["waiting_area"]), float(instance["running_area"])
        if not came.any() and not again.any():
            assert running_area == pytest.approx(running_s, rel=1e-6), f"Little's law fails in batch {i}"
        if not run.held:
            area = waiting_area + running_area
            assert area == pytest.approx(total_s, rel=1e-6), f"Little's law fails at instance {i}"


def _seconds(spans_ps: np.ndarray, where: np.ndarray) -> float:
    return float(np.sum(spans_ps[where], dtype=np.float64)) / PS


def batch_means(values: np.ndarray, batches: int = 40, warm_up: float = 0.02) -> tuple[float, float]:
    """Return (mean, standard error) of a correlated sequence, from the scatter of the means of long stretches.

    batches : stretches, each many relaxation times long
    warm_up : share left out at the start, where the system was still filling
    """
    kept = values[int(len(values) * warm_up) :]
    size = len(kept) // batches
    means = kept[: size * batches].reshape(batches, size).mean(axis=1)
    return float(means.mean()), float(means.std(ddof=1) / np.sqrt(batches))


def agrees(values: np.ndarray, expected: float, most_error: float = 0.03, bias: float = 0.0) -> None:
    """Assert that the mean of `values` is `expected` within four standard errors, and that these are small.

    most_error : largest standard error that makes the comparison worth anything, share of `expected`
    bias       : known size of what the formula leaves out, added to the tolerance, same unit as the values
    """
    mean, error = batch_means(values)
    assert error <= most_error * expected, f"standard error {error:.5g} of {expected:.5g}: take more requests"
    assert abs(mean - expected) <= 4 * error + bias, f"{mean:.5g} +- {error:.2g}, but the formula gives {expected:.5g}"


def moments(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the first and second moment of a sample."""
    sample = np.asarray(values, dtype=np.float64)
    return float(sample.mean()), float(np.mean(sample**2))


def sample_rate(run: Run) -> float:
    """Return the sample's own arrival rate."""
    return len(run.jobs) / (run.requests["arrival_ps"][-1] / PS)


def offered(run: Run) -> tuple[float, float, float]:
    """Return the arrival rate and the first and second moment of service [s] that a sample made by `jobs` has.

    A formula at the sample's own moments is free of most of the sample's noise, which at high load is the load's.
    """
    return sample_rate(run), *moments(run.requests["prompt_tokens"] * UNIT_S)

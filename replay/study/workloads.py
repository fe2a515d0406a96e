"""Workloads of equal mean work that differ in one source of variability at a time, from training to inference."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from traces.schema import Trace, build
from traces.synthetic.arrivals import draw_arrivals
from traces.synthetic.lengths import draw

EQUAL = "equal"
# Laws of work of mean 1. The heavy tail is cut at 30 times the mean and stratified, so that a sample has its moments.
WORK: dict[str, dict[str, Any]] = {
    EQUAL: {"law": "constant", "mean": 1.0},
    "exponential": {"law": "exponential", "mean": 1.0},
    "lognormal": {"law": "lognormal", "mean": 1.0, "cv": 1.5},
    "heavy": {"law": "bounded_pareto", "mean": 1.0, "alpha": 1.5, "high": 30.0, "stratified": True},
}


@dataclass(frozen=True)
class Workload:
    """A workload: gaps between arrivals, and work.

    gaps_scv : squared coefficient of variation of gamma gaps; 0 for equal ones
    work     : a name of WORK
    batch    : requests that arrive together, where gaps are equal
    """

    name: str
    gaps_scv: float
    work: str
    batch: int = 1

    def arrivals(self, rate_per_s: float) -> dict[str, Any]:
        """Return the node of the arrivals at a rate."""
        if self.gaps_scv == 0.0:
            return {"law": "batches", "interval_s": self.batch / rate_per_s, "batch": self.batch}
        return {"law": "gamma", "rate_per_s": rate_per_s, "cv": self.gaps_scv**0.5}


def workloads(batch: int) -> tuple[Workload, ...]:
    """Return all workloads, training first, then gaps that spread, work that spreads, and both."""
    return (
        Workload("training", 0.0, EQUAL),
        Workload(f"training, batches of {batch}", 0.0, EQUAL, batch),
        Workload("smooth gaps", 0.25, EQUAL),
        Workload("Poisson gaps", 1.0, EQUAL),
        Workload("bursty gaps", 4.0, EQUAL),
        Workload("exponential work", 0.0, "exponential"),
        Workload("lognormal work", 0.0, "lognormal"),
        Workload("heavy-tailed work", 0.0, "heavy"),
        Workload("Poisson, exponential", 1.0, "exponential"),
        Workload("inference: Poisson, heavy", 1.0, "heavy"),
        Workload("inference: bursty, heavy", 4.0, "heavy"),
    )


@dataclass(frozen=True)
class Size:
    """How many requests a workload has, and their mean lengths; an output of one token stays one token."""

    requests: int
    prompt_tokens: float
    output_tokens: float


def backlog(work: str, size: Size, seed: int) -> Trace:
    """Make the trace of requests that are all there at the start."""
    return _trace(np.zeros(size.requests), work, size, seed)


def workload_trace(workload: Workload, rate_per_s: float, size: Size, seed: int) -> Trace:
    """Make the trace of a workload: one factor of work scales prompt and output of a request alike.

    Workloads of one seed share their draws: the same gaps but for their spread, the same order of work.
    """
    arrivals = draw_arrivals(workload.arrivals(rate_per_s), seed, size.requests)
    return _trace(arrivals, workload.work, size, seed)


def _trace(arrivals_s: np.ndarray, work: str, size: Size, seed: int) -> Trace:
    factors = draw(WORK[work], seed, "work", size.requests)
    columns: Mapping[str, Any] = {
        "arrival_s": arrivals_s,
        "prompt_tokens": _tokens(size.prompt_tokens, factors),
        "output_tokens": _tokens(size.output_tokens, factors if size.output_tokens > 1 else np.ones(len(factors))),
    }
    return build(work, columns)


def _tokens(mean: float, factors: np.ndarray) -> np.ndarray:
    return np.maximum(1, np.rint(mean * factors)).astype(np.int32)

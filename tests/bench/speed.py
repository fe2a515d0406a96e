"""Measure the event loop: requests per second on one core, without and with prefix cache, and what leaping gains.

python -m tests.bench.speed [--requests 1000000] [--runs 3]
"""

import argparse
import sys
from typing import Any

from replay.cluster import Cluster, cluster
from replay.session import Session
from tests.bench.common import LINEAR, OUTPUTS, PROMPTS, Timing, gate, kernel_times, load, machine, median, table
from traces.schema import Trace
from traces.synthetic.make import make

RATES_PER_S = (60, 120, 180)
SHARED = {
    "arrivals": {"law": "poisson", "rate_per_s": 20.0},
    "turns": {"law": "geometric", "mean": 4},
    "user_tokens": {"law": "lognormal", "mean": 120, "cv": 1.2, "max": 32768},
    "output_tokens": {"law": "lognormal", "mean": 200, "cv": 1.0, "max": 8192},
    "think_s": {"law": "exponential", "mean": 20.0},
    "system": {"prompts": 64, "zipf": 1.0, "tokens": {"law": "lognormal", "mean": 1200, "cv": 0.5, "max": 16384}},
    "branching": 0.1,
    "answer_token_s": 0.02,
    "block_tokens": 16,
    "max_prompt_tokens": 32768,
}
HEADINGS = ("workload", "cluster", "route", "leap", "requests/s (CPU)", "requests/s (wall)", "events/request", "load")
ONE_TIER = "none"


class Bench:
    """Rows of the table, and the CPU times that the gates compare."""

    def __init__(self, runs: int) -> None:
        self.runs, self.rows, self.cpu_s = runs, list[list[str]](), dict[tuple[str, str, str, bool], float]()

    def measure(self, label: str, trace: Trace, where: Cluster, route: str, leap: bool = True) -> None:
        """Time one replay, print its row at once and keep it."""
        timings = kernel_times(lambda: Session(trace, where, {"route": route}, slo=ONE_TIER, leap=leap), self.runs)
        self.cpu_s[label, where.name, route, leap] = median([timing.cpu_s for timing in timings])
        self.rows.append(_row((label, where.name, route, "yes" if leap else "no"), len(trace), timings))
        print(table(HEADINGS, self.rows).splitlines()[-1], flush=True)

    def leap_gain(self, label: str, name: str, route: str) -> float:
        """Return how many times faster the replay is with leaping."""
        return self.cpu_s[label, name, route, False] / self.cpu_s[label, name, route, True]


def main() -> int:
    """Print the table of speeds and check the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    print(f"{machine()}; {asked.requests} requests, median of {asked.runs} runs\n")
    print(table(HEADINGS, []), flush=True)
    bench = Bench(asked.runs)
    labels = [_uncached(bench, rate_per_s, asked.requests) for rate_per_s in RATES_PER_S]
    cached = _cached(bench, asked.requests)
    print()
    passed = True
    for label in labels:
        gain = bench.leap_gain(label, "mixed_16", "least_loaded")
        passed &= gate(f"leaping is at least as fast as stepping, {label}: {gain:.2f} times", gain >= 1.0)
    gain = bench.leap_gain(cached, "mixed_16", "least_loaded")
    passed &= gate(f"leaping is at least as fast as stepping, {cached}: {gain:.2f} times", gain >= 1.0)
    return 0 if passed else 1


def _uncached(bench: Bench, rate_per_s: int, requests: int) -> str:
    """Measure unrelated requests at one rate; returns the label of the workload."""
    trace = make("poisson", requests, 0, rate_per_s=rate_per_s, prompt_tokens=PROMPTS, output_tokens=OUTPUTS)
    mixed = cluster("mixed_16", hardware=LINEAR, prefix_cache=False)
    label = f"poisson {rate_per_s}/s"
    for route in ("least_loaded", "round_robin"):
        bench.measure(label, trace, mixed, route)
    bench.measure(label, trace, mixed, "least_loaded", leap=False)
    bench.measure(label, trace, cluster("pd_8p8d", hardware=LINEAR, prefix_cache=False), "least_loaded")
    return label


def _cached(bench: Bench, requests: int) -> str:
    """Measure sessions that share prefixes; returns the label of the workload."""
    trace = make("shared_prefix", requests, 0, **SHARED)
    blocks = int(trace.prefix()[0][-1]) / len(trace)
    label = f"shared_prefix, {blocks:.0f} blocks"
    settings: dict[str, Any] = {"hardware": LINEAR, "block_tokens": 16, "kv_blocks": 40_000}
    mixed = cluster("mixed_16", **settings)
    for route in ("least_loaded", "kv_locality"):
        bench.measure(label, trace, mixed, route)
    bench.measure(label, trace, mixed, "least_loaded", leap=False)
    bench.measure(label, trace, cluster("pd_8p8d", **settings), "kv_locality")
    return label


def _row(what: tuple[str, ...], requests: int, timings: list[Timing]) -> list[str]:
    cpu_s = median([timing.cpu_s for timing in timings])
    wall_s = median([timing.wall_s for timing in timings])
    events = timings[0].events / requests
    return [*what, f"{requests / cpu_s / 1e6:.2f} M", f"{requests / wall_s / 1e6:.2f} M", f"{events:.2f}", load()[13:]]


if __name__ == "__main__":
    sys.exit(main())

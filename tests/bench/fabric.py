"""Measure what a fabric costs: FIFO links against cards of the senders' own, and max-min shares of many flows.

python -m tests.bench.fabric [--requests 300000] [--runs 3]
"""

import argparse
import sys
from typing import Any

from replay.cluster import Cluster, cluster
from replay.session import Session
from tests.bench.common import LINEAR, OUTPUTS, PROMPTS, gate, kernel_times, machine, median, table
from tests.bench.speed import ONE_TIER
from traces.schema import Trace
from traces.synthetic.make import make

KV_TOKEN_BYTES, RATE_PER_S = 131_072, 180.0
MOST_RATIO, LEAST_PER_S, LEAST_FLOWS = 1.5, 30_000, 100.0
HEADINGS = ("cluster", "fabric", "requests/s (CPU)", "events/request", "links", "flows at once", "handoff s")
# one link a card, sprayed over the spines; cards slow enough for hundreds of flows at once
MANY: dict[str, Any] = {"base": "pcie_gdr", "balance": "spray", "nodes_per_leaf": 8}


def main() -> int:
    """Print the table and check the aims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300_000)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    print(f"{machine()}; {asked.requests} requests, median of {asked.runs} runs\n")
    trace = make("poisson", asked.requests, 0, rate_per_s=RATE_PER_S, prompt_tokens=PROMPTS, output_tokens=OUTPUTS)
    rows, seconds = [], {}
    fabrics: dict[str, Any] = {"none": "none", "fifo": {**MANY, "sharing": "fifo"}, "fair": {**MANY, "sharing": "fair"}}
    fabrics["fifo, 8 rails, ECMP"] = {**MANY, "sharing": "fifo", "balance": "ecmp"}
    for label, fabric in fabrics.items():
        where = cluster("pd_8p8d", hardware=hardware(50e9), fabric=fabric, prefix_cache=False)
        row, seconds[label], _ = measure(f"8P + 8D, {RATE_PER_S:.0f}/s", label, trace, where, asked.runs)
        rows.append(row)
        print(table(HEADINGS, rows).splitlines()[-1], flush=True)
    busy = make("poisson", asked.requests, 0, rate_per_s=4 * RATE_PER_S, prompt_tokens=PROMPTS, output_tokens=OUTPUTS)
    where = cluster("pd_8p8d", prefill=32, decode=32, hardware=hardware(4.2e9), prefix_cache=False,
                    fabric={**MANY, "sharing": "fair"})  # fmt: skip
    row, took_s, flows = measure(f"32P + 32D, {4 * RATE_PER_S:.0f}/s", "fair", busy, where, asked.runs)
    print(table(HEADINGS, [row]).splitlines()[-1], flush=True)
    ratio, speed = seconds["fifo"] / seconds["none"], asked.requests / took_s
    print()
    passed = gate(f"FIFO links cost {ratio:.2f} times the fixed handoff (at most {MOST_RATIO})", ratio <= MOST_RATIO)
    passed &= gate(f"fair, 64 nodes, {flows:.0f} flows at once on average: {speed:,.0f} requests/s",
                   speed >= LEAST_PER_S and flows >= LEAST_FLOWS)  # fmt: skip
    return 0 if passed else 1


def hardware(nic_bytes_per_s: float) -> dict[str, Any]:
    """Return instances of 8 GPUs whose cards carry so many bytes a second."""
    return {**LINEAR, "gpus": 8, "kv_token_bytes": KV_TOKEN_BYTES, "nic_bytes_per_s": nic_bytes_per_s}


def measure(name: str, label: str, trace: Trace, where: Cluster, runs: int) -> tuple[list[str], float, float]:
    """Time one fabric; returns its row, its seconds, and its flows at once on average."""
    made: list[Session] = []

    def session() -> Session:
        made[:] = [Session(trace, where, {"route": "least_loaded"}, slo=ONE_TIER)]
        return made[0]

    timings = kernel_times(session, runs)
    took_s = median([timing.cpu_s for timing in timings])
    wires, links = made[0].state.wires, len(where.fabric.links) if where.fabric else 0
    kind, delivered = wires.kinds[0], max(1, int(wires.kinds["delivered"][0]))
    flows = float(wires.kinds["time_ps"].sum() * 1e-12 / made[0].now_s) if links else 0.0  # Little's law
    took = f"{kind['time_ps'] * 1e-12 / delivered:.4f}" if links else ""
    events = f"{timings[0].events / len(trace):.2f}"
    return [name, label, f"{len(trace) / took_s / 1e6:.3f} M", events, str(links), f"{flows:.1f}", took], took_s, flows


if __name__ == "__main__":
    sys.exit(main())

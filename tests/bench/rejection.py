"""What early rejection does to the loads of prefill and decode: swings, who follows whom, what is met.

python -m tests.bench.rejection [--requests 6000]

Eight prefill and two decode instances, half as many places in the decode batches as requests want, prompts that take
as long to prefill as an answer takes to decode: what is admitted now decodes ten seconds later.
source : Mooncake (Qin et al., FAST 2025), section on overload: load of the two pools out of phase, damped by prediction
"""

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np

from replay import replay
from replay.cluster import cluster
from traces.synthetic import make

SLO = {"tiers": {"all": {"ttft_s": 30.0, "tpot_s": 0.1}}, "default": "all", "unlisted": "default"}
POLICIES: dict[str, dict[str, Any]] = {
    "take all": {},
    "after prefill": {"decode": "refuse_overload"},
    "early": {"admit": "early_rejection"},
    "early, predicted": {"admit": {"name": "early_rejection_predicted", "decode_s": 4.0}},
}
STEP_S, LAG_S = 0.5, 10.0


@dataclass(frozen=True)
class Swings:
    """How the numbers of requests in prefill and in decode behave over time.

    prefill, decode : mean and standard deviation
    at_once, later  : correlation of the two at the same time, and of prefill with decode LAG_S later
    """

    finished: int
    met: float
    wasted_share: float  # of the prompt tokens computed, those of requests rejected afterwards
    prefill: tuple[float, float]
    decode: tuple[float, float]
    at_once: float
    later: float


def swings(policies: dict[str, Any], requests: int) -> Swings:
    """Replay the overloaded cluster under admission policies."""
    lengths: dict[str, Any] = {"prompt_tokens": {"law": "lognormal", "mean": 16_000.0, "cv": 1.0},
                               "output_tokens": {"law": "exponential", "mean": 300.0}}  # fmt: skip
    trace = make("poisson", requests=requests, seed=1, rate_per_s=4.0, **lengths)
    where = cluster("pd_8p8d", hardware="mooncake_a800", model="llama3_70b", prefill=8, decode=2, max_batch=16)
    done = replay(trace, where, policies, slo=SLO)
    rows, arrival = done.requests, done.requests["arrival_s"].to_numpy()
    first, last = (arrival + rows[name].to_numpy() for name in ("ttft_s", "e2e_s"))
    served = ~np.isnan(last)
    times = np.arange(arrival[len(arrival) // 10], arrival[-1], STEP_S)
    in_prefill, in_decode = open_at(times, arrival[served], first[served]), open_at(times, first[served], last[served])
    lag = round(LAG_S / STEP_S)
    computed = ~np.isnan(first)
    prompts = rows["prompt_tokens"].to_numpy()
    return Swings(
        finished=int(served.sum()),
        met=float(done.summary["slo_attainment"] or 0.0),
        wasted_share=float(prompts[computed & ~served].sum() / prompts[computed].sum()),
        prefill=(float(in_prefill.mean()), float(in_prefill.std())),
        decode=(float(in_decode.mean()), float(in_decode.std())),
        at_once=float(np.corrcoef(in_prefill, in_decode)[0, 1]),
        later=float(np.corrcoef(in_prefill[:-lag], in_decode[lag:])[0, 1]),
    )


def open_at(times: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return how many spans are open at each time."""
    return np.searchsorted(np.sort(begin), times, "right") - np.searchsorted(np.sort(end), times, "right")


def main() -> None:
    """Print a line for each way to admit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=6000)
    asked = parser.parse_args()
    print("admission           finished   met  wasted   in prefill    in decode   at once   10 s later")
    for name, policies in POLICIES.items():
        found = swings(policies, asked.requests)
        print(f"{name:18} {found.finished:9} {found.met:6.3f} {found.wasted_share:6.3f}  "
              f"{found.prefill[0]:5.1f} +- {found.prefill[1]:5.1f} {found.decode[0]:5.1f} +- {found.decode[1]:4.1f}  "
              f"{found.at_once:8.2f} {found.later:8.2f}")


if __name__ == "__main__":
    main()

"""What the host adds to the kernels of a GPU: two numbers for each serving engine, fitted once over measured runs.

An iteration waits for scheduling, sampling and launches that are not hidden behind the GPU, and each decoding request
adds its bookkeeping. Beside these, one number for all engines: each request's first token passes the front end, HTTP
and text to tokens and back, which is no part of an iteration.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

PUBLISHED, OTHER = "published", "other"  # run by published launch scripts, which schedule ahead, or not known how
FIT, HELD_OUT = "fit", "held out"
ITERATIONS_S = np.arange(0.0, 4.01e-3, 2.0e-4)
REQUESTS_S = np.arange(0.0, 8.01e-5, 4.0e-6)
FRONTS_S = np.arange(0.0, 0.301, 2.0e-3)


@dataclass(frozen=True)
class Host:
    """Seconds that the host adds: once an iteration, and for each decoding request of it."""

    iteration_s: float
    request_s: float


NONE = Host(0.0, 0.0)
# source : `fitted` over the half "fit" of the points that shared measurements hold, vLLM's kernels for every engine
HOSTS = {
    ("vllm", PUBLISHED): Host(1.2e-3, 0.0),
    ("sglang", PUBLISHED): Host(0.0, 0.0),
    ("trtllm", PUBLISHED): Host(0.0, 4.0e-6),
    ("vllm", OTHER): Host(2.0e-3, 2.4e-5),
    ("sglang", OTHER): Host(8.0e-4, 2.0e-5),
    ("trtllm", OTHER): Host(6.0e-4, 8.0e-6),
}
USUAL = Host(1.2e-3, 0.0)
FRONT_S = 0.034  # source : `fitted_front_s` over the same half


def host_of(backend: str, launch: str = PUBLISHED) -> Host:
    """Return what was fitted for an engine; for an engine without runs, what vLLM's host adds."""
    return HOSTS.get((backend, launch), USUAL)


def fitted(frame: pl.DataFrame) -> dict[tuple[str, str], Host]:
    """Fit the two numbers of each engine and kind of launch on the half of the points for that.

    frame   : predicted points of `replay.fidelity.silicon.validate(..., host=NONE)`
    returns : (engine, launch) -> the host with the least median error of TPOT, were each token that much later; only
              instances that prefill and decode count
    """
    found = {}
    for (backend, launch), rows in _points(frame).group_by("backend", "launch", maintain_order=True):
        real_s, predicted_s, batch = (rows[name].to_numpy() for name in ("tpot_s", "tpot_predicted_s", "batch"))
        iteration_s, request_s = min(((a, b) for a in ITERATIONS_S for b in REQUESTS_S), key=lambda host: float(
            np.median(np.abs((predicted_s + host[0] + host[1] * batch) / real_s - 1))))  # fmt: skip
        found[(str(backend), str(launch))] = Host(round(float(iteration_s), 7), round(float(request_s), 9))
    return found


def fitted_front_s(frame: pl.DataFrame, models: Sequence[str]) -> float:
    """Fit the time of the front end on the same half, over some models: the one with the least median error of TTFT.

    frame : as for `fitted`, with front_s=0
    """
    rows = _points(frame).filter(pl.col("model").is_in(list(models)))
    real_s, predicted_s = rows["ttft_s"].to_numpy(), rows["ttft_predicted_s"].to_numpy()
    return float(min(FRONTS_S, key=lambda front_s: float(np.median(np.abs((predicted_s + front_s) / real_s - 1)))))


def _points(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col("reason").is_null() & (pl.col("split") == FIT) & (pl.col("mode") == "agg"))

"""What the host adds to the kernels of a GPU: three numbers for each serving engine, fitted once over measured runs.

An iteration waits for scheduling, sampling and launches that are not hidden behind the GPU; each decoding request adds
its bookkeeping; each request's first token passes the front end: HTTP, tokens from text, and back.
"""

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
    """Seconds that the host adds: once an iteration, for each decoding request of it, and once a request."""

    iteration_s: float
    request_s: float
    front_s: float = 0.0


NONE = Host(0.0, 0.0)
# source : `fitted` over the half "fit" of the points that shared measurements hold, vLLM's kernels for every engine
HOSTS = {
    ("vllm", PUBLISHED): Host(1.0e-3, 8.0e-6),
    ("sglang", PUBLISHED): Host(2.0e-4, 1.6e-5),
    ("trtllm", PUBLISHED): Host(0.0, 4.0e-6),
    ("vllm", OTHER): Host(2.0e-3, 2.8e-5),
    ("sglang", OTHER): Host(8.0e-4, 2.0e-5),
    ("trtllm", OTHER): Host(6.0e-4, 8.0e-6),
}
USUAL = Host(1.0e-3, 8.0e-6)


def host_of(backend: str, launch: str = PUBLISHED) -> Host:
    """Return what was fitted for an engine; for an engine without runs, what vLLM's host adds."""
    return HOSTS.get((backend, launch), USUAL)


def fitted(frame: pl.DataFrame) -> dict[tuple[str, str], Host]:
    """Fit the three numbers of each engine and kind of launch on the half of the points for that.

    frame   : predicted points of `replay.fidelity.silicon.validate(..., host=NONE)`
    returns : (engine, launch) -> the host with the least median error of TPOT, were each token that much later, and
              then of TTFT; only instances that prefill and decode count
    """
    found = {}
    points = frame.filter(pl.col("reason").is_null() & (pl.col("split") == FIT) & (pl.col("mode") == "agg"))
    for (backend, launch), rows in points.group_by("backend", "launch", maintain_order=True):
        tpot_s, predicted_s = rows["tpot_s"].to_numpy(), rows["tpot_predicted_s"].to_numpy()
        batch = rows["batch"].to_numpy()
        iteration_s, request_s = min(((a, b) for a in ITERATIONS_S for b in REQUESTS_S), key=lambda host: float(
            np.median(np.abs((predicted_s + host[0] + host[1] * batch) / tpot_s - 1))))  # fmt: skip
        ttft_s, first_s = rows["ttft_s"].to_numpy(), rows["ttft_predicted_s"].to_numpy() + iteration_s
        off = [float(np.median(np.abs((first_s + front_s) / ttft_s - 1))) for front_s in FRONTS_S]
        found[(str(backend), str(launch))] = Host(round(float(iteration_s), 7), round(float(request_s), 9),
                                                  round(float(FRONTS_S[int(np.argmin(off))]), 4))  # fmt: skip
    return found

"""What the host adds to the kernels of a GPU: two numbers for each serving engine, fitted once over measured runs.

An iteration waits for scheduling, sampling and launches that are not hidden behind the GPU, and each decoding request
adds its bookkeeping. Before an engine sees a request it passes the front end, HTTP and text to tokens and back, which
is no part of an iteration; its mean time belongs to the machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

PUBLISHED, OTHER = "published", "other"  # run by published launch scripts, which schedule ahead, or not known how
FIT, HELD_OUT = "fit", "held out"
ITERATIONS_S = np.arange(0.0, 4.01e-3, 2.0e-4)
REQUESTS_S = np.arange(0.0, 8.01e-5, 4.0e-6)
FRONTS_TRIED_S = (0.0, 5e-3, 1e-2, 2e-2, 3e-2, 5e-2, 8e-2)


@dataclass(frozen=True)
class Host:
    """Seconds that the host adds: once an iteration, and for each decoding request of it."""

    iteration_s: float
    request_s: float


NONE = Host(0.0, 0.0)
# source : `fitted` over the half "fit" of the points that shared measurements hold, vLLM's kernels for every engine
HOSTS = {
    ("vllm", PUBLISHED): Host(1.0e-3, 8.0e-6),
    ("sglang", PUBLISHED): Host(0.0, 0.0),
    ("trtllm", PUBLISHED): Host(0.0, 4.0e-6),
    ("vllm", OTHER): Host(8.0e-4, 5.6e-5),
    ("sglang", OTHER): Host(8.0e-4, 2.0e-5),
    ("trtllm", OTHER): Host(4.0e-4, 1.2e-5),
}
USUAL = Host(1.0e-3, 8.0e-6)
# source : `fitted_fronts_s` over the dense models of the same half: by the machine that an engine runs on, GPU and kind
# of launch, with which that half is told better (18.1 %) than by engine and launch (22.1 %), and as by all three (18.0)
FRONTS_S = {
    ("b200_sxm", PUBLISHED): 3e-2,
    ("h100_sxm", PUBLISHED): 0.0,
    ("h200_sxm", PUBLISHED): 0.0,
    ("h100_sxm", OTHER): 5e-2,
    ("h200_sxm", OTHER): 1e-2,
}
USUAL_FRONT_S = 1e-2  # the middle one


def host_of(backend: str, launch: str = PUBLISHED) -> Host:
    """Return what was fitted for an engine; for an engine without runs, what vLLM's host adds."""
    return HOSTS.get((backend, launch), USUAL)


def front_of(gpu: str, launch: str = PUBLISHED) -> float:
    """Return the mean time in the front end on a machine [s]; on one without dense runs the usual one."""
    return FRONTS_S.get((gpu, launch), USUAL_FRONT_S)


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


def fitted_fronts_s(frames: Mapping[float, pl.DataFrame], models: Sequence[str]) -> dict[tuple[str, str], float]:
    """Fit the mean time in the front end of each GPU and kind of launch on the same half, over some models.

    frames  : front_s -> predicted points of `replay.fidelity.silicon.validate(..., front_s=front_s)`
    returns : (gpu, launch) -> the one of these with the least median error of TTFT; the shortest of equal ones
    """
    errors = pl.concat([_points(frame).filter(pl.col("model").is_in(list(models))).group_by("gpu", "launch").agg(
        error=pl.col("ttft_error").abs().median(), front_s=pl.lit(front_s)) for front_s, frame in frames.items()])
    best = errors.sort("error", "front_s").group_by("gpu", "launch", maintain_order=True).first()
    return {(row["gpu"], row["launch"]): row["front_s"] for row in best.sort("gpu", "launch").to_dicts()}


def _points(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col("reason").is_null() & (pl.col("split") == FIT) & (pl.col("mode") == "agg"))

"""Predict one measured point: replay its closed loop on instances with built profiles.

`concurrency` clients each send TURNS requests, the next as soon as the last is answered, all beginning at once, as
benchmark clients do. No prefix is shared. Batching is that of the serving engine: vLLM and TensorRT-LLM mix chunks of
prompts with decodes, SGLang lets whole prompts go first.
"""

from collections.abc import Callable

import numpy as np
import polars as pl

from replay.cluster import Cluster, Instance
from replay.errors import ConfigError
from replay.fidelity.asked import Asked
from replay.fidelity.silicon_points import Point
from replay.hardware.profile import Profile
from replay.session import replay
from traces.params import stream
from traces.schema import Trace
from traces.schema import build as build_trace

TURNS = 10  # source : InferenceMAX README: ten prompts for each client
BLOCK_TOKENS = 16
BATCHES = {"vllm": "chunked", "trtllm": "chunked", "sglang": "prefill_first"}


def predict(point: Point, profile_of: Callable[[Asked], Profile], seed: int = 0) -> tuple[float, float]:
    """Replay a point.

    returns : mean TTFT and mean TPOT over the requests that count [s]
    raises  : ConfigError as `replayed`
    """
    done = replayed(point, profile_of, seed)[point.warm_up * point.concurrency :]
    return float(done["ttft_s"].mean()), float(done["tpot_s"].mean())  # type: ignore[arg-type]


def replayed(point: Point, profile_of: Callable[[Asked], Profile], seed: int = 0) -> pl.DataFrame:
    """Replay a point, and return its requests as a result has them, turn by turn.

    profile_of : asked instance -> its profile
    raises     : ConfigError for an instance without a profile, or a request that no instance can hold
    """
    instances = _instances(point, profile_of)
    trace = closed_loop(point, seed)
    cluster = Cluster(
        name=point.id,
        instances=tuple(instances),
        block_tokens=BLOCK_TOKENS,
        layerwise=False,
        layers=1,
        prefix_cache=False,
        gpus=sum(instance.profile.gpus for instance in instances),
    )
    rows = replay(trace, cluster, {"batch": BATCHES.get(point.backend, "chunked")}, seed=seed).requests
    if not (rows["status"] == "finished").all():
        raise ConfigError("the memory left beside the weights cannot hold one of its requests")
    return rows


def closed_loop(point: Point, seed: int) -> Trace:
    """Make the trace of a point: TURNS turns of each client, turn by turn.

    returns : concurrency x TURNS requests; each but a client's first has the one before as its parent
    """
    draws = stream(seed, point.id)
    count = point.concurrency * TURNS
    rows = np.arange(count)
    return build_trace(point.id, {
        "arrival_s": np.zeros(count),
        "prompt_tokens": _lengths(draws, point.prompt_tokens, point.shortest, count),
        "output_tokens": _lengths(draws, point.output_tokens, point.shortest, count),
        "parent": np.where(rows < point.concurrency, -1, rows - point.concurrency),
        "think_s": np.zeros(count),
    }, None)  # fmt: skip


def _lengths(draws: np.random.Generator, tokens: int, shortest: float, count: int) -> np.ndarray:
    return draws.integers(max(1, int(tokens * shortest)), tokens, size=count, endpoint=True, dtype=np.int32)


def _instances(point: Point, profile_of: Callable[[Asked], Profile]) -> list[Instance]:
    made: list[Instance] = []
    roles = [("mixed", point.prefill)] if point.decode is None else [("prefill", point.prefill),
                                                                     ("decode", point.decode)]  # fmt: skip
    for role, (asked, number_of) in roles:
        profile = profile_of(asked)
        made += [Instance(
            role=role,
            profile=profile,
            max_batch=max(1, point.concurrency),
            token_budget=max(point.token_budget * asked.ep, point.prompt_tokens),
            block_tokens=BLOCK_TOKENS,
            kv_blocks=int(profile.kv_capacity_tokens or 0) // BLOCK_TOKENS,
            nic_bytes_per_s=profile.nic_bytes_per_s,
            nic_latency_s=profile.nic_latency_s,
        )] * number_of  # fmt: skip
    return made

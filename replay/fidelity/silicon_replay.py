"""Predict one measured point: replay its closed loop on instances with built profiles.

`concurrency` clients each send some requests to warm up and TURNS that count, the next as soon as the last is answered,
all beginning at once, as benchmark clients do. No prefix is shared. A request passes a front end (HTTP, text to tokens
and back) before the engine sees it; how long that takes is drawn, exponential, so that clients do not keep in step.
Batching is that of the serving engine: vLLM and TensorRT-LLM mix prompts with decodes, in chunks or, as AIConfigurator
launches the latter, whole; SGLang lets whole prompts go first.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from replay.cluster import Cluster, Instance
from replay.errors import ConfigError
from replay.fidelity.asked import Asked
from replay.fidelity.hosts import OTHER
from replay.fidelity.silicon_points import Point
from replay.hardware.profile import Profile
from replay.session import replay
from traces.params import stream
from traces.schema import Trace
from traces.schema import build as build_trace

TURNS = 10  # source : InferenceMAX README: ten prompts for each client
BLOCK_TOKENS = 16
BATCHES = {"vllm": "chunked", "trtllm": "chunked", "sglang": "prefill_first"}
WHOLE = ("trtllm", OTHER), {"name": "splitwise", "most_tokens": 65536}  # whole prompts beside every decode


def predict(point: Point, profile_of: Callable[[Asked], Profile], seed: int = 0, front_s: float = 0.0
            ) -> tuple[float, float]:  # fmt: skip
    """Replay a point.

    front_s : mean time in the front end, part of TTFT
    returns : mean TTFT and mean TPOT over the requests that count [s]
    raises  : ConfigError as `replayed`
    """
    done = replayed(point, profile_of, seed, front_s)[point.warm_up * point.concurrency :]
    return float(done["ttft_s"].mean()), float(done["tpot_s"].mean())  # type: ignore[arg-type]


def replayed(point: Point, profile_of: Callable[[Asked], Profile], seed: int = 0, front_s: float = 0.0
             ) -> pl.DataFrame:  # fmt: skip
    """Replay a point, and return its requests as a result has them, turn by turn; TTFT with the front end.

    profile_of : asked instance -> its profile
    raises     : ConfigError for an instance without a profile, or a request that no instance can hold
    """
    instances = _instances(point, profile_of)
    trace, fronts_s = closed_loop(point, seed, front_s)
    cluster = Cluster(
        name=point.id,
        instances=tuple(instances),
        block_tokens=BLOCK_TOKENS,
        layerwise=False,
        layers=1,
        prefix_cache=False,
        gpus=sum(instance.profile.gpus for instance in instances),
        plan_ahead=point.plan_ahead,
    )
    batch: Any = WHOLE[1] if (point.backend, point.launch) == WHOLE[0] else BATCHES.get(point.backend, "chunked")
    rows = replay(trace, cluster, {"batch": batch}, seed=seed).requests
    if not (rows["status"] == "finished").all():
        raise ConfigError("the memory left beside the weights cannot hold one of its requests")
    return rows.with_columns(pl.col("ttft_s") + fronts_s)


def closed_loop(point: Point, seed: int, front_s: float = 0.0) -> tuple[Trace, pl.Series]:
    """Make the trace of a point as its engine sees it: the turns of each client, turn by turn.

    front_s : mean time between an answer's last token, or the start, and the arrival of the client's next request
    returns : concurrency x (turns to warm up and TURNS) requests, each but a client's first with the one before as its
              parent; the time that each was in the front end [s]
    """
    draws = stream(seed, point.id)
    clients = point.concurrency
    count = clients * (point.warm_up + TURNS)
    rows = np.arange(count)
    prompts, outputs = (_lengths(draws, tokens, point.shortest, count) for tokens in (point.prompt_tokens,
                                                                                     point.output_tokens))  # fmt: skip
    fronts_s = draws.exponential(front_s, count)
    fronts_s[:clients].sort()  # arrivals of a trace rise
    first = rows < clients
    return build_trace(point.id, {
        "arrival_s": np.where(first, fronts_s, fronts_s[clients - 1]),
        "prompt_tokens": prompts,
        "output_tokens": outputs,
        "parent": np.where(first, -1, rows - clients),
        "think_s": np.where(first, 0.0, fronts_s),
    }, None), pl.Series("front_s", fronts_s)  # fmt: skip


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

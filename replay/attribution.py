"""Which share of a cluster's cost is that of its input tokens: what its prefill instances, and prefills, take of it."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from replay.hardware import Profile, iteration_ps
from replay.metrics import SCHEDULED

if TYPE_CHECKING:
    from replay.cluster import Cluster

UNKNOWN_SHARE = 0.5  # where nothing ever ran


def input_share(cluster: "Cluster", instances: np.ndarray, requests: pl.DataFrame,
                on: np.ndarray | None = None) -> float:
    """Return the share of the cost that input tokens caused; the rest is that of output tokens.

    A prefill instance's cost is all input, a decode instance's all output, idle time included. That of a mixed one is
    split as its busy time: input is what the prompt tokens it computed would take alone in iterations filled to its
    token budget, output the rest. So an iteration that carries few prompt tokens beside its decodes counts, but for
    these, as one of decoding: input is charged the least that its tokens can cost. A mixed instance that never ran
    shares as the others do. Instances weigh by their price, by their GPUs where there is none, times the time that
    they were paid.

    instances : INSTANCE rows (instances,), read only
    requests  : one row a request
    on        : share of the span that each instance was paid, None for all of it
    returns   : 0 to 1
    """
    roles = np.array([instance.role for instance in cluster.instances])
    weights = np.array([instance.profile.price_per_hour for instance in cluster.instances])
    if not weights.any():
        weights = np.array([float(instance.profile.gpus) for instance in cluster.instances])
    weights = weights if on is None else weights * on
    shares = np.where(roles == "prefill", 1.0, 0.0)
    busy_ps = instances["busy_ps"].astype(np.float64)
    mixed = roles == "mixed"
    if mixed.any():
        alone_ps = _prefill_alone_ps(cluster, instances["prefill_done_tokens"], _pairs(requests, len(roles)))
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(mixed, np.minimum(1.0, alone_ps / busy_ps), shares)
    known = ~mixed | (busy_ps > 0)
    charged = float(weights[known].sum())
    return float((weights * shares)[known].sum()) / charged if charged else UNKNOWN_SHARE


def _prefill_alone_ps(cluster: "Cluster", tokens: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return what the prompt tokens of each instance take in iterations that are filled with nothing else."""
    kinds: dict[tuple[int, int], tuple[float, float]] = {}
    token_ps, pair_ps = np.empty(len(tokens)), np.empty(len(tokens))
    for i, instance in enumerate(cluster.instances):
        kind = (id(instance.profile), instance.token_budget)
        if kind not in kinds:
            kinds[kind] = _coefficients(instance.profile, instance.token_budget)
        token_ps[i], pair_ps[i] = kinds[kind]
    return token_ps * tokens + pair_ps * pairs


def _coefficients(profile: Profile, token_budget: int) -> tuple[float, float]:
    return iteration_ps(profile, token_budget, 0, 0, 0) / token_budget, profile.prefill_token_sq_fs / 1000


def _pairs(requests: pl.DataFrame, count: int) -> np.ndarray:
    """Return the sum of prompt^2 - hit^2 over the prompts that each instance computed, float64 (instances,).

    A prompt that was computed twice, after a preemption, counts once.
    """
    named = requests.select("prompt_tokens", "hit_tokens", "prefill_instance", "scheduled_ps")
    ran = named.filter(SCHEDULED & pl.col("prefill_instance").is_not_null())
    prompt, hit = (ran[name].to_numpy().astype(np.float64) for name in ("prompt_tokens", "hit_tokens"))
    return np.bincount(ran["prefill_instance"].to_numpy(), prompt * prompt - hit * hit, minlength=count)[:count]

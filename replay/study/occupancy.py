"""What requests occupied over time, from their rows: places in batches and KV memory of all instances together."""

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from replay.cluster import UNLIMITED_BLOCKS

if TYPE_CHECKING:
    from replay.cluster import Cluster


def occupancy(rows: pl.DataFrame, cluster: "Cluster") -> dict[str, Any]:
    """Return means over time and P99 over time, from the first arrival to the last.

    rows    : requests in trace order, all finished
    returns : running_mean, running_p99 (requests an instance), kv_mean, kv_p99 (share of the KV memory; None without
              a limit). A request counts from its first admission to its end, with its prompt and half its output, so
              that a preempted one counts as running and its KV is that of its middle.
    """
    start_s, end_s = (rows[name].to_numpy() / 1e12 for name in ("scheduled_ps", "finish_ps"))
    arrival_s = rows["arrival_s"].to_numpy()
    window = (float(arrival_s[0]), float(arrival_s[-1]))
    mean, p99 = over_time(start_s, end_s, np.ones(len(start_s)), window)
    count = len(cluster.instances)
    found: dict[str, Any] = {"running_mean": mean / count, "running_p99": p99 / count, "kv_mean": None, "kv_p99": None}
    blocks = sum(instance.kv_blocks for instance in cluster.instances)
    if blocks < UNLIMITED_BLOCKS:
        tokens = rows["prompt_tokens"].to_numpy() + rows["output_tokens"].to_numpy() / 2
        mean, p99 = over_time(start_s, end_s, tokens, window)
        found |= {"kv_mean": mean / (blocks * cluster.block_tokens), "kv_p99": p99 / (blocks * cluster.block_tokens)}
    return found


def over_time(
    start_s: np.ndarray, end_s: np.ndarray, amounts: np.ndarray, window: tuple[float, float]
) -> tuple[float, float]:
    """Return the mean and the P99 over the time of a window of what holders hold, each from its start to its end."""
    times_s = np.concatenate([start_s, end_s])
    order = np.argsort(times_s, kind="stable")
    levels = np.cumsum(np.concatenate([amounts, -amounts])[order])
    edges_s = np.clip(np.append(times_s[order], np.inf), *window)
    spans_s = np.diff(edges_s)
    total_s = spans_s.sum()
    if total_s <= 0.0:
        return 0.0, 0.0
    by_level = np.argsort(levels, kind="stable")
    reached = np.searchsorted(np.cumsum(spans_s[by_level]), 0.99 * total_s)
    return float(levels @ spans_s / total_s), float(levels[by_level[min(int(reached), len(levels) - 1)]])

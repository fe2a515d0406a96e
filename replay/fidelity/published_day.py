"""DeepSeek's published day, replayed at 1/95.47 of its size: what its nodes do, hold, cost and earn.

source : DeepSeek, DeepSeek-V3/R1 inference system overview (open-infra-index, 2025)
"""

from collections.abc import Iterator

import numpy as np
import polars as pl

from replay.cluster import Cluster, cluster
from replay.cost import S_PER_HOUR, revenue, tally, total, usd_per_hour
from replay.fidelity.row import Row
from replay.prices import Prices
from replay.result import Result
from replay.session import replay
from replay.slo import build_slo
from traces.synthetic import from_config

DAY_S = 86_400
GPUS_A_NODE = 8
INPUT_TOKENS, CACHED_TOKENS, OUTPUT_TOKENS = 608e9, 342e9, 168e9
NODES = 226.75
NODE_INPUT_PER_S, NODE_OUTPUT_PER_S = 73_700.0, 14_800.0
USER_PER_S = 21.0  # 20 to 22
CONTEXT_TOKENS = 4_989.0
COST_USD, REVENUE_USD, MARGIN = 87_072.0, 562_027.0, 5.45
WARM_S = 600.0  # sessions begin, and their later turns come, until about then
REQUESTS = 62_500


def rows(requests: int = REQUESTS, seed: int = 0) -> Iterator[Row]:
    """Yield the published numbers beside those of a replayed stretch of the day, its first ten minutes left out.

    requests : of conf/trace/deepseek.yaml; 17.4 a second
    """
    from replay.hardware.conf import load

    trace = from_config({**load("trace", "deepseek"), "requests": requests}, seed)
    served = cluster("pd_8p11d_deepseek", model="deepseek_v3", kv="disk_cache",
                     trace_block_tokens=trace.block_tokens)  # fmt: skip
    found = replay(trace, served, {"fetch": "wait"}, slo="deepseek_r1", seed=seed)
    until_s = float(found.requests["arrival_s"].max())  # type: ignore[arg-type]
    yield from _rows(found, served, (WARM_S, until_s))


def _rows(found: Result, served: Cluster, window_s: tuple[float, float]) -> Iterator[Row]:
    nodes = {role: sum(i.profile.gpus for i in served.instances if i.role == role) / GPUS_A_NODE
             for role in ("prefill", "decode")}  # fmt: skip
    length_s = window_s[1] - window_s[0]
    own = found.requests.filter(pl.col("arrival_s").is_between(*window_s))
    sums = own.select(pl.col("prompt_tokens", "hit_tokens").cast(pl.Int64).sum()).row(0)
    decoding = _decoding(found.requests, window_s)
    input_per_s, output_per_s = sums[0] / length_s / nodes["prefill"], decoding["tokens"] / length_s / nodes["decode"]
    what = "DeepSeek a node"
    yield Row(what, "input tokens/s of prefill", NODE_INPUT_PER_S, input_per_s, "tokens/s")
    yield Row(what, "output tokens/s of decode", NODE_OUTPUT_PER_S, output_per_s, "tokens/s")
    yield Row(what, "requests decoding", NODE_OUTPUT_PER_S / USER_PER_S, decoding["requests"] / nodes["decode"], "")
    yield Row(what, "KV tokens of decode", NODE_OUTPUT_PER_S / USER_PER_S * CONTEXT_TOKENS,
              decoding["context"] * decoding["requests"] / nodes["decode"], "tokens")  # fmt: skip
    what = "DeepSeek a user"
    yield Row(what, "tokens/s", USER_PER_S, float(own.select(1.0 / pl.col("tpot_s").mean()).item()), "tokens/s")
    yield Row(what, "context of an output token", CONTEXT_TOKENS, decoding["context"], "tokens")
    yield Row(what, "cached share of input", CACHED_TOKENS / INPUT_TOKENS, sums[1] / sums[0], "")
    yield from _day(own, served, length_s, (input_per_s, output_per_s))


def _day(own: pl.DataFrame, served: Cluster, length_s: float, node_per_s: tuple[float, float]) -> Iterator[Row]:
    """Yield nodes and money of the published day's tokens, at what the replayed ones needed, cost and earned."""
    prefill, decode = INPUT_TOKENS / DAY_S / node_per_s[0], OUTPUT_TOKENS / DAY_S / node_per_s[1]
    what = "DeepSeek's day"
    yield Row(what, "nodes", NODES, prefill + decode, "nodes")
    yield Row(what, "prefill nodes for one that decodes", 95.5 / 131.4, prefill / decode, "")
    tallies = tally(own)
    scale = OUTPUT_TOKENS / total(tallies)["generated_tokens"]
    cost_usd = scale * sum(usd_per_hour(served, Prices()).values()) * length_s / S_PER_HOUR
    revenue_usd = scale * sum(revenue(build_slo("deepseek_r1"), tallies).values())
    yield Row(what, "cost", COST_USD, cost_usd, "USD")
    yield Row(what, "revenue", REVENUE_USD, revenue_usd, "USD")
    yield Row(what, "margin of cost", MARGIN, revenue_usd / cost_usd - 1.0, "")


def _decoding(requests: pl.DataFrame, window_s: tuple[float, float]) -> dict[str, float]:
    """Return what decoding was like in a window: tokens, mean requests at a time, mean context of their tokens.

    A request's tokens come evenly from its first token to its end.
    """
    columns = requests.filter(pl.col("output_tokens") > 1)
    first_s = (columns["arrival_s"] + columns["ttft_s"]).to_numpy()
    end_s = (columns["arrival_s"] + columns["e2e_s"]).to_numpy()
    begin, finish = np.clip(first_s, *window_s), np.clip(end_s, *window_s)
    share = (finish - begin) / (end_s - first_s)
    tokens = share * columns["output_tokens"].to_numpy()
    middle = (0.5 * (begin + finish) - first_s) / (end_s - first_s)
    context = columns["prompt_tokens"].to_numpy() + middle * columns["output_tokens"].to_numpy()
    return {"tokens": float(tokens.sum()), "requests": float((finish - begin).sum() / (window_s[1] - window_s[0])),
            "context": float((context * tokens).sum() / tokens.sum())}  # fmt: skip

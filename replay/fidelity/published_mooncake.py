"""Mooncake's calibration set (FAST 2025, Fig. 14), every number replayed as single requests."""

from collections.abc import Iterator
from typing import Any

from replay.cluster import cluster
from replay.fidelity.row import Row
from replay.hardware import decode_s, prefill_s
from replay.hardware.conf import load
from replay.hardware.points import points
from replay.session import replay
from traces.schema import Trace, build

THOUSAND = 1024
PREFILL_S = {8: 1.002, 16: 2.056, 32: 4.479, 64: 10.587, 128: 27.51}
CACHED_S = {8: 0.135, 16: 0.226, 32: 0.406, 64: 0.881, 128: 2.329}
MOVED_S = {8: 0.059, 16: 0.117, 32: 0.232, 64: 0.463, 128: 0.916}
DECODE_S = {8: 0.0265, 16: 0.0268, 32: 0.0275, 64: 0.0286, 128: 0.0308}
CACHED_SHARE = 0.95
BLOCK_TOKENS = 16
OUTPUT_TOKENS = 3  # two gaps: the first has the handoff in it, both an iteration
APART_S = 100.0


def rows(hardware: str = "mooncake_a800_table") -> Iterator[Row]:
    """Yield the published numbers beside those replayed: of a node that prefills and one that decodes.

    hardware : of both; a prompt is prefilled in one iteration
    """
    for thousand in PREFILL_S:
        tokens = thousand * THOUSAND
        plain, cached = _plain(hardware, tokens), _cached(hardware, tokens)
        name = f"{thousand}k tokens"
        yield Row("Mooncake prefill", name, PREFILL_S[thousand], plain["ttft_s"], "s")
        yield Row("Mooncake prefill, 95 % cached", name, CACHED_S[thousand], cached["ttft_s"], "s")
        yield Row("Mooncake transfer and load", name, MOVED_S[thousand], plain["moved_s"], "s")
        yield Row("Mooncake decode", name, 1e3 * DECODE_S[thousand], 1e3 * plain["gap_s"], "ms")
    if load("hardware", hardware)["kind"] == "points":
        yield from left_out(load("hardware", hardware))


def left_out(node: dict[str, Any]) -> Iterator[Row]:
    """Yield each point between others that a hardware of kind points goes through, beside the profile without it."""
    sizes = sorted({row[0] for row in node["prefills"]})[1:-1]
    for index, (tokens, cached, seconds) in enumerate(node["prefills"]):
        if tokens in sizes:
            profile = points({**node, "prefills": [row for i, row in enumerate(node["prefills"]) if i != index]})
            what = "Mooncake prefill, left out" if cached == 0 else "Mooncake prefill, 95 % cached, left out"
            yield Row(what, f"{tokens // THOUSAND}k tokens", seconds, prefill_s(profile, tokens, cached), "s")
    for index, (_, context, seconds) in enumerate(node["decodes"]):
        if context in sizes:
            profile = points({**node, "decodes": [row for i, row in enumerate(node["decodes"]) if i != index]})
            yield Row("Mooncake decode, left out", f"{context // THOUSAND}k tokens", 1e3 * seconds,
                      1e3 * decode_s(profile, context), "ms")  # fmt: skip


def _plain(hardware: str, tokens: int) -> dict[str, float]:
    """Replay one request that meets an empty cluster."""
    return _last(hardware, build("one", _columns([tokens]), None))


def _cached(hardware: str, tokens: int) -> dict[str, float]:
    """Replay a request whose first 95 %, in whole blocks, an earlier one has left in the cache."""
    prompts = [round(tokens * CACHED_SHARE / BLOCK_TOKENS) * BLOCK_TOKENS, tokens]
    chains = [list(range(prompt // BLOCK_TOKENS)) for prompt in prompts]
    return _last(hardware, build("two", {**_columns(prompts), "prefix_blocks": chains}, BLOCK_TOKENS))


def _columns(prompts: list[int]) -> dict[str, list[float]]:
    return {"arrival_s": [index * APART_S for index in range(len(prompts))], "prompt_tokens": list(prompts),
            "output_tokens": [OUTPUT_TOKENS] * len(prompts)}  # fmt: skip


def _last(hardware: str, trace: Trace) -> dict[str, float]:
    """Return what the last request took: its first token, a gap of decoding, and the handoff before the first one."""
    pair = cluster("pd_1p1d", hardware, token_budget=max(PREFILL_S) * THOUSAND, block_tokens=BLOCK_TOKENS)
    found = replay(trace, pair, slo="none", gaps=True)
    row = found.requests.row(-1, named=True)
    decoded_s = row["e2e_s"] - row["ttft_s"]
    moved_s = row["max_itl_s"] - (decoded_s - row["max_itl_s"])
    return {"ttft_s": row["ttft_s"], "gap_s": decoded_s - row["max_itl_s"], "moved_s": moved_s}

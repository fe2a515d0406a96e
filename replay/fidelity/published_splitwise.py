"""Splitwise's measured table beside the replay of every point, and beside what the other points predict."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from replay.cluster import Cluster, cluster
from replay.fidelity.left_out import BEYOND, ENDS, LEFT_OUT, LeftOut, left_out
from replay.fidelity.row import Row
from replay.fidelity.splitwise import (
    CAPPED,
    OUTPUT_TOKENS,
    POINT,
    PROMPT_TOKENS,
    Curves,
    curves,
    profile_of,
    read,
)
from replay.session import replay
from traces.schema import build

PROMPT, BATCH, TOKEN = "Splitwise prompt", "Splitwise prompts of a batch", "Splitwise token"
LONG = "Splitwise token, long outputs"
REPEAT = "a repeat left out"
MOST_BATCH = 64


def rows(folder: str | Path) -> Iterator[Row]:
    """Yield every measured point beside its replay, then beside its prediction from the others, then each repeat."""
    found = curves(folder)
    for curve in found:
        yield from replayed(curve)
        yield from longer(curve)
    for point in left_out(found):
        yield _row(point)
    yield from capped(found)
    yield from repeated(folder)


def replayed(curve: Curves, prompts: Iterable[int] | None = None, batches: Iterable[int] | None = None,
             ) -> Iterator[Row]:  # fmt: skip
    """Yield points of a curve beside their replay: requests that arrive together at an empty instance.

    prompts, batches : which; None for all
    """
    served = instance_of(curve)
    for tokens in curve.prompt_s if prompts is None else prompts:
        ttft_s, tpot_s = _times(served, 1, tokens)
        yield Row(PROMPT, f"{curve.name}, {tokens} tokens", 1e3 * curve.prompt_s[tokens], 1e3 * ttft_s, "ms")
        yield Row(TOKEN, f"{curve.name}, 1 x {tokens}", 1e3 * curve.context_s[tokens], 1e3 * tpot_s, "ms")
    for requests in curve.batch_s if batches is None else batches:
        ttft_s, tpot_s = _times(served, requests, PROMPT_TOKENS)
        point = f"{curve.name}, {requests} x {PROMPT_TOKENS}"
        yield Row(BATCH, point, 1e3 * curve.batch_s[requests], 1e3 * ttft_s, "ms")
        yield Row(TOKEN, point, 1e3 * curve.token_s[requests], 1e3 * tpot_s, "ms")


def longer(curve: Curves) -> Iterator[Row]:
    """Yield the long outputs of a curve, of which its profile knows nothing, beside their replay."""
    served = instance_of(curve)
    for output_tokens, seconds in curve.long_s.items():
        _, tpot_s = _times(served, 1, PROMPT_TOKENS, output_tokens)
        yield Row(LONG, f"{curve.name}, {output_tokens} of output", 1e3 * seconds, 1e3 * tpot_s, "ms")


def capped(found: Sequence[Curves]) -> Iterator[Row]:
    """Yield what capping the power costs: prompts of 8192 tokens 1.30 times as long, a batch's tokens no longer."""
    by_name = {(curve.model, curve.gpu, curve.tp): curve for curve in found}
    for (model, gpu, tp), slow in by_name.items():
        fast = by_name.get((model, gpu.removesuffix(CAPPED), tp))
        if gpu.endswith(CAPPED) and fast is not None:
            (slow_ttft_s, _), (fast_ttft_s, _) = (_times(instance_of(one), 1, 8192) for one in (slow, fast))
            (_, slow_tpot_s), (_, fast_tpot_s) = (_times(instance_of(one), 16, PROMPT_TOKENS) for one in (slow, fast))
            name = f"{model} TP{tp}, capped / not"
            yield Row("Splitwise power cap", f"{name}, prompt", 1.30, slow_ttft_s / fast_ttft_s, "")
            yield Row("Splitwise power cap", f"{name}, token", 1.0, slow_tpot_s / fast_tpot_s, "")


def instance_of(curve: Curves) -> Cluster:
    """Return one mixed instance with the profile of a curve: all prompts of a batch in one iteration, memory enough."""
    one = cluster("mixed_1", token_budget=MOST_BATCH * PROMPT_TOKENS, max_batch=MOST_BATCH, kv_blocks=10_000)
    return replace(one, instances=(replace(one.instances[0], profile=profile_of(curve)),))


def _times(served: Cluster, requests: int, tokens: int, output_tokens: int = OUTPUT_TOKENS) -> tuple[float, float]:
    """Return the time of the prefill and per later token of requests in one batch, seconds.

    One more request of one token comes first: while it runs the others gather, and start together.
    """
    columns = {"arrival_s": [0.0] + [1e-6] * requests, "prompt_tokens": [1] + [tokens] * requests,
               "output_tokens": [1] + [output_tokens] * requests}  # fmt: skip
    found = replay(build("batch", columns, None), served, slo="none").requests[1:]
    prefill = found["ttft_s"] - found["queue_s"]
    return float(prefill.mean()), float(found["tpot_s"].mean())  # type: ignore[arg-type]


def repeated(folder: str | Path) -> Iterator[Row]:
    """Yield every repeat beside the median of the other repeats of its point: what no model can be better than.

    The table lists some measurements three times; each counts once.
    """
    frame = read(folder).filter(~pl.col("hardware").str.ends_with(CAPPED)).unique(maintain_order=True)
    for key, own in frame.group_by(POINT, maintain_order=True):
        point = f"{key[0]} {key[1]} TP{key[2]}, {key[4]} x {key[3]}"
        for column, what in (("prompt_time", "prompt"), ("token_time", "token")):
            times = own[column].to_numpy()
            for index, one in enumerate(times):
                others = float(np.median(np.delete(times, index)))
                yield Row(f"Splitwise {what}, {REPEAT}", point, float(one), others, "ms")


def _row(point: LeftOut) -> Row:
    what = f"Splitwise {point.what}, {ENDS if point.rule == BEYOND else LEFT_OUT}"
    return Row(what, f"{point.curve}, {point.requests} x {point.tokens}", 1e3 * point.measured_s,
               1e3 * point.predicted_s, "ms")  # fmt: skip

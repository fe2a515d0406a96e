"""What the twin reads: a trace as plain requests, policies as plain functions."""

import builtins
from collections.abc import Sequence
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np

from replay.cluster import Cluster
from replay.engine import draws
from replay.hardware.units import ps
from replay.policy import Chosen
from tests.twin.chains import chains
from tests.twin.plain import Request
from traces.schema import LABELS, REQUIRED, Trace


def requests_of(trace: Trace, cluster: Cluster, seed: int, tiers: Sequence[str], predictions: Any) -> list[Request]:
    """Read a trace into plain objects."""
    rows = range(len(trace))
    keys = draws.request_keys(seed, len(trace))
    outputs = cluster.prefix_cache and cluster.cache_outputs
    prefixes = chains(trace, cluster.block_tokens, outputs) if cluster.prefix_cache else [[] for _ in rows]
    contexts = prefixes[len(trace) :] if outputs else prefixes
    closed = "parent" in trace
    parents = trace.column("parent").tolist() if closed else [-1 for _ in rows]
    think = trace.column("think_s").tolist() if closed else [0.0 for _ in rows]
    tier = [tiers.index(label) for label in trace.column("tier")] if tiers and "tier" in trace else [0 for _ in rows]
    codes = {name: trace.codes(name).tolist() if name in trace else [-1 for _ in rows] for name in LABELS}
    identities = prefix_keys(trace, outputs)
    arrivals, prompts, outputs = (trace.column(name).tolist() for name in REQUIRED)
    return [
        Request(
            row=row,
            prompt_tokens=prompts[row],
            output_tokens=outputs[row],
            arrival_ps=ps(arrivals[row]) if parents[row] < 0 else -1,
            random_key=np.uint64(keys[row]),
            predicted_tokens=-1 if predictions is None else int(predictions.tokens[row]),
            p90_tokens=-1 if predictions is None else int(predictions.p90[row]),
            p99_tokens=-1 if predictions is None else int(predictions.p99[row]),
            tier=tier[row],
            tenant=codes["tenant"][row],
            session=codes["session"][row],
            kind=codes["kind"][row],
            parent=parents[row],
            think_ps=ps(think[row]),
            chain=prefixes[row],
            context_chain=contexts[row],
            prefix_keys=identities[row],
            turn=turn_of(row, parents, codes["session"]) if closed or "session" in trace else 0,
        )
        for row in rows
    ]


def prefix_keys(trace: Trace, outputs: bool = False) -> list[list[int]]:
    """Return for every request the keys of its first 1, 2, 4, ... trace blocks, as MODEL.md says."""
    found = []
    for row, chain in enumerate(chains(trace, trace.block_tokens or 1, outputs)[: len(trace)]):
        keys = [draws.mix(row + 2**62)] * 8
        for k in range(8 if chain else 0):
            depth = min(2**k, chain[-1].end_blocks)
            run = next(run for run in chain if run.end_blocks >= depth)
            keys[k] = draws.mix((run.node << 32) + depth)
        found.append(keys)
    return found


def turn_of(row: int, parents: Sequence[int], sessions: Sequence[int]) -> int:
    """Count the turns before a request: its ancestors, or the earlier rows of its session."""
    if any(parent >= 0 for parent in parents):
        return 0 if parents[row] < 0 else 1 + turn_of(parents[row], parents, sessions)
    return sum(session == sessions[row] for session in sessions[:row]) if sessions[row] >= 0 else 0


def plain(chosen: Chosen) -> partial:
    """Return a policy as a plain Python function of its slot's arguments, with plain random draws."""
    memory = {"memory": [0.0] * 4096} if "memory" in chosen.policy.extras else {}
    return partial(uncompiled(chosen.policy.function), **memory, **chosen.values)


def uncompiled(function: Any) -> FunctionType:
    """Return a function that calls plain Python only: its compiled helpers too, draws from unbounded integers."""
    function = getattr(function, "py_func", function)
    names = {name: uncompiled(value) if hasattr(value, "py_func") else value
             for name, value in function.__globals__.items() if name in function.__code__.co_names}  # fmt: skip
    names |= {"uniform": plain_uniform, "pick": plain_pick, "clockwise": plain_clockwise}
    return FunctionType(function.__code__, {"__builtins__": builtins, **names}, function.__name__)


def plain_uniform(key: int, stream: int) -> float:
    """Return the draw of `replay.engine.draws.uniform`, from unbounded integers."""
    return (draws.mix(int(key) ^ draws.mix(int(stream))) >> 11) * 2.0**-53


def plain_pick(hashed: int, count: int) -> int:
    """Return `replay.engine.draws.pick`."""
    return int(hashed) % count


def plain_clockwise(key: int, instance: int, point: int) -> float:
    """Return `replay.engine.draws.clockwise`."""
    place = draws.mix(draws.mix((1 << 40) ^ instance) ^ point)
    return ((place - int(key)) % 2**64) * 2.0**-64

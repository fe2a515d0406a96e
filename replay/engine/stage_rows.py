"""Build the stages' part of the state: which request has which stage, how many items, how much work; all drawn ahead.

Draws are counter-based, by request, stage, call and purpose: no event order and no other stage can change them.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from replay.engine.draws import mix, mix_array, request_keys
from replay.engine.schema import NONE
from replay.engine.stage_schema import BENCH, CALL, IN_BEFORE, JOURNEY, NO_TOKENS, PIPE, STATION, TASK, Pipeline
from replay.engine.tree import empty_tree
from replay.errors import TraceError
from replay.hardware.units import ps_array
from replay.stages import SEGMENT, Law, Stage

if TYPE_CHECKING:
    from traces import Trace

STREAM = 1 << 62  # far from those of policies
OF_SHARE, OF_ITEMS, OF_WORK = 0, 1, 3  # purposes; items and work may take two draws each
MOST_ITEMS = 2**31 - 1


def no_pipeline() -> Pipeline:
    """Return the rows of a replay without stages."""
    rows = [np.zeros(1, kind) for kind in (PIPE, STATION, BENCH, TASK, CALL, JOURNEY)]
    return Pipeline(*rows, lines=np.full((1, 1, 2), NONE, np.int32), agendas=empty_tree(1))


def pipeline_of(trace: "Trace", stages: tuple[Stage, ...], seed: int, num_tiers: int) -> Pipeline:
    """Return the rows of a replay's stages before the first event.

    raises : TraceError for items from a column that the trace lacks, or that are negative
    """
    servers = sum(stage.servers for stage in stages)
    pipe = np.zeros(1, PIPE)
    for s, stage in enumerate(stages):
        pipe[("before", "beside", "segments", "after")[stage.place]] |= 1 << s
    pipe["num_stages"], pipe["num_servers"] = len(stages), servers
    stations, benches = np.zeros(len(stages), STATION), np.zeros(servers, BENCH)
    benches["head"] = NONE
    first = 0
    for s, stage in enumerate(stages):
        _station(stations[s : s + 1], stage, first)
        benches["stage"][first : first + stage.servers] = s
        first += stage.servers
    tasks, calls = _work(trace, stages, request_keys(seed, len(trace)))
    journeys = np.zeros(len(trace), JOURNEY)
    for name in ("entered_ps", "admitted_ps", "decoded_ps"):
        journeys[name] = NONE
    journeys["phase"], journeys["next_tokens"] = IN_BEFORE, NO_TOKENS
    leaves = 1
    while leaves < 2 * len(stages) + servers:
        leaves *= 2
    lines = np.full((len(stages), num_tiers, 2), NONE, np.int32)
    return Pipeline(pipe, stations, benches, tasks, calls, journeys, lines, empty_tree(leaves))


def copy_pipeline(pipeline: Pipeline) -> Pipeline:
    """Return stages that go their own way."""
    return Pipeline(*(array.copy() for array in pipeline))


def _station(row: np.ndarray, stage: Stage, first_server: int) -> None:
    for name in ("base_ps", "wait_ps", "item_fs", "latency_ps", "place", "every_tokens", "servers", "max_batch",
                 "by_tier"):
        row[name] = getattr(stage, name)
    row["needs"] = sum(1 << other for other in stage.needs)
    row["first_server"] = first_server
    row["link_head"] = row["link_tail"] = NONE


def _work(trace: "Trace", stages: tuple[Stage, ...], keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the TASK rows of every request and stage, and the CALL rows of those that it has."""
    tasks = np.zeros((len(trace), len(stages)), TASK)
    tasks["ready_ps"] = tasks["end_ps"] = NONE
    parts, used = [], 0
    for s, stage in enumerate(stages):
        part = _calls(trace, stage, s, keys)
        counts = np.bincount(part["request"], minlength=len(trace))
        tasks["calls"][:, s] = counts
        tasks["first_call"][:, s] = used + np.cumsum(counts) - counts
        used += len(part)
        parts.append(part)
    none = np.zeros(0, CALL) if used else np.zeros(1, CALL)
    return tasks.reshape(-1), np.concatenate([*parts, none])


def _calls(trace: "Trace", stage: Stage, s: int, keys: np.ndarray) -> np.ndarray:
    """Return the CALL rows of a stage by request, then by segment."""
    rows = np.flatnonzero(uniforms(keys, s, 0, OF_SHARE) < stage.share)
    if isinstance(stage.items, str) and stage.items not in trace:
        raise TraceError(f"stages.{stage.name}.items is the column '{stage.items}', but {trace.name} has no such "
                         f"column. Give a number or a law, or a trace that records it.")
    output = trace.column("output_tokens").astype(np.int64)
    if isinstance(stage.items, str) and stage.place != SEGMENT:
        rows = rows[trace.column(stage.items)[rows] > 0]
    counts = -(-output[rows] // stage.every_tokens) if stage.place == SEGMENT else np.ones(len(rows), np.int64)
    if stage.split:
        counts = _items(trace, stage, s, keys[rows], rows, np.zeros(len(rows), np.int64))
    request = np.repeat(rows, counts)
    place = np.arange(len(request)) - np.repeat(np.cumsum(counts) - counts, counts)
    calls = np.zeros(len(request), CALL)
    calls["request"], calls["stage"], calls["next"] = request, s, NONE
    calls["since_ps"] = calls["done_ps"] = NONE
    items = np.ones_like(place) if stage.split else _items(trace, stage, s, keys[request], request, place)
    calls["items"] = items
    item_s = drawn(stage.item_s, keys[request], s, place, OF_WORK)
    calls["work_ps"] = ps_array(item_s * items, f"the work of stage {stage.name}")
    return calls


def _items(trace: "Trace", stage: Stage, s: int, keys: np.ndarray, request: np.ndarray,
           place: np.ndarray) -> np.ndarray:  # fmt: skip
    if isinstance(stage.items, str):
        whole = trace.column(stage.items)[request].astype(np.int64)
        if stage.items == "output_tokens" and stage.place == SEGMENT:
            return np.minimum(stage.every_tokens, whole - place * stage.every_tokens)
        return whole
    items = np.rint(drawn(stage.items, keys, s, place, OF_ITEMS))
    return np.clip(items, 1, MOST_ITEMS).astype(np.int64)


def drawn(law: float | Law, keys: np.ndarray, s: int, place: np.ndarray, purpose: int) -> np.ndarray:
    """Return a number for each call, float64: a constant, or drawn by inversion (lognormal: Box and Muller).

    keys : uint64 of its request; place : number of the call among those of its request and stage
    """
    if not isinstance(law, Law):
        return np.full(len(keys), law)
    if law.law == "constant":
        return np.full(len(keys), law.mean)
    u = uniforms(keys, s, place, purpose)
    if law.law == "exponential":
        return -law.mean * np.log(1.0 - u)
    if law.law == "geometric":
        return 1.0 + np.floor(np.log(1.0 - u) / np.log(1.0 - 1.0 / law.mean)) if law.mean > 1 else np.ones(len(u))
    sigma = np.sqrt(np.log(1.0 + law.cv * law.cv))
    turn = uniforms(keys, s, place, purpose + 1)
    normal = np.sqrt(-2.0 * np.log(1.0 - u)) * np.cos(2.0 * np.pi * turn)
    return law.mean * np.exp(sigma * normal - 0.5 * sigma * sigma)


def uniforms(keys: np.ndarray, s: int, place: Any, purpose: int) -> np.ndarray:
    """Return draws in [0, 1), float64: `draws.uniform` of a stream of the stage, the call and the purpose."""
    streams = STREAM + (s << 48) + (np.asarray(place, np.int64) << 3) + purpose
    mixed = mix_array(streams.astype(np.uint64)) if streams.ndim else np.uint64(mix(int(streams)))
    return (mix_array(keys ^ mixed) >> np.uint64(11)).astype(np.float64) * 2.0**-53

"""Build the rows of requests from a trace: what policies may know of them, and what only the engine knows."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from replay.engine import schema
from replay.engine.draws import request_keys
from replay.engine.request_schema import REQUEST
from replay.engine.schema import NONE
from replay.errors import TraceError
from replay.hardware.units import ps_array
from traces.trie import Trie

if TYPE_CHECKING:
    from replay.slo import Slo
    from traces import Trace


def requests_of(trace: "Trace", slo: "Slo", options: Mapping[str, Any]) -> np.ndarray:
    """Return the REQUEST rows of a trace; options: seed, predictions."""
    rows = np.zeros(len(trace), REQUEST)
    rows["id"] = np.arange(len(trace))
    rows["arrival_ps"] = ps_array(trace.column("arrival_s"), "arrival_s")
    rows["random_key"] = request_keys(options["seed"], len(trace))
    rows["prompt_tokens"] = trace.column("prompt_tokens")
    rows["tier"] = slo.codes(trace)
    for name in ("tenant", "session", "kind"):
        rows[name] = trace.codes(name) if name in trace else NONE
    rows["turn"] = _turns(trace)
    rows["predicted_tokens"] = NONE if options["predictions"] is None else options["predictions"].tokens
    if "parent" in trace:
        rows["arrival_ps"][trace.column("parent") >= 0] = NONE
    return rows


def _turns(trace: "Trace") -> np.ndarray:
    """Return how many turns of its session came before each request: by `parent`, else by rows of the session."""
    turns = np.zeros(len(trace), np.int32)
    if "parent" in trace:
        parent = np.asarray(trace.column("parent"), np.int64)
        turns = (parent >= 0).astype(np.int32)
        above = np.where((parent >= 0) & (parent < np.arange(len(parent))), parent, NONE)
        while (above >= 0).any():  # one step a turn
            above = np.where(above >= 0, parent[above], NONE)
            turns += above >= 0
        return turns
    if "session" in trace:
        codes = trace.codes("session")
        order = np.argsort(codes, kind="stable")
        first = np.flatnonzero(np.r_[True, codes[order][1:] != codes[order][:-1]])
        counts = np.diff(np.r_[first, len(codes)])
        turns[order] = np.arange(len(codes)) - np.repeat(first, counts)
    return turns


def jobs_of(trace: "Trace", trie: Trie, caching: bool) -> np.ndarray:
    """Return the JOB rows of a trace.

    caching : whether prompts have trie nodes
    raises  : TraceError for a closed loop whose parent is not an earlier row
    """
    rows = np.zeros(len(trace), schema.JOB)
    for name in ("first_token_ps", "finish_ps", "scheduled_ps", "last_token_ps", "max_itl_ps", "deliver_ps", "pinned",
                 "prefill_instance", "decode_instance", "instance", "source", "slot", "next", "child", "parent",
                 "first_turn", "next_turn"):
        rows[name] = NONE
    rows["status"] = schema.UNFINISHED
    rows["output_tokens"] = trace.column("output_tokens")
    rows["leaf"] = trie.leaf if caching else NONE
    if "parent" in trace:
        _link_turns(rows, trace)
    return rows


def _link_turns(rows: np.ndarray, trace: "Trace") -> None:
    parent = np.asarray(trace.column("parent"), np.int64)
    turns = np.flatnonzero(parent >= 0)
    late = turns[parent[turns] >= turns]
    if len(late):
        raise TraceError(f"a parent must be an earlier row, but request {late[0]} of {trace.name} has parent "
                         f"{parent[late[0]]}. Sort the trace with traces.window.sort_arrivals.")
    rows["parent"] = parent
    think_s = trace.column("think_s") if "think_s" in trace else np.zeros(len(trace))
    rows["think_ps"][turns] = ps_array(np.asarray(think_s)[turns], "think_s")
    # children of one parent as a list in ascending row order
    order = turns[np.argsort(parent[turns], kind="stable")]
    owners = parent[order]
    first = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]]) if len(order) else order
    rows["first_turn"][owners[first]] = order[first]
    same = np.flatnonzero(owners[1:] == owners[:-1])
    rows["next_turn"][order[same]] = order[same + 1]

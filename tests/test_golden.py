"""Digests of fixed small runs, pinned: a change of any of them is a change of what the model says.

The traces are made of integer draws, so that no library's random stream is part of them.
`python -m tests.test_golden --write` pins them anew; say in the commit why the model changed.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay.cluster import Cluster, Instance
from replay.engine.draws import mix
from replay.engine.schema import STATUSES
from replay.result import DIGESTED, Result, digest
from replay.session import replay
from tests import twin
from tests.small import PS, small_cluster, small_instance, small_policies, small_profile, small_trace
from traces.schema import Trace

PINNED = Path(__file__).with_name("golden.json")
REQUESTS, BLOCK_TOKENS = 300, 16
SLO: dict[str, Any] = {"tiers": {name: {} for name in ("gold", "silver", "bronze")}, "default": "bronze"}


def draw(stream: int, row: int, count: int) -> int:
    """Return an integer in [0, count) that depends on (stream, row) only."""
    return mix(mix(stream) ^ row) % count


def trace(gap_ps: int, closed: bool = False, long: bool = False) -> Trace:
    """Make 300 requests in three tiers that share prefixes of 1 to 6 blocks.

    gap_ps : arrivals are apart by less than so much
    closed : two in three rows wait for an earlier one and some think time
    long   : one output in 8 is 40 times as long
    """
    rows, chains, arrival_ps = [], [], 0
    for row in range(REQUESTS):
        family, shared, own = draw(1, row, 12), 1 + draw(2, row, 4), draw(3, row, 3)
        chain = [100 * family + block for block in range(shared)] + [10_000 + 10 * row + block for block in range(own)]
        output = 1 + draw(5, row, 30)
        rows.append((arrival_ps, len(chain) * BLOCK_TOKENS + draw(4, row, BLOCK_TOKENS),
                     output * 40 if long and draw(6, row, 8) == 0 else output))  # fmt: skip
        chains.append(chain)
        arrival_ps += draw(7, row, gap_ps)
    columns: dict[str, Any] = {"tier": [("gold", "silver", "bronze")[draw(8, row, 3)] for row in range(REQUESTS)]}
    if closed:
        parents = [draw(9, row, row) if row and draw(10, row, 3) else -1 for row in range(REQUESTS)]
        columns["parent"] = parents
        columns["think_s"] = [draw(11, row, 9000) * PS if parents[row] >= 0 else 0.0 for row in range(REQUESTS)]
    return small_trace(rows, chains, BLOCK_TOKENS, **columns)


def instance(role: str, **limits: int) -> Instance:
    """Make an instance that takes 100 ps an iteration and 2 ps a prefill token."""
    profile = small_profile(iteration_ps=100, prefill_token_ps=2, decode_request_ps=3, prefill_token_sq_fs=5,
                            kv_segments=[(0, 0, 0), (500, 10, 1)])  # fmt: skip
    given = {"max_batch": 8, "token_budget": 64, "block_tokens": BLOCK_TOKENS, "kv_blocks": 90, **limits}
    return small_instance(role, profile, latency_ps=40, **given)


def mixed(count: int, **limits: int) -> Cluster:
    """Make a cluster of mixed instances."""
    return small_cluster([instance("mixed", **limits) for _ in range(count)])


def split(prefill: int, decode: int, layers: int | None = None) -> Cluster:
    """Make a cluster whose decode instances differ from the prefill ones."""
    first = [instance("prefill", token_budget=128) for _ in range(prefill)]
    return small_cluster([*first, *(instance("decode", kv_blocks=150) for _ in range(decode))], layers=layers)


AGING = ("priority_by_tier", {"aging_s": 5e-9})
URGENT = ("priority_by_tier", {"preemptive": True})
# name -> trace, cluster, policies
RUNS: dict[str, tuple[dict[str, Any], Cluster, dict[str, Any]]] = {
    "one_instance": ({"gap_ps": 4000}, mixed(1), {}),
    "overload_preempts": ({"gap_ps": 300, "long": True}, mixed(2, kv_blocks=90), {"route": "round_robin"}),
    "random_prefill_first": ({"gap_ps": 900}, mixed(3), {"route": "random", "batch": "prefill_first"}),
    "two_choices_decode_first": ({"gap_ps": 900}, mixed(4), {"route": "power_of_two", "batch": "decode_first"}),
    "locality": ({"gap_ps": 900}, mixed(4), {"route": "kv_locality"}),
    "locality_small_cache": ({"gap_ps": 700, "long": True}, mixed(4, kv_blocks=90), {"route": "kv_locality"}),
    "central_queue": ({"gap_ps": 500}, mixed(2, max_batch=2), {"route": "central_queue", "order": "shortest_prompt"}),
    "urgent_tiers": ({"gap_ps": 250}, mixed(2, max_batch=3), {"order": URGENT}),
    "aging_and_admission": ({"gap_ps": 250}, mixed(2), {"order": AGING, "admit": ("queue_limit", {"limit": 6})}),
    "split": ({"gap_ps": 700}, split(2, 2), {}),
    "split_layerwise_locality": ({"gap_ps": 700}, split(2, 1, layers=4), {"route": "kv_locality"}),
    "closed_loop": ({"gap_ps": 2000, "closed": True}, mixed(2), {"route": "kv_locality"}),
    "closed_loop_split": ({"gap_ps": 2000, "closed": True, "long": True}, split(1, 2), {"order": URGENT}),
}


def run(name: str, **options: Any) -> Result:
    """Replay one of the fixed runs."""
    shape, cluster, policies = RUNS[name]
    return replay(trace(**shape), cluster, small_policies(**policies), slo=SLO, seed=11, **options)


def test_the_pinned_runs_are_the_runs() -> None:
    assert list(json.loads(PINNED.read_text())) == list(RUNS) and len(RUNS) >= 10


@pytest.mark.parametrize("name", RUNS)
def test_digest(name: str) -> None:
    """The digest, and a few sums that say roughly what changed when it does not hold."""
    pinned = json.loads(PINNED.read_text())[name]
    assert described(run(name)) == pinned


@pytest.mark.parametrize("name", RUNS)
def test_the_twin_gives_the_pinned_digest(name: str) -> None:
    """What is pinned is right, not only old."""
    shape, cluster, policies = RUNS[name]
    rows = twin.run(trace(**shape), cluster, small_policies(**policies), 11, tuple(SLO["tiers"]))
    rows["status"] = [STATUSES.index(status) for status in rows["status"]]
    pinned = json.loads(PINNED.read_text())[name]["digest"]
    assert digest({field: np.array(rows[field]) for field in DIGESTED}) == pinned


def test_the_runs_reach_what_they_are_for() -> None:
    """Preemption, hits, rejection, holding and handoffs do occur, or the digests would prove little."""
    pinned = json.loads(PINNED.read_text())
    assert len({one["digest"] for one in pinned.values()}) == len(RUNS)
    assert pinned["overload_preempts"]["preemptions"] > 0 and pinned["urgent_tiers"]["preemptions"] > 0
    assert pinned["aging_and_admission"]["finished"] < REQUESTS == pinned["split"]["finished"]
    assert pinned["locality"]["hit_tokens"] > pinned["random_prefill_first"]["hit_tokens"] > 0
    assert pinned["locality"]["hit_tokens"] > pinned["locality_small_cache"]["hit_tokens"]
    assert pinned["split"]["digest"] != pinned["split_layerwise_locality"]["digest"]


def described(result: Result) -> dict[str, Any]:
    """Return the digest and a few sums of a result."""
    rows = result.requests
    sums = {name: int(rows[name].sum()) for name in ("hit_tokens", "preemptions", "generated_tokens")}
    return {
        "digest": result.digest,
        "finished": int((rows["status"] == "finished").sum()),
        "last_finish_ps": int(rows["finish_ps"].max()),  # type: ignore[arg-type]
        **sums,
    }


def write() -> None:
    """Pin what the runs say now."""
    text = json.dumps({name: described(run(name)) for name in RUNS}, indent=1)
    part = PINNED.with_suffix(".partial")
    part.write_text(text + "\n")
    os.replace(part, PINNED)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python -m tests.test_golden --write")
    write()

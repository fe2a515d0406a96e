"""Run the engine on a scenario, and put its result into the form of the twin's."""

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np

from predictors.predictions import Predictions, of_tokens, refresh_of
from replay.result import DIGESTED, Result
from replay.session import Session
from replay.slo import build_slo
from tests.scenarios import TIERS, Scenario
from tests.twin import run

# targets on the scale of the scenarios, where an iteration takes picoseconds
TARGETS = ({"ttft_s": 2e-9, "itl_s": 3e-10, "tpot_s": 4e-10}, {"ttft_s": 2e-8, "tpot_s": 2e-9}, {"e2e_s": 1e-7})
SLO = {"tiers": {name: TARGETS[k % 3] for k, name in enumerate(TIERS)}, "default": TIERS[0], "tenants": {"a": 2.0}}
DRAWN = ("scenario", "families")  # names of random traces
SLICES = (1, 7, 10_000)


def session_of(scenario: Scenario, **options: Any) -> Session:
    """Open a session of the engine on a scenario.

    options : leap, events
    """
    options = {"predictions": predictions(scenario), **options}
    return Session(scenario.trace, scenario.cluster, scenario.policies, slo=SLO, seed=scenario.seed, **options)


def predictions(scenario: Scenario) -> Predictions:
    """Return what is predicted of a scenario's requests: outputs twice, half or as long, some unknown; or learned.

    By the scenario's seed a prediction takes time, is looked at again, or comes from a model that learns in the replay.
    """
    random = Random(f"predictions {scenario.seed}")
    tokens, true = wrong_tokens(scenario), scenario.trace.column("output_tokens")
    if scenario.trace.name not in DRAWN:
        return of_tokens(tokens)  # of a case worked out by hand
    inference_s, workers = random.choice([0, 0, 0, 1, 70, 5000]) * 1e-12, random.choice([1, 1, 2, 5])
    spread = [np.where(tokens < 0, -1, tokens * factor).astype(np.int32) for factor in (2, 3)]
    found = Predictions(tokens, *spread, inference_s, workers)
    kind = random.choice(["plain", "plain", "refresh", "online"])
    if kind == "refresh":
        return replace(found, refresh=refresh_of(random.choice([1, 1, 3, 50]), tokens, true, random.choice([0, 0, 3])))
    return replace(found, online=random.choice([1.0, 5.0, 256.0])) if kind == "online" else found


def wrong_tokens(scenario: Scenario) -> np.ndarray:
    """Return lengths that are twice, half or as long as true ones, some unknown."""
    rows = np.arange(len(scenario.trace))
    wrong = np.array([1, 2, 0, 4, 1, 0])[(7 * rows + scenario.seed) % 6]
    return np.where(wrong > 0, (scenario.trace.column("output_tokens") * wrong + 1) // 2, -1).astype(np.int32)


def twin_run(scenario: Scenario) -> dict[str, Any]:
    """Replay a scenario with the twin."""
    return run(scenario.trace, scenario.cluster, scenario.policies, scenario.seed, TIERS,
               predictions=predictions(scenario), slo=build_slo(SLO))  # fmt: skip


def finished(session: Session, slice_events: int = 10_000) -> Session:
    """Advance a session to its end in slices."""
    while not session.advance(slice_events):
        pass
    return session


def engine_run(scenario: Scenario, slice_events: int = 10_000, **options: Any) -> Result:
    """Replay a scenario with the engine."""
    return finished(session_of(scenario, **options), slice_events).result()


def engine_rows(scenario: Scenario, **options: Any) -> dict[str, list]:
    """Replay a scenario with the engine; returns lists as `tests.twin.run` does, with -1 for what did not happen."""
    session = finished(session_of(scenario, **options))
    requests = session.result().requests
    rows = {name: requests[name].to_list() for name in DIGESTED}
    rows = {name: [-1 if value is None else value for value in values] for name, values in rows.items()}
    rows["bins"] = [np.flatnonzero(tier).tolist() for tier in session.state.histogram]
    rows["counts"] = [tier[tier > 0].tolist() for tier in session.state.histogram]
    rows["events"] = [int(session.state.cluster["events"][0])]
    return rows


def engine_tiers(session: Session) -> dict[str, list]:
    """Return of a finished session what its hierarchy did for each request: the twin's HIERARCHY_FIELDS."""
    loads = session.state.hierarchy.loads
    names = ("lookup_ps", "load_ps", "exposed_ps", "dram_tokens", "disk_tokens")
    found = {name: loads[name].tolist() for name in names}
    hbm = session.state.jobs["hit_tokens"] - loads["dram_tokens"] - loads["disk_tokens"]
    return found | {"hbm_tokens": hbm.tolist()}


def engine_stores(session: Session) -> dict[str, list]:
    """Return of a finished session what each store did: the twin's `stores`."""
    state, kv = session.state, session.cluster.kv
    assert kv is not None
    first, rows = len(session.cluster.instances), state.hierarchy.stores[: len(kv.stores)]
    media = [state.hierarchy.media[row["media"] : row["media"] + row["media_count"]] for row in state.hierarchy.disks]
    of_store = [media[row["disk"]] if row["disk"] >= 0 else state.hierarchy.media[:0] for row in rows]
    flushed, read, written = "flush_blocks", "compact_read_blocks", "compact_write_blocks"
    return {
        "resident_blocks": (state.views["total_blocks"] - state.views["free_blocks"])[first:].tolist(),
        "evicted_blocks": state.instances["evicted_blocks"][first:].tolist(),
        "inserted_blocks": state.instances["inserted_blocks"][first:].tolist(),
        "read_blocks": rows["read_blocks"].tolist(),
        "written_blocks": rows["written_blocks"].tolist(),
        "dropped_writes": rows["dropped"].tolist(),
        "medium_reads": [[[int(m["read_ops"]), int(m["read_blocks"])] for m in own] for own in of_store],
        "flush_blocks": [[[int(m[flushed])] for m in own] for own in of_store],
        "compaction_blocks": [[[int(m[read]), int(m[written])] for m in own] for own in of_store],
    }


def binned(gaps: list[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Return the histogram bins of exact gaps by tier, and their counts: bin 64 e + m starts at 2^e (1 + m / 64)."""
    bins, counts = [], []
    for tier in gaps:
        known = [max(gap, 1) for gap in tier]  # no gap, between tokens of one iteration, counts as the shortest
        found = [64 * (gap.bit_length() - 1) + ((gap << 6) >> (gap.bit_length() - 1)) - 64 for gap in known]
        where, count = np.unique(np.array(found, np.int64), return_counts=True)
        bins.append(where.tolist())
        counts.append(count.tolist())
    return bins, counts

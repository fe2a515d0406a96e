"""A campaign of failures: each kind at each moment of a request's or an instance's life, alone and with a second one.

A replay without them says when each moment is; until the first failure the history is the same. Whatever fails then,
the replay ends, every request with it, and the laws of the model hold.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from replay.cluster import Cluster
from replay.engine.life_schema import FAILURES
from replay.errors import EngineError
from replay.events import to_table
from replay.kv import Kv
from replay.laws import check
from replay.life import Failures, Life, Pool
from replay.session import Session
from tests.hierarchies import random_kv
from tests.odd_life import registered
from tests.small import PS, small_cluster, small_instance, small_policies, small_profile, small_trace

MOMENTS = ("queued", "fetching", "prefill", "handoff", "stranded", "decode", "starting", "draining")
KINDS = (*FAILURES, "slow link")
OF_STORES = ("store", "shard")  # in every second history, which has a hierarchy
RECOVERS = ("restart", "resume", "restore", "give_up")
ROLES = ("prefill", "prefill", "prefill", "decode", "decode", "decode")
HISTORIES, EACH = 12, 2  # 12 histories x 8 moments x 6 or 8 kinds x 2
MOST_EVENTS = 20_000
NODE = 2
Failure = dict[str, Any]


@pytest.fixture(autouse=True)
def odd() -> Iterator[None]:
    """Offer the odd policies: one router that fetches much, one scaler that changes its mind."""
    with registered():
        yield


def failure(at_ps: int, kind: str, what: int, for_ps: int) -> Failure:
    """Return a row of a plan."""
    speed = 0.3 if kind == "slow link" else 0.0
    return {"at_s": at_ps * PS, "for_s": for_ps * PS, "kind": kind.split()[-1], "what": what, "speed": speed}


def session_of(seed: int, plan: list[Failure], recover: str, events: bool = False) -> Session:
    """Open a session of a history: thirty requests of a few families of prompts on three instances of each kind.

    Health checks of all decode instances are wrong for a while, so that prefilled requests are stranded.
    """
    random = Random(f"failures {seed}")
    rows, chains, at_ps = [], [], 1
    for _ in range(30):
        family = random.randrange(4)
        chain = [10 * family + place for place in range(random.randint(1, 4))]
        rows.append((at_ps, 4 * len(chain) + random.randint(1, 4), random.randint(1, 24)))
        chains.append(chain)
        at_ps += random.choice([0, 20, 200, 400])
    blind = [failure(2000, "suspect", i, 1200) for i, role in enumerate(ROLES) if role == "decode"]
    failures = Failures((*blind, *plan), {}, {}, None, 0.0)
    pools = (Pool("prefill", 1, 3, 2), Pool("decode", 1, 3, 3))
    life = Life(pools, 500, 300, 0, failures, random.choice([0, 150, 700]), 8, NODE)
    profile = small_profile(iteration_ps=60, prefill_token_ps=9, kv_token_ps=1)
    instances = [small_instance(role, profile, token_fs=9000, latency_ps=15, max_batch=4, kv_blocks=40)
                 for role in ROLES]  # fmt: skip
    chosen = small_policies(route="odd_route", scale=("odd_scale", {"bold": seed % 2}), recover=recover)
    cluster = replace(small_cluster(instances), life=life)
    cluster = replace(cluster, kv=kv_of(seed, cluster) if seed % 2 else None)
    return Session(small_trace(rows, chains), cluster, chosen, seed=seed, events=events)


def kv_of(seed: int, cluster: Cluster) -> Kv:
    """Draw a hierarchy with pool nodes and index shards."""
    random = Random(f"stores {seed}")
    while True:
        kv = replace(random_kv(random, cluster, 9000), changes=())
        if kv.shared_nodes and kv.index.shards:
            return kv


def kinds_of(seed: int) -> list[str]:
    """Return what can fail in a history."""
    return [kind for kind in KINDS if seed % 2 or kind not in OF_STORES]


def run(session: Session) -> Session:
    """Replay to the end, which must come; its laws are checked there."""
    assert session.advance(MOST_EVENTS), "the replay does not end"
    assert session.gone == len(session.trace), "a request never ended"
    assert set(np.asarray(session.state.jobs["status"]).tolist()) <= {0, 1, 3}
    return session


def moments_of(session: Session) -> dict[str, list[tuple[int, int, int]]]:
    """Return for each moment when it was: (from, until [ps], instance)."""
    found: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    begun: dict[Any, tuple[str, int, int]] = {}

    def change(key: Any, time_ps: int, following: str, instance: int) -> None:
        moment, since_ps, place = begun.pop(key, ("", 0, 0))
        if moment and time_ps > since_ps + 1:
            found[moment].append((since_ps, time_ps, place))
        if following:
            begun[key] = (following, time_ps, instance)

    after = {"enqueue": "queued", "fetch": "fetching", "token": "stranded", "handoff": "handoff"}
    for event in to_table(session.log).to_pylist():
        what, instance = event["kind"], event["instance"]
        following = after.get(what, "")
        if what == "admit":
            following = "prefill" if ROLES[instance] == "prefill" else "decode"
        if event["request"] >= 0:
            change(event["request"], event["time_ps"], following, instance)
    changes = session.result().tables["life_changes"]
    for time_s, instance, state in changes.iter_rows():
        change(("life", instance), round(time_s / PS), state if state in MOMENTS else "", instance)
    return found


def failures_at(random: Random, kind: str, when: tuple[int, int, int], seed: int) -> list[Failure]:
    """Draw a failure of a kind at a moment, half of the time with another one in the same picosecond or soon after."""
    since_ps, until_ps, instance = when
    at_ps = random.choice([random.randint(since_ps + 1, until_ps - 1), since_ps + 1, until_ps - 1])
    plan = []
    kv = session_of(seed, [], "resume").cluster.kv
    known = {"node": len(ROLES) // NODE, "control": 1}
    if kv is not None:
        known |= {"store": kv.shared_nodes + any(store.node < 0 for store in kv.stores), "shard": kv.index.shards}
    for name, place in ((kind, instance), (random.choice(kinds_of(seed)), random.randrange(len(ROLES)))):
        what = place // NODE if name == "node" else place % known.get(name, len(ROLES))
        plan.append(failure(at_ps, name, what, random.choice([1, 40, 200, 900, 900, 5000])))
        if random.random() < 0.5:
            break
        at_ps += random.choice([0, 0, 1, 100])
    return plan


def campaign(histories: Iterable[int], each: int) -> tuple[Counter[tuple[str, str]], int, int]:
    """Let each kind fail at each moment of some histories; returns how often by (kind, moment), pairs, losses."""
    cells: Counter[tuple[str, str]] = Counter()
    pairs = lost = 0
    for seed in histories:
        moments = moments_of(run(session_of(seed, [], "resume", events=True)))
        for moment in MOMENTS:
            for k, kind in enumerate(kinds_of(seed) * each):
                if not moments[moment]:
                    continue
                random = Random(f"{seed} {moment} {kind} {k}")
                plan = failures_at(random, kind, random.choice(moments[moment]), seed)
                done = run(session_of(seed, plan, RECOVERS[(seed + k) % 4]))
                cells[kind, moment] += 1
                pairs += len(plan) > 1
                lost += int(done.state.lives.setting["lost"][0])
    return cells, pairs, lost


def test_every_failure_at_every_moment() -> None:
    """1,216 replays: eight kinds of failure at eight moments, under four recover policies; all of these occurred."""
    cells, pairs, lost = campaign(range(HISTORIES), EACH)
    assert sum(cells.values()) >= 1000 and len(cells) == len(KINDS) * len(MOMENTS), cells
    assert min(cells.values()) >= 4 and pairs > 300 and lost > 1000, (cells, pairs, lost)


@pytest.mark.parametrize(("table", "field"), [("setting", "lost"), ("setting", "aside"), ("life", "paid_ps"),
                                              ("life", "lost_requests"), ("moments", "time_ps")])  # fmt: skip
def test_a_broken_law_is_found(table: str, field: str) -> None:
    """The laws see one more lost request, one set aside, a picosecond too much, or a change at another time."""
    session = run(session_of(0, [failure(1000, "node", 0, 500)], "resume"))
    getattr(session.state.lives, table)[field][0] += 1
    with pytest.raises(EngineError, match="must be conserved"):
        check(session.state)


def test_changes_fill_no_table() -> None:
    """Prefill instances that fail all the time change more often than there were rows for at first; all is kept."""
    plan = [failure(1 + 3 * k, "instance", k % 3, 1) for k in range(7000)]
    session = session_of(1, plan, "restart", events=True)
    rows_at_first = len(session.state.lives.moments)
    while not session.advance(1000):
        pass
    rows = session.result().tables["life_changes"]
    assert session.gone == len(session.trace) and len(rows) > rows_at_first
    assert (rows["state"] == "down").sum() > rows_at_first // 3 and rows["time_s"].is_sorted()

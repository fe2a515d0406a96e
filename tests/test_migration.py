"""Live migration by hand: rounds, the pause, and what makes it give up."""

from dataclasses import replace
from typing import Any

import numpy as np

from replay.engine.schema import NONE
from replay.policy import Chosen, describe
from replay.result import Result
from replay.session import Session
from tests.small import small_cluster, small_instance, small_policies, small_profile, small_trace

STEP_PS = 100


def always(instances: Any, now_ps: Any) -> tuple[int, int]:
    """Move from the first instance to the second.

    source : of these tests
    """
    return 0, 1


def moved(outputs: int, token_fs: int, kv_blocks: int = 100, more: tuple[tuple[int, int, int], ...] = ()) -> Session:
    """Replay a request of 8 tokens that the router sends to the first of two instances; a question every 1,000 ps."""
    instances = [small_instance("mixed", small_profile(iteration_ps=STEP_PS), token_fs=token_fs, block_tokens=4,
                                kv_blocks=blocks) for blocks in (100, kv_blocks)]  # fmt: skip
    cluster = replace(small_cluster(instances), migrate_ps=1000)
    from replay.policy import registry

    policy = describe("migrate", always)
    registry()["migrate"]["always"] = policy
    try:
        chosen = small_policies(route="least_tokens") | {"migrate": Chosen(policy, {})}
        session = Session(small_trace([(0, 8, outputs), *more]), cluster, chosen, gaps=True)
        while not session.advance(10_000):
            pass
    finally:
        registry()["migrate"].pop("always")
    return session


def test_rounds_shrink_and_the_last_one_pauses() -> None:
    """Asked at 1,000 ps, 10 tokens made: 17 of KV take 850 ps, 8 more 400 ps; then 4, and one while that ends."""
    session = moved(outputs=40, token_fs=50_000)
    move = session.state.asking.moving[0]
    assert (int(move["moved"]), int(move["given_up"])) == (1, 0)
    gaps = session.state.gaps[:39]
    assert int(move["rounds"]) == 2 and int(session.state.jobs["decode_instance"][0]) == 1
    pause_ps = int(gaps.max()) - STEP_PS
    assert int(move["copied_tokens"]) == 17 + 8 + 5 and pause_ps == 5 * 50
    assert (np.sort(gaps)[:-1] == STEP_PS).all()


def test_a_request_that_ends_first_stays_where_it_was() -> None:
    session = moved(outputs=14, token_fs=50_000)
    move = session.state.asking.moving[0]
    assert (int(move["moved"]), int(move["given_up"]), int(move["request"])) == (0, 1, NONE)
    assert int(session.state.jobs["decode_instance"][0]) == 0 and (session.state.gaps[:13] == STEP_PS).all()


def test_nothing_moves_where_it_could_never_end() -> None:
    session = moved(outputs=40, token_fs=1, kv_blocks=11)  # 47 tokens need 12 blocks
    assert int(session.state.asking.moving[0]["rounds"]) == 0


def test_the_summary_counts() -> None:
    found = Result.from_session(moved(outputs=40, token_fs=50_000)).summary
    assert (found["migrations"], found["migrations_given_up"]) == (1, 0) and found["migrated_gb"] > 0

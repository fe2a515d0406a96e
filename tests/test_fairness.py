"""Fair queueing of tenants: the bound of virtual token counters, shares, and what an absence is worth."""

from typing import Any

import numpy as np
import pytest

from replay import laws
from replay.errors import EngineError
from replay.session import Session
from tests.small import small_cluster, small_instance, small_profile
from traces.schema import Trace, build

PROFILE = small_profile(iteration_ps=100, prefill_token_ps=10, decode_request_ps=5)
PS = 1e-12


def two_tenants(greedy: int = 300, modest: int = 60, step_ps: int = 400) -> Trace:
    """Make a tenant that sends five requests for one of the other; both want more than an instance gives."""
    every = greedy // modest
    rows = [(step_ps * k, "greedy") for k in range(greedy)]
    rows = sorted(rows + [(step_ps * every * k + 1, "modest") for k in range(modest)])
    prompts = np.random.default_rng(1).integers(5, 40, len(rows))
    outputs = np.random.default_rng(2).integers(1, 60, len(rows))
    return build("two", {"arrival_s": [when * PS for when, _ in rows], "prompt_tokens": prompts,
                         "output_tokens": outputs, "tenant": [who for _, who in rows]})  # fmt: skip


def finished(trace: Trace, order: Any, slo: Any = None, **limits: Any) -> Session:
    """Replay a trace on one instance."""
    instance = small_instance("mixed", PROFILE, **{"max_batch": 4, "kv_blocks": 100, "token_budget": 64} | limits)
    session = Session(trace, small_cluster([instance]), {"order": order}, slo=slo)
    while not session.advance(100_000):
        pass
    return session


def service_while_both_wait(session: Session) -> dict[str, float]:
    """Return each tenant's service, 1 a prompt token and 2 an output token, until the modest one's last arrival."""
    jobs, tenants = session.state.jobs, np.asarray(session.trace.column("tenant"))
    until = session.state.requests["arrival_ps"][tenants == "modest"].max()
    done = (jobs["finish_ps"] > 0) & (jobs["finish_ps"] <= until)
    size = session.state.requests["prompt_tokens"] + 2 * jobs["output_tokens"]
    return {name: float(size[done & (tenants == name)].sum()) for name in ("greedy", "modest")}


@pytest.mark.parametrize("order", ["vtc", "vtc_predicted"])
def test_backlogged_tenants_get_the_same(order: str) -> None:
    """FCFS gives the greedy tenant five times as much; fair queueing the same, within the bound."""
    trace = two_tenants()
    unfair = service_while_both_wait(finished(trace, "fcfs"))
    session = finished(trace, order)
    fair = service_while_both_wait(session)
    assert unfair["greedy"] > 3.5 * unfair["modest"]
    assert abs(fair["greedy"] - fair["modest"]) < 2 * laws.service_bound(session.state)[0]
    assert fair["modest"] > 1.8 * unfair["modest"]


def test_shares_weigh() -> None:
    slo = {"tiers": {"all": {}}, "tenants": {"greedy": 2.0}}
    got = service_while_both_wait(finished(two_tenants(600, 200, 300), "vtc", slo))
    assert 1.7 < got["greedy"] / got["modest"] < 2.3


def test_an_absence_earns_nothing() -> None:
    """Who comes late is lifted to those that wait: it does not get all that the other had before it came."""
    early = [(100 * k, "early") for k in range(200)]
    late = [(60_000 + 100 * k, "late") for k in range(60)]
    rows = sorted(early + late)
    trace = build("late", {"arrival_s": [when * PS for when, _ in rows], "prompt_tokens": [20] * len(rows),
                           "output_tokens": [10] * len(rows), "tenant": [who for _, who in rows]})  # fmt: skip
    session = finished(trace, "vtc")
    tenants, finish = np.asarray(trace.column("tenant")), session.state.jobs["finish_ps"]
    last = finish[tenants == "late"].max()
    among = (finish >= 66_000) & (finish <= last)
    shares = [int((among & (tenants == name)).sum()) for name in ("early", "late")]
    assert 0.7 < shares[0] / shares[1] < 1.3


def test_the_law_is_checked_on_every_run() -> None:
    session = finished(two_tenants(), "vtc")
    gap, most = float(session.state.asking.ledgers["gap"][0]), float(laws.service_bound(session.state)[0])
    assert 0 < gap <= most
    session.state.asking.ledgers["gap"][0] = most * 1.01
    with pytest.raises(EngineError, match="service of tenants that wait may differ by at most"):
        laws.check(session.state, "vtc")


def test_a_fork_counts_from_where_it_forks() -> None:
    """A run that becomes fair half-way knows who waits then; the rest is the law's."""
    instance = small_instance("mixed", PROFILE, max_batch=4, kv_blocks=100, token_budget=64)
    session = Session(two_tenants(), small_cluster([instance]), {"order": "fcfs"})
    session.advance(400)
    fork = session.fork({"order": "vtc"})
    assert fork.state.asking.accounts["waiting"][0].sum() == (fork.state.jobs["stage"] == 3).sum() > 10
    while not fork.advance(100_000):
        pass
    assert fork.result().summary["finished"] == 360

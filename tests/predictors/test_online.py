"""The model that learns in a replay: its weights are the ridge solution, its quantiles hold, its cost is a queue."""

import numpy as np
import pytest

from predictors import predict
from predictors.metrics import tau
from predictors.predictions import Predictions, of_tokens
from replay.engine.learning_schema import FIRST_GROUP, RIDGE
from replay.errors import ConfigError
from replay.session import Session, replay
from tests.predictors.test_models import telling_trace
from tests.small import small_cluster, small_instance, small_profile
from traces.synthetic import make

TRACE = telling_trace(4000)


def served(trace=TRACE, predictions=None, order="fcfs", **options):
    """Replay a trace on one instance that is never full."""
    profile = small_profile(iteration_ps=10**6, decode_request_ps=1)
    instance = small_instance("mixed", profile, max_batch=4096, kv_blocks=10**7, token_budget=10**6)
    session = Session(trace, small_cluster([instance]), {"order": order}, predictions=predictions, **options)
    while not session.advance(10_000):
        pass
    return session


def test_weights_are_the_ridge_solution() -> None:
    """Solved anew by NumPy from what was looked at: (X'X + I / RIDGE) w = X'(y - base)."""
    asking = served(predictions=predict({"kind": "online"}, TRACE, 0)).state.asking
    count = FIRST_GROUP + asking.learned.shape[1]
    rows, base = asking.looks[:, :count], asking.looks[:, count]
    target = np.log(TRACE.column("output_tokens")) - base
    expected = np.linalg.solve(rows.T @ rows + np.eye(count) / RIDGE, rows.T @ target)
    assert np.allclose(asking.weights, expected, rtol=1e-6, atol=1e-8)
    assert np.allclose(asking.inverse, np.linalg.inv(rows.T @ rows + np.eye(count) / RIDGE), rtol=1e-5, atol=1e-8)


def test_it_learns_what_there_is_to_learn() -> None:
    session = served(predictions=predict({"kind": "online"}, TRACE, 0))
    true, predicted = TRACE.column("output_tokens"), session.state.requests["predicted_tokens"]
    late = slice(2000, None)
    assert tau(predicted[late], true[late]) > 0.6  # the noise of the truth allows about .7
    quantiles = session.state.asking.quantiles
    assert (true[late] <= quantiles[late, 0]).mean() == pytest.approx(0.9, abs=0.02)
    assert (true[late] <= quantiles[late, 1]).mean() == pytest.approx(0.99, abs=0.01)
    assert predicted[0] == 256 and (quantiles[:, 1] >= quantiles[:, 0]).all() and (quantiles[:, 0] >= predicted).all()


def test_it_learns_only_from_what_has_finished() -> None:
    """The first prediction that differs from the prior comes after the first request has finished."""
    session = served(predictions=predict({"kind": "online", "prior_tokens": 77}, TRACE, 0))
    requests, jobs = session.state.requests, session.state.jobs
    first_s = jobs["finish_ps"].min()
    before = requests["arrival_ps"] < first_s
    assert before.any() and set(requests["predicted_tokens"][before]) == {77}
    assert (requests["predicted_tokens"][~before] != 77).any()


def test_a_fork_learns_on_its_own() -> None:
    session = served(predictions=predict({"kind": "online"}, TRACE, 0))
    other = Session(TRACE, session.cluster, {}, predictions=predict({"kind": "online"}, TRACE, 0))
    other.advance(2000)
    fork = other.fork()
    while not fork.advance(10_000):
        pass
    weights = other.state.asking.weights.copy()
    while not other.advance(10_000):
        pass
    assert fork.result().digest == other.result().digest and (weights != other.state.asking.weights).any()


def test_a_fork_under_other_policies_keeps_what_was_learned() -> None:
    predictions = predict({"kind": "online", "inference_s": 1e-6}, TRACE, 0)
    session = Session(TRACE, served().cluster, {}, predictions=predictions)
    session.advance(4000)
    fork = session.fork({"order": "shortest_tail"})
    assert (fork.state.asking.weights == session.state.asking.weights).all() and fork.state.asking.record[1] > 0
    while not fork.advance(10_000):
        pass
    asking = fork.state.asking
    assert (asking.weights != session.state.asking.weights).any() and (asking.quantiles[:, 1] > 0).all()
    assert (session.state.asking.quantiles[:, 1] < 0).any()  # what the fork learns it keeps to itself


@pytest.mark.parametrize("workers", [1, 3])
def test_predictions_queue_on_the_control_plane(workers: int) -> None:
    """Deterministic predictions of Poisson arrivals: M/D/1, and with more workers the recursion, to the picosecond."""
    trace = make("poisson", requests=20_000, seed=3, rate_per_s=100.0 * workers, prompt_tokens=1, output_tokens=1)
    tokens = np.full(len(trace), 5)
    predictions = Predictions(tokens, tokens, tokens, inference_s=0.008, workers=workers)
    plain, slow = served(trace), served(trace, predictions)
    arrivals = plain.state.requests["arrival_ps"]
    assert (slow.state.requests["arrival_ps"] == arrivals).all()
    free, done = [0] * workers, []
    for arrival in arrivals.tolist():
        k = free.index(min(free))
        free[k] = max(free[k], arrival) + 8 * 10**9
        done.append(free[k])
    assert (slow.state.jobs["scheduled_ps"] >= done).all()
    assert np.abs(slow.state.jobs["scheduled_ps"] - done).max() <= 3 * 10**6  # the iteration in progress
    if workers == 1:
        waits_s = (np.array(done) - arrivals) * 1e-12 - 0.008
        assert waits_s.mean() == pytest.approx(0.8 * 0.008 / (2 * 0.2), rel=0.06)  # rho D / (2 (1 - rho))


def test_looking_again_orders_by_what_is_left() -> None:
    """Two kinds of job look alike, of 10 or 1,000 tokens: once one has passed 10 tokens, it is known to be long."""
    true = np.tile([10, 1000], 2000)
    predictions = predict({"kind": "constant", "tokens": 60, "refresh_tokens": 16},
                          make("poisson", requests=4000, seed=1, rate_per_s=1.0, prompt_tokens=4,
                               output_tokens=60), 0)  # fmt: skip
    assert predictions is not None and predictions.refresh is not None
    from predictors.predictions import refresh_of
    from predictors.survival import left_after

    refresh = refresh_of(16, np.full(4000, 60), true)
    rows = np.searchsorted(refresh.edges, [60.0, 60.0, 60.0], "right")
    assert left_after(refresh.left, rows, np.array([0, 15, 511])) == pytest.approx([505, 985, 489], rel=0.01)


def test_predictions_of_another_trace_are_refused() -> None:
    with pytest.raises(ConfigError, match="one prediction a request, but there are 3 for 4,000"):
        replay(TRACE, "mixed_1", predictions=of_tokens(np.array([1, 2, 3])))

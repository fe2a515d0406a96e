"""Speculative decoding against its formulas: tokens an iteration, gains where memory binds, where arithmetic does."""

from typing import Any

import numpy as np
import pytest

from replay.cluster import Cluster, cluster
from tests.anchors.formulas import tokens_per_iteration
from tests.anchors.stations import PS, Run, agrees, compiled, serve, servers
from traces.schema import Trace, build

pytestmark = compiled
ITERATION_S, TOKENS = 0.02, 20_000


def together(count: int, output_tokens: int, prompt_tokens: int = 1) -> Trace:
    """Make requests that arrive at once."""
    columns = {"arrival_s": np.zeros(count), "prompt_tokens": [prompt_tokens] * count}
    return build("together", {**columns, "output_tokens": [output_tokens] * count})


def drafts(drafted: int, acceptance: float | None, **more: Any) -> dict[str, Any]:
    """Return the changes of `speculation` for these drafts."""
    return {"base": "none", "draft_tokens": drafted, "acceptance": acceptance, **more}


def one_step(speculation: Any = "none", **changes: Any) -> Cluster:
    """Build an instance whose iterations take ITERATION_S whatever is in them, unless changed."""
    given = {"iteration_s": ITERATION_S, "prefill_token_s": 0.0, "max_batch": 4096, "decode_request_s": 0.0}
    return servers(speculation=speculation, **{**given, **changes})


def decode_s(run: Run) -> np.ndarray:
    """Return the time from the first to the last token of each request."""
    return (run.jobs["finish_ps"] - run.jobs["first_token_ps"]) / PS


def per_iteration(run: Run) -> np.ndarray:
    """Return the mean tokens of each request in an iteration."""
    return (run.jobs["output_tokens"] - 1) / run.state.speculation.drafts["iterations"]


@pytest.mark.parametrize("drafted", [1, 3, 5])
@pytest.mark.parametrize("acceptance", [0.5, 0.8])
def test_tokens_of_an_iteration_are_the_truncated_geometric(acceptance: float, drafted: int) -> None:
    run = serve(together(200, TOKENS), one_step(drafts(drafted, acceptance)))
    expected = tokens_per_iteration(acceptance, drafted)
    agrees(per_iteration(run), expected, most_error=0.002, bias=(drafted + 1) ** 2 / TOKENS)  # the last one is cut


def test_positions_are_accepted_by_their_own_probabilities() -> None:
    """1 + .9 + .9 x .5 + .9 x .5 x .2; position 4 is beyond what is drafted."""
    listed = drafts(3, None, acceptance_by_position=[0.9, 0.5, 0.2, 0.7])
    agrees(per_iteration(serve(together(200, TOKENS), one_step(listed))), 2.44, most_error=0.002, bias=16 / TOKENS)


@pytest.mark.parametrize("share", [0.0, 0.05])
def test_memory_bound_the_gain_is_that_mean_less_the_drafts(share: float) -> None:
    """A lone request: as fast again as tokens an iteration, over 1 + drafts x share of Leviathan's theorem 3.8."""
    acceptance, drafted = 0.8, 3
    run = serve(together(1, 10 * TOKENS), one_step(drafts(drafted, acceptance, draft_share=share)))
    gain = ITERATION_S * (10 * TOKENS - 1) / float(decode_s(run)[0])
    expected = tokens_per_iteration(acceptance, drafted) / (1 + drafted * share)
    spread = 1.5 / np.sqrt(10 * TOKENS / expected)  # tokens of an iteration deviate by less than 1.5
    assert abs(gain - expected) < 4 * spread and spread < 0.01 * expected


@pytest.mark.parametrize("drafted", [1, 3, 5])
def test_compute_bound_the_gain_is_a_loss(drafted: int) -> None:
    """Where a token costs what it costs, k + 1 verified ones for (1 - p^(k+1)) / (1 - p) kept lose for every p < 1."""
    costs = {"iteration_s": 0.0, "prefill_token_s": 1e-4, "decode_request_s": 1e-4}
    trace = together(400, 1000)
    plain, found = serve(trace, one_step(**costs)), serve(trace, one_step(drafts(drafted, 0.8), **costs))
    gain = float(plain.jobs["finish_ps"].max() / found.jobs["finish_ps"].max())
    assert gain == pytest.approx(tokens_per_iteration(0.8, drafted) / (drafted + 1), rel=0.04) and gain < 1


def test_a_spec_sheet_gives_both_ends() -> None:
    """llama3_8b on an H100: alone as fast again as tokens an iteration; with full batches less, the more drafts."""
    gains: dict[int, list[float]] = {}
    for batch in (1, 64, 1024):
        took, means = [], []
        for drafted in (0, 1, 3, 5):
            on = cluster("mixed_1", "h100", "llama3_8b", max_batch=1024, token_budget=4096,
                         speculation=drafts(drafted, 0.7) if drafted else "none")  # fmt: skip
            run = serve(together(batch, 500), on)
            took.append(float(decode_s(run).mean()))
            means.append(float(per_iteration(run).mean()) if drafted else 1.0)
        gains[batch] = [took[0] / one for one in took[1:]]
        if batch == 1:
            assert gains[1] == pytest.approx(means[1:], rel=0.005)
    assert gains[1][0] < gains[1][1] < gains[1][2] and gains[64][1] > gains[64][0] > 1
    assert 1.1 > gains[1024][0] > 1 > gains[1024][1] > gains[1024][2] and gains[1024][2] < 0.75

"""Comparisons of queues whose difference is known: as many false alarms as promised, and intervals that hold the truth.

Replicates are stretches of requests so far apart that the queue is empty before each: one replay makes thousands of
replicates, each from an empty cluster.
"""

from functools import cache

import numpy as np
import polars as pl
import pytest

from replay.study.differences import Plan, differences
from replay.study.statistics import paired
from tests.anchors import formulas
from tests.anchors.stations import Run, compiled, jobs, serve, servers

pytestmark = compiled
COMPARISONS, REPLICATES, REQUESTS = 400, 8, 200
FAMILIES = 200  # comparisons of several metrics
STRETCHES = COMPARISONS * REPLICATES
LABELS = ("a", "b")


@cache
def stretches(seed: int, load: float = 0.7, slower: float = 1.0, count: int = STRETCHES) -> np.ndarray:
    """Return the sojourns [s] of M/M/1 in stretches from empty, (count, REQUESTS).

    slower : factor on the service times (mean 1 s) of the same requests
    """
    random = np.random.default_rng((seed, 7))
    gap_s = random.exponential(1.0 / load, (count, REQUESTS))
    service_s = random.exponential(1.0, (count, REQUESTS))
    apart_s = 2.0 * REQUESTS * slower + 3.0 * REQUESTS / load
    arrival_s = np.cumsum(gap_s, axis=1) + apart_s * np.arange(count)[:, None]
    run: Run = serve(jobs(arrival_s.ravel(), slower * service_s.ravel()), servers())
    found = run.sojourn_s.reshape(count, REQUESTS)
    assert run.wait_s.reshape(count, REQUESTS)[:, 0].max() == 0.0, "a stretch begins in an empty queue"
    return found


def near(share: float, expected: float, trials: int) -> None:
    """Assert that a share is what was promised within four binomial standard errors."""
    assert share == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / trials))


def folded(sojourn_s: np.ndarray) -> np.ndarray:
    """Return the means of stretches, (COMPARISONS, REPLICATES)."""
    return sojourn_s.mean(axis=1).reshape(COMPARISONS, REPLICATES)


def test_a_against_a_is_rejected_as_often_as_promised() -> None:
    found = [paired(one, other, 0.95) for one, other in zip(folded(stretches(1)), folded(stretches(2)), strict=True)]
    near(float(np.mean([each.p < 0.05 for each in found])), 0.05, COMPARISONS)
    near(float(np.mean([each.difference.low <= 0.0 <= each.difference.high for each in found])), 0.95, COMPARISONS)
    assert np.mean([each.p_wilcoxon < 0.05 for each in found]) < 0.08  # exact: at most 3.9 % at 8 replicates


def test_a_family_of_metrics_is_rejected_at_most_as_often_as_promised() -> None:
    """Four metrics of the same replays: without Holm some row is significant in more comparisons than with it."""
    metrics = {"ttft_s_mean": lambda s: s.mean(axis=1), "ttft_s_p90": lambda s: np.quantile(s, 0.9, axis=1),
               "slo_attainment": lambda s: (s < 3.0).mean(axis=1), "tpot_s_mean": lambda s: s[:, ::2].mean(axis=1)}
    rows = {label: {name: reduce(stretches(seed)) for name, reduce in metrics.items()} for label, seed in
            (("a", 1), ("b", 2))}  # fmt: skip
    plan = Plan(tuple(metrics), LABELS)
    any_plain, any_holm = 0, 0
    for k in range(FAMILIES):
        own = slice(k * REPLICATES, (k + 1) * REPLICATES)
        table = pl.concat([pl.DataFrame({"configuration": [label] * REPLICATES, "replicate": range(REPLICATES),
                                         "finished": [REQUESTS] * REPLICATES,
                                         **{name: values[own] for name, values in rows[label].items()}})
                           for label in LABELS])  # fmt: skip
        found = differences(table, plan)
        any_plain += bool((found["p"] < 0.05).any())
        any_holm += bool((found["p_adjusted"] < 0.05).any())
    assert any_holm < any_plain
    assert any_holm / FAMILIES <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / FAMILIES)


def test_a_known_difference_is_covered_and_found() -> None:
    """Service 20 % slower for the same requests at load .5: M/M/1 sojourns of 2 s and 3 s, the first 50 left out."""
    first, second = (stretches(3, 0.5, slower)[:, 50:] for slower in (1.0, 1.2))
    true_s = formulas.mm1(0.5, 1.2) - formulas.mm1(0.5, 1.0)
    assert true_s == pytest.approx(1.0)
    mean_s = float((second - first).mean())
    assert mean_s == pytest.approx(true_s, abs=0.03)
    found = [paired(one, other, 0.95) for one, other in zip(folded(first), folded(second), strict=True)]
    covered = np.mean([each.difference.low <= true_s <= each.difference.high for each in found])
    assert 0.86 < covered < 0.97, covered  # means of 150 correlated sojourns are skewed
    assert np.mean([each.p < 0.05 for each in found]) > 0.99


def test_common_random_numbers_narrow_the_interval() -> None:
    """The same 20 %, against requests of another seed: intervals several times as wide."""
    same, other = (stretches(seed, 0.5, 1.0)[:, 50:] for seed in (3, 4))
    slow = stretches(3, 0.5, 1.2)[:, 50:]
    widths = {}
    for name, base in (("paired", same), ("unpaired", other)):
        found = [paired(a, b, 0.95).difference for a, b in zip(folded(base), folded(slow), strict=True)]
        widths[name] = np.mean([each.high - each.low for each in found])
    assert widths["unpaired"] > 1.3 * widths["paired"], widths

"""Each metric against its definition, computed by hand or by a plain loop."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.engine.schema import BINS
from replay.errors import ConfigError
from replay.hardware.conf import names
from replay.metrics import METRICS, gap_quantile_s
from replay.result import Result
from replay.slo import build_slo
from tests.handmade import SLO, bin_of, request, session, trace_of, waiting

MILLISECONDS = st.integers(0, 10**6)


def summary(rows, gaps_s=None):
    return Result.from_session(session(rows, gaps_s)).summary


def test_times_of_one_request():
    numbers = summary([request(3.0)], {"gold": [0.1] * 10})
    assert numbers["queue_s_mean"] == 0.25 and numbers["ttft_s_p50"] == 0.5 and numbers["e2e_s_p99"] == 1.5
    assert numbers["tpot_s_p90"] == pytest.approx(0.1, rel=1e-12) and numbers["itl_s_mean"] == pytest.approx(0.1)
    assert 0.1 / (1 + 1 / 64) < numbers["itl_s_p50"] <= 0.1
    assert numbers["span_s"] == 1.5 and numbers["goodput_per_s"] == pytest.approx(1 / 1.5)
    assert numbers["requests_per_s"] == 2.0 and numbers["output_tokens_per_s"] == pytest.approx(11 / 1.5)


def test_itl_mean_weights_by_tokens_and_tpot_by_requests():
    long = request(0.0, output_tokens=101, first_token_s=1.0, finish_s=11.0)
    short = request(0.0, output_tokens=2, first_token_s=1.0, finish_s=2.0)
    single = request(0.0, output_tokens=1, first_token_s=1.0, finish_s=1.0, max_itl_s=None)
    numbers = summary([long, short, single])
    assert numbers["itl_s_mean"] == pytest.approx(11.0 / 101, rel=1e-12)
    assert numbers["tpot_s_mean"] == pytest.approx((0.1 + 1.0) / 2, rel=1e-12)


def test_hit_rate_weights_tokens_of_admitted_requests():
    rows = [request(0.0, prompt_tokens=1000, hit_tokens=900), request(0.0, hit_tokens=0), waiting(0.0)]
    assert summary(rows)["hit_rate"] == 900 / 1100


def test_totals_do_not_overflow_32_bits():
    rows = [request(0.0, prompt_tokens=2**30, hit_tokens=2**29, output_tokens=2**30, finish_s=2**20)] * 5
    numbers = summary(rows)
    assert numbers["hit_rate"] == 0.5 and numbers["output_tokens_per_s"] == 5 * 2**30 / 2**20
    assert numbers["itl_s_mean"] == pytest.approx((2**20 - 0.5) / (2**30 - 1), rel=1e-12)


def test_attainment_counts_every_arrived_request():
    rows = [
        request(0.0),
        request(0.0, first_token_s=1.5, finish_s=2.0),  # late first token
        request(0.0, finish_s=9.0),  # slow
        request(0.0, tier="bronze", first_token_s=4.5, finish_s=5.0, max_itl_s=2.5),  # one long gap
        request(0.0, tier="bronze", first_token_s=4.5, finish_s=10.0),
        waiting(0.0, "rejected"),
        waiting(0.0, "failed"),
        waiting(0.0),
        waiting(None, "rejected"),  # later turn of a refused session
        waiting(None),  # never reached by an interrupted replay
    ]
    numbers = summary(rows)
    assert numbers["slo_attainment"] == 2 / 9
    assert numbers["arrived"] == 9 and numbers["requests"] == 10
    assert numbers["gold.slo_attainment"] == 1 / 7 and numbers["bronze.slo_attainment"] == 1 / 2
    assert numbers["weighted_attainment"] == pytest.approx((3 + 1) / (7 * 3 + 2))
    assert numbers["goodput_per_s"] == 2 / 10.0
    assert numbers["gold.goodput_per_s"] + numbers["bronze.goodput_per_s"] == pytest.approx(numbers["goodput_per_s"])
    assert (numbers["rejected"], numbers["failed"], numbers["unfinished"]) == (2, 1, 2)


def test_a_single_token_breaks_no_promise_on_gaps():
    row = request(0.0, tier="bronze", output_tokens=1, finish_s=0.5, max_itl_s=None)
    assert summary([row])["slo_attainment"] == 1.0


def test_prefill_work_is_that_of_the_prefill_capable_instances():
    numbers = summary([request(0.0), request(1.0, prompt_tokens=50, hit_tokens=0), waiting(2.0)])
    assert numbers["prefill_tokens"] == 100 - 20 + 50 and numbers["prefill_busy_s"] == 0.75
    assert not any(name.startswith(("hit_rate_", "load_", "bronze.prefill")) for name in numbers)


def test_undefined_numbers_are_none_and_never_nan():
    for rows in ([waiting(0.0)], [waiting(None)], [request(0.0, output_tokens=1, finish_s=0.5, max_itl_s=None)]):
        numbers = summary(rows)
        assert not any(isinstance(value, float) and not math.isfinite(value) for value in numbers.values())
        assert numbers["tpot_s_mean"] is None and numbers["itl_s_p99"] is None and numbers["itl_s_mean"] is None
    assert summary([waiting(0.0)])["hit_rate"] is None


def test_summary_has_every_promised_key():
    numbers = summary([request(0.0)])
    promised = {
        "requests", "finished", "rejected", "unfinished", "failed", "events", "kernel_s", "requests_per_s", "hit_rate",
        "goodput_per_s", "slo_attainment", "digest", "prefill_tokens", "prefill_busy_s",
    }  # fmt: skip
    assert promised <= set(numbers)
    for prefix in ("", "gold.", "bronze."):
        assert {f"{prefix}{m}_{s}" for m in METRICS for s in ("mean", "p50", "p90", "p99")} <= set(numbers)
        assert {f"{prefix}requests", f"{prefix}slo_attainment", f"{prefix}goodput_per_s"} <= set(numbers)
    assert numbers["bronze.requests"] == 0 and numbers["bronze.ttft_s_p50"] is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(64, 2**50), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_gap_quantile_is_within_one_bin_of_the_exact_one(gaps_ps, quantile):
    histogram = np.bincount([bin_of(gap) for gap in gaps_ps], minlength=BINS)
    exact_ps = sorted(gaps_ps)[math.ceil(quantile * len(gaps_ps)) - 1]
    found_ps = gap_quantile_s(histogram, quantile) * 1e12
    assert exact_ps * 64 / 65 * (1 - 1e-9) <= found_ps <= exact_ps * (1 + 1e-9)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(MILLISECONDS, MILLISECONDS, st.sampled_from(["gold", "bronze"])), min_size=1))
def test_quantiles_and_tiers_equal_a_plain_computation(histories):
    rows = []
    for arrival_ms, first_ms, tier in histories:
        first_s = (arrival_ms + first_ms) / 1000
        times = {"scheduled_s": first_s, "first_token_s": first_s, "finish_s": first_s + 1}
        rows.append(request(arrival_ms / 1000, tier=tier, **times))
    numbers = summary(rows)
    for prefix, tiers in (("", ("gold", "bronze")), ("gold.", ("gold",)), ("bronze.", ("bronze",))):
        exact = [row["first_token_s"] - row["arrival_s"] for row in rows if row["tier"] in tiers]
        assert numbers[f"{prefix}requests"] == len(exact)
        if exact:
            assert numbers[f"{prefix}ttft_s_p90"] == pytest.approx(np.quantile(exact, 0.9), abs=1e-9)
            assert numbers[f"{prefix}ttft_s_mean"] == pytest.approx(np.mean(exact), abs=1e-9)


@pytest.mark.parametrize("name", ["gold_silver_bronze", "none", "single"])
def test_every_slo_file_builds(name):
    assert name in names("slo")
    slo = build_slo(name)
    assert slo.default in slo.names and len(slo.names) == len(set(slo.names))


def test_tier_order_is_urgency_and_a_trace_without_tiers_gets_the_default():
    slo = build_slo({"tiers": SLO, "default": "bronze"})
    rows = [request(0.0, tier="bronze"), request(0.0)]
    assert slo.codes(trace_of(rows)).tolist() == [1, 0]
    bare = trace_of(rows)
    bare = type(bare)(bare.table.drop_columns(["tier"]), "bare")
    assert slo.codes(bare).tolist() == [1, 1]


def test_an_unlisted_tier_is_refused_or_joins_the_default():
    trace = trace_of([request(0.0), request(0.0, tier="platinum")])
    with pytest.raises(ConfigError, match="request 1 .* 'platinum'.*slo.unlisted=default"):
        build_slo(SLO).codes(trace)
    assert build_slo({"tiers": SLO, "unlisted": "default"}).codes(trace).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"tiers": {"gold": {"tfft_s": 1.0}}}, "no key 'tfft_s'. Did you mean 'ttft_s'"),
        ({"tiers": {"gold": {"ttft_s": -1.0}}}, "positive number, but is -1.0"),
        ({"tiers": {"gold": {"ttft_s": float("nan")}}}, "positive number, but is nan"),
        ({"tiers": {"gold": {"ttft_s": "soon"}}}, "positive number, but is 'soon'"),
        ({"tiers": {"gold": 3}}, "must map targets to seconds"),
        ({"tiers": {}}, "at least one tier"),
        ({"tiers": SLO, "default": "gould"}, "Did you mean 'gold'"),
        ({"tiers": SLO, "unlisted": "ignore"}, "slo.unlisted has no choice 'ignore'"),
        ("golden", "no slo called 'golden'"),
        (3, "must be a configuration node or a name"),
    ],
)
def test_bad_objectives_are_refused_with_a_sentence(spec, words):
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        build_slo(spec)


def test_met_never_gives_null():
    frame = Result.from_session(session([request(0.0), waiting(None), waiting(0.0, "failed")])).requests
    assert frame["slo_met"].to_list() == [True, False, False] and frame["slo_met"].dtype == pl.Boolean

"""Cost, revenue, margin and energy: cases by hand, and the laws that their parts add up."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.attribution import input_share
from replay.cost import by_tier, numbers, revenue, tally, traffic_usd, usd_per_hour
from replay.energy import energy_kwh
from replay.engine.schema import INSTANCE
from replay.errors import ConfigError
from replay.fabric import BACK_END, FRONT_END, KINDS
from replay.prices import Prices
from replay.result import Result
from replay.session import Session, replay
from replay.slo import build_slo
from replay.table import by_tier as tier_table
from replay.table import money
from tests.handmade import SLO, request, session, waiting
from tests.small import small_cluster, small_instance, small_profile, small_trace

HOUR_S = 3600.0
SOLD = {"gold": {"ttft_s": 1.0, "price_usd": 10.0, "input_price_usd": 4.0, "cached_price_usd": 1.0},
        "bronze": {"penalty_usd": 0.5}}  # fmt: skip
USD_TOKENS = st.integers(0, 10**6)


def on(roles, *profiles, **more):
    """Return a cluster of one instance a role, each with its profile."""
    pairs = zip(roles, profiles, strict=True)
    return small_cluster([small_instance(role, profile) for role, profile in pairs], **more)


def priced(usd, **fields):
    """Return a profile of an instance that costs so much an hour."""
    return replace(small_profile(iteration_ps=1000, prefill_token_ps=10), price_per_hour=usd, **fields)


def an_hour(**more):
    """Return a session of one hour on a prefill instance of 3 USD an hour and a decode instance of 6."""
    rows = [
        request(0.0, prompt_tokens=1000, hit_tokens=200, output_tokens=500, finish_s=HOUR_S),
        request(0.0, prompt_tokens=400, hit_tokens=0, output_tokens=100, tier="bronze"),
    ]
    made = session(rows, slo=more.pop("slo", SLO))
    made.cluster = on(("prefill", "decode"), priced(3.0, **more), priced(6.0, **more))
    return made


def test_the_cost_of_an_hour_by_hand():
    """9 USD: 3 of input (two thirds of the computed tokens gold's), 6 of output (five sixths of them gold's)."""
    found = Result.from_session(an_hour()).summary
    assert (found["usd_per_hour"], found["usd_per_hour_gpu"], found["usd_per_hour_cpu"]) == (9.0, 9.0, 0.0)
    assert (found["cost_usd"], found["input_cost_usd"], found["output_cost_usd"]) == (9.0, 3.0, 6.0)
    assert found["usd_per_million_tokens"] == pytest.approx(9.0 / 600 * 1e6)
    assert found["usd_per_million_input_tokens"] == pytest.approx(3.0 / 1400 * 1e6)
    assert found["usd_per_million_output_tokens"] == pytest.approx(6.0 / 600 * 1e6)
    assert found["gold.cost_usd"] == pytest.approx(2.0 + 5.0) and found["bronze.cost_usd"] == pytest.approx(1.0 + 1.0)
    assert not {"revenue_usd", "margin_usd", "energy_kwh", "gold.margin"} & set(found)


def test_revenue_and_margin_by_hand():
    """Gold met: 800 tokens at 4, 200 cached at 1, 500 out at 10 USD a million; bronze pays nothing, and met too."""
    found = Result.from_session(an_hour(slo=SOLD)).summary
    assert found["gold.revenue_usd"] == pytest.approx((800 * 4 + 200 + 5000) / 1e6)
    assert found["bronze.revenue_usd"] == 0.0 and found["bronze.margin"] is None
    assert found["gold.margin_usd"] == pytest.approx(found["gold.revenue_usd"] - 7.0)
    assert found["margin"] == pytest.approx(1.0 - 9.0 / 0.0084)
    assert found["margin_of_cost"] == pytest.approx(0.0084 / 9.0 - 1.0)


def test_revenue_pays_for_what_was_met_and_fines_the_rest():
    """Two gold requests of 500,000 tokens at $3 a million, one late; a bronze one rejected, one that never arrived."""
    slo = build_slo({"gold": {"ttft_s": 1.0, "price_usd": 3.0, "penalty_usd": 0.25}, "bronze": {"penalty_usd": 0.5}})
    rows = pl.DataFrame({
        "tier": ["gold", "gold", "bronze", "bronze"], "generated_tokens": [500_000, 500_000, 0, 0],
        "slo_met": [True, False, False, False], "status": ["finished", "finished", "rejected", "unfinished"],
        "arrival_ps": [0, 0, None, None], "scheduled_ps": [0, 0, None, None], "prompt_tokens": [9] * 4,
        "hit_tokens": [0] * 4,
    })  # fmt: skip
    assert revenue(slo, tally(rows)) == {"gold": pytest.approx(1.5 - 0.25), "bronze": pytest.approx(-0.5)}
    assert revenue(build_slo({"gold": {}}), tally(rows)) == {}


def test_cached_tokens_cost_what_input_does_unless_they_have_a_price():
    met = {"gold": {**dict.fromkeys(tally(pl_rows()), 0), "sold_input_tokens": 1_000_000, "sold_cached_tokens": 400_000,
                    "sold_output_tokens": 0, "missed": 0}}  # fmt: skip
    for cached, usd in ((None, 5.0), (0.0, 3.0), (1.0, 3.4)):
        slo = build_slo({"gold": {"input_price_usd": 5.0, "cached_price_usd": cached}})
        assert revenue(slo, met) == {"gold": pytest.approx(usd)}


def pl_rows():
    """Return one request as a frame."""
    return Result.from_session(session([request(0.0)])).requests


def test_totals_do_not_overflow_32_bits():
    rows = [request(0.0, prompt_tokens=2**30, hit_tokens=2**29, output_tokens=2**30, finish_s=2**20)] * 5
    counted = tally(Result.from_session(session(rows)).requests)["gold"]
    assert counted["computed_tokens"] == 5 * 2**29 and counted["generated_tokens"] == 5 * 2**30


def test_a_mixed_instance_is_split_by_what_its_prompt_tokens_take_in_full_iterations():
    """1000 ps an iteration and 10 ps a token: 16 tokens take 1160 ps, so 100 tokens 7250 ps of 14500 busy ones."""
    instances = np.zeros(3, INSTANCE)
    instances["prefill_done_tokens"], instances["busy_ps"] = (100, 0, 0), (14_500, 0, 0)
    mixed, decode = priced(4.0), priced(12.0)
    rows = pl_rows()
    assert input_share(on(["mixed"], mixed), instances[:1], rows) == pytest.approx(0.5)
    assert input_share(on(["mixed"] * 2, mixed, mixed), instances[:2], rows) == pytest.approx(0.5)  # one never ran
    assert input_share(on(["mixed", "decode"], mixed, decode), instances[:2], rows) == pytest.approx(0.125)
    assert input_share(on(["mixed"], mixed), instances[1:2], rows) == 0.5  # nobody ran
    free = on(["prefill", "decode", "decode"], *[priced(0.0)] * 3)
    assert input_share(free, instances, rows) == pytest.approx(1 / 3)


def test_prompts_alone_in_full_iterations_are_all_input():
    """Each computes 4 iterations of 16 tokens and ends with its first token: nothing is left for output."""
    cluster = on(["mixed"], priced(2.0, prefill_token_sq_fs=7000))
    run = Session(small_trace([(0, 64, 1), (50, 64, 1), (99, 32, 1)]), cluster, slo="none")
    while not run.advance(1000):
        pass
    result = run.result()
    assert input_share(cluster, run.state.instances, result.requests) == pytest.approx(1.0, rel=1e-9)
    assert result.summary["output_cost_usd"] == pytest.approx(0.0, abs=1e-12)


def test_prices_change_no_history():
    trace = small_trace([(0, 64, 9), (50, 64, 5), (99, 32, 1)])
    cluster = on(["mixed"], priced(2.0))
    plain, dear = (replay(trace, cluster, slo="none", prices=prices) for prices in (None, "cloud"))
    assert plain.digest == dear.digest and plain.summary["usd_per_hour"] == 2.0
    assert dear.summary["usd_per_hour"] > 2.0 and 0.0 < dear.summary["input_cost_usd"] < dear.summary["cost_usd"]


def test_rates_of_a_hierarchy_and_a_fabric_by_hand():
    from replay.cluster import cluster

    kv = {"base": "dram_ssd", "dram": "both", "dram_nodes": 3, "dram_gib": 64.0, "private_gib": 32.0, "disk_gib": 512.0,
          "index": {"shards": 2, "lookup_s": 0.0, "node_s": 0.0, "gc_node_s": 0.0, "match": "prefix",
                    "belief": "exact", "lag_s": 0.0}}  # fmt: skip
    prices = Prices(cpu_usd_per_core_hour=0.1, cores_per_gpu=2.0, cores_per_dram_node=4.0, cores_per_index_shard=1.0,
                    dram_usd_per_gib_hour=0.01, host_dram_usd_per_gib_hour=0.02, ssd_usd_per_tib_hour=0.5,
                    store_usd_per_tib_hour=0.25)  # fmt: skip
    hardware = {"base": "linear", "gpus": 8, "price_per_gpu_hour": 2.0}
    found = usd_per_hour(cluster("pd_1p1d", hardware, kv=kv, fabric="pcie_gdr"), prices)
    assert found["gpu"] == 32.0 and found["cpu"] == pytest.approx(0.1 * (2 * 16 + 4 * 3 + 2))
    assert found["dram"] == pytest.approx(0.01 * 3 * 64 + 0.02 * 32)
    assert found["ssd"] == pytest.approx(0.5 * 4 * 512 / 1024)  # below each of the 3 nodes and the host
    assert found["network"] > 0 and found["electricity"] == 0.0
    assert usd_per_hour(cluster("pd_1p1d", hardware, kv={**kv, "disk": "store"}), prices)["ssd"] == 0.125


def test_traffic_is_text_out_and_what_crosses_the_front_end():
    kinds = np.zeros(len(KINDS), [("delivered_bytes", "i8"), ("network", "i4")])
    kinds["delivered_bytes"] = 2 * 10**9
    kinds["network"] = [BACK_END if kind in ("handoff", "fetch", "exchange") else FRONT_END for kind in KINDS]
    state = SimpleNamespace(wires=SimpleNamespace(kinds=kinds))
    prices = Prices(egress_usd_per_gb=0.5, token_bytes=4.0, front_end_usd_per_gb=0.25)
    here = SimpleNamespace(prices=prices, cluster=SimpleNamespace(fabric=object()), state=state)
    assert traffic_usd(here, 10**9) == pytest.approx(2.0 + 0.25 * 2 * 5)  # five kinds; other traffic is not its own
    here.cluster.fabric = None
    assert traffic_usd(here, 10**9) == pytest.approx(2.0)


def test_energy_and_its_price_by_hand():
    """Two instances of 1 GPU, 0.5 s busy of an hour: 500 W there, 100 W else, 1.5 times that from the grid."""
    made = an_hour(idle_w=100.0, busy_w=500.0)
    made.prices = Prices(electricity_usd_per_kwh=0.2, pue=1.5)
    kwh = 2 * (500 * 0.5 + 100 * 3599.5) * 1.5 / 3.6e6
    found = Result.from_session(made).summary
    assert found["energy_kwh"] == pytest.approx(kwh)
    assert found["joules_per_output_token"] == pytest.approx(kwh * 3.6e6 / 600)
    assert found["usd_per_hour_electricity"] == pytest.approx(0.2 * kwh)
    assert found["cost_usd"] == pytest.approx(9.0 + 0.2 * kwh)
    assert energy_kwh(on(["mixed"], priced(1.0, busy_w=500.0)), np.array([1]), 1.0, 1.0) is None


def test_instances_are_charged_for_the_time_that_they_were_paid():
    """A quarter of the span at $4, all of it at $6, a core a GPU at $1; 900 s at 100 W, half a second of it 500."""
    where = on(["prefill", "decode"], *[priced(usd, idle_w=100.0, busy_w=500.0) for usd in (4.0, 6.0)])
    rates = usd_per_hour(where, Prices(cpu_usd_per_core_hour=1.0, cores_per_gpu=1.0), np.array([0.25, 1.0]))
    assert (rates["gpu"], rates["cpu"]) == (7.0, 1.25)
    assert input_share(where, np.zeros(2, INSTANCE), pl_rows(), np.array([0.25, 1.0])) == pytest.approx(1 / 7)
    kwh = energy_kwh(where, np.array([5 * 10**11, 0]), np.array([900.0, 3600.0]), 1.0)
    assert kwh == pytest.approx((500 * 0.5 + 100 * 899.5 + 100 * 3600) / 3.6e6)


def test_nothing_that_finished_has_no_cost_of_tokens_but_a_price_an_hour():
    made = session([waiting(0.0)], slo=SOLD)
    made.cluster = on(["prefill", "decode"], priced(3.0), priced(6.0))
    found, tiers = numbers(made, Result.from_session(made).requests)
    assert found["usd_per_hour"] == 9.0 and found["cost_usd"] is None and found["usd_per_million_tokens"] is None
    assert found["revenue_usd"] == 0.0 and "margin_usd" not in found
    assert tiers == {"gold.revenue_usd": 0.0, "bronze.revenue_usd": 0.0}


ROW = st.fixed_dictionaries({
    "prompt_tokens": st.integers(1, 10**6), "output_tokens": st.integers(1, 10**4),
    "tier": st.sampled_from(["gold", "bronze"]), "finish_s": st.floats(0.5, 1e5), "hit_tokens": st.integers(0, 1),
})  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=8), st.tuples(*[st.sampled_from(["prefill", "mixed", "decode"])] * 2),
       st.floats(0.0, 100.0), st.floats(0.01, 100.0), st.floats(0.0, 10.0))  # fmt: skip
def test_parts_and_tiers_add_up(rows, roles, first_usd, second_usd, egress):
    made = session([request(0.0, **row) for row in rows], slo=SOLD)
    made.cluster = on(roles, priced(first_usd, idle_w=9.0, busy_w=10.0), priced(second_usd, idle_w=9.0, busy_w=10.0))
    made.prices = Prices(egress_usd_per_gb=egress, electricity_usd_per_kwh=0.1)
    found, tiers = numbers(made, Result.from_session(made).requests)
    parts = [value for key, value in found.items() if key.startswith("usd_per_hour_")]
    assert sum(parts) == pytest.approx(found["usd_per_hour"], rel=1e-12)
    assert found["input_cost_usd"] + found["output_cost_usd"] == pytest.approx(found["cost_usd"], rel=1e-12)
    assert 0.0 <= found["input_cost_usd"] <= found["cost_usd"]
    for key in ("cost_usd", "revenue_usd", "margin_usd"):
        assert tiers[f"gold.{key}"] + tiers[f"bronze.{key}"] == pytest.approx(found[key], rel=1e-9, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(1, 9), USD_TOKENS, USD_TOKENS), min_size=1),
       st.floats(0, 1e6), st.floats(0, 1e6))  # fmt: skip
def test_tiers_share_the_whole_cost(counts, input_usd, output_usd):
    names = ("requests", "computed_tokens", "generated_tokens")
    costs = by_tier(input_usd, output_usd, {tier: dict(zip(names, row, strict=True)) for tier, row in counts.items()})
    assert sum(costs.values()) == pytest.approx(input_usd + output_usd) and min(costs.values()) >= 0.0


def test_the_terminal_says_what_it_cost_and_earned():
    sold = Result.from_session(an_hour(slo=SOLD, idle_w=100.0, busy_w=500.0)).summary
    assert money(sold) == ["", "cost $9.000 ($9.000 an hour), $2,143 for 1M input tokens, $10,000 for 1M output tokens",
                           "margin -$8.992, -99.9 % of cost; 0.200 kWh, 1,201 J for an output token"]  # fmt: skip
    headings = [str(column.header) for column in tier_table(sold).columns]
    assert headings[-2:] == ["revenue\n$", "margin\n$"]
    plain = Result.from_session(session([request(0.0)])).summary
    assert money(plain) == [] and len(tier_table(plain).columns) == len(headings) - 2


@pytest.mark.parametrize("key", ["price_usd", "input_price_usd", "cached_price_usd", "penalty_usd"])
def test_a_price_of_a_tier_below_zero_is_refused(key):
    with pytest.raises(ConfigError, match=f"slo.tiers.gold.{key} must be finite, at least 0, but is -1"):
        build_slo({"gold": {key: -1}})
    with pytest.raises(ConfigError, match="slo.tenants.a must be finite, above 0, but is 0"):
        build_slo({"tiers": {"gold": {}}, "tenants": {"a": 0}})

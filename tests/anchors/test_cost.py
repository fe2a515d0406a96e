"""DeepSeek's published day: what its clusters cost, what its tokens would earn, and what is left."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from replay.cost import numbers
from replay.engine.schema import INSTANCE
from replay.prices import Prices
from replay.slo import build_slo
from tests.small import small_cluster, small_instance, small_profile

DAY_S = 86_400
NODES, GPUS_A_NODE, USD_A_GPU_HOUR = 226.75, 8, 2.0
INPUT_TOKENS, CACHED_TOKENS, OUTPUT_TOKENS = 608 * 10**9, 342 * 10**9, 168 * 10**9
PREFILL_NODES = INPUT_TOKENS / DAY_S / 73_700  # 73.7 thousand input tokens a second for each of them
R1 = {"all": {"input_price_usd": 0.55, "cached_price_usd": 0.14, "price_usd": 2.19}}


def node_instance(role: str, nodes: float):
    """Return an instance that stands for so many nodes."""
    usd_per_hour = nodes * GPUS_A_NODE * USD_A_GPU_HOUR
    return small_instance(role, replace(small_profile(iteration_ps=1), price_per_hour=usd_per_hour))


def the_day(**tokens):
    """Return what the summary says of one day, told as one request of all tokens that met its targets."""
    row = {"tier": "all", "status": "finished", "slo_met": True, "arrival_ps": 0, "scheduled_ps": 0,
           "finish_ps": DAY_S * 10**12, "prompt_tokens": INPUT_TOKENS, "hit_tokens": CACHED_TOKENS,
           "generated_tokens": OUTPUT_TOKENS, "prefill_instance": 0}  # fmt: skip
    cluster = small_cluster([node_instance("prefill", PREFILL_NODES), node_instance("decode", NODES - PREFILL_NODES)])
    session = SimpleNamespace(cluster=cluster, prices=Prices(), slo=build_slo(R1),
                              state=SimpleNamespace(instances=np.zeros(2, INSTANCE)))  # fmt: skip
    return numbers(session, pl.DataFrame([row | tokens]))[0]


def test_a_day_of_deepseek_costs_and_earns_what_it_published():
    """$87,072; $562,027 at R1's prices, of which the tokens as published, in whole billions, give 0.013 % more; 545 %.

    source : DeepSeek, DeepSeek-V3/R1 Inference System Overview (open-infra-index, 2025)
    """
    found = the_day()
    assert found["cost_usd"] == pytest.approx(87_072)
    assert found["revenue_usd"] == pytest.approx(562_027, rel=2e-4)
    assert found["margin_of_cost"] == pytest.approx(5.45, abs=0.01)
    assert found["margin_usd"] == pytest.approx(562_027 - 87_072, rel=2e-4)


def test_its_input_and_output_cost_what_their_nodes_do():
    """95.5 nodes prefill 608 billion tokens, 131 decode 168 billion: 6 and 30 cents a million."""
    found = the_day()
    assert found["usd_per_million_input_tokens"] == pytest.approx(95.5 * 8 * 2 * 24 / 608e3, rel=1e-3)
    assert found["usd_per_million_output_tokens"] == pytest.approx(131.27 * 8 * 2 * 24 / 168e3, rel=1e-3)
    assert found["usd_per_million_tokens"] == pytest.approx(87_072 / 168e3)


def test_hits_sell_for_a_quarter():
    """Were none of the 342 billion cached tokens found, each million of them would earn 0.41 USD more."""
    assert the_day(hit_tokens=0)["revenue_usd"] - the_day()["revenue_usd"] == pytest.approx(342e3 * 0.41)

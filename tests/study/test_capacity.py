"""Capacity: the closed forms of a prefill pool and of continuous batching are found, and cut runs cut nothing off."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from replay import cli
from replay.cluster import cluster
from replay.metrics import SLO_ATTAINMENT
from replay.session import Session
from replay.study.capacity import capacity, certain_misses, judged
from tests.anchors.stations import UNIT_S, compiled, poisson
from tests.anchors.test_continuous_batching import FIXED_S, REQUEST_S, TOKENS, batching_instance, lengths
from tests.anchors.test_split_clusters import split
from traces.schema import Trace, build
from traces.window import scale_rate

TOLERANCE = 0.01  # of the bisection; what is found may be off by that, and by what a finite sample is off


def md1_wait(rate: float, service_s: float, wait_s: float) -> float:
    """Return P(wait <= t) of M/D/1 (Erlang 1909): (1 - R) sum over k of (-x)^k e^x / k! with x = rate (t - k D)."""
    load, total = rate * service_s, 0.0
    for k in range(int(wait_s / service_s) + 1):
        x = rate * (wait_s - k * service_s)
        total += (-x) ** k / math.factorial(k) * math.exp(x)
    return (1.0 - load) * total


def bisected(share: Any, target: float) -> float:
    """Return the rate at which a falling share reaches a target."""
    low, high = 1e-6, 0.999
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if share(middle) >= target else (low, middle)
    return low


@compiled
@pytest.mark.parametrize(("target", "times"), [(0.9, 3.0), (0.9, 6.0), (0.5, 2.0)])
def test_a_prefill_pool_carries_what_md1_says(target: float, times: float) -> None:
    prompt_tokens, count = 2000, 150_000
    service_s = prompt_tokens * UNIT_S
    ones = np.ones(count, np.int32)
    trace = build("fixed", {"arrival_s": poisson(7, count, 1.0 / service_s), "prompt_tokens": prompt_tokens * ones,
                            "output_tokens": ones})  # fmt: skip
    where, slo = split(), {"tiers": {"all": {"ttft_s": times * service_s + 1e-6}}, "default": "all"}

    def keeps(scale: float) -> bool:
        return judged(Session(scale_rate(trace, scale), where, slo=slo), target).keeps

    expected = bisected(lambda load: md1_wait(load / service_s, service_s, (times - 1) * service_s), target)
    assert capacity(keeps, TOLERANCE) == pytest.approx(expected, rel=TOLERANCE + 0.01)


@compiled
@pytest.mark.parametrize("rate", [4.0, 8.0])
def test_continuous_batching_carries_what_its_closed_form_says(rate: float) -> None:
    # E[TPOT] = (a + b) / (1 - rate E[L] b): with so many requests at once, half of them are above and half below.
    tpot_s = (FIXED_S + REQUEST_S) / (1.0 - rate * TOKENS * REQUEST_S)
    count = 20_000
    ones = np.ones(count, np.int32)
    trace = build("fixed", {"arrival_s": poisson(9, count, rate), "prompt_tokens": ones,
                            "output_tokens": lengths("deterministic", count)})  # fmt: skip
    where, slo = batching_instance(), {"tiers": {"all": {"tpot_s": tpot_s}}, "default": "all"}

    def keeps(scale: float) -> bool:
        return judged(Session(scale_rate(trace, scale), where, slo=slo), 0.5).keeps

    assert capacity(keeps, TOLERANCE) == pytest.approx(1.0, rel=TOLERANCE + 0.02)


def loaded(scale: float, count: int = 3000) -> tuple[Trace, Any]:
    """Return a trace of a loaded cluster, and the cluster."""
    random = np.random.default_rng(3)
    trace = build("loaded", {"arrival_s": poisson(5, count, 6.0 * scale),
                             "prompt_tokens": random.integers(100, 4000, count),
                             "output_tokens": random.integers(1, 300, count)})  # fmt: skip
    return trace, cluster("mixed_4", hardware="h100", model="llama3_70b", mixed=1, kv_blocks=4000)


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_a_certain_miss_is_a_miss_of_the_whole_run(scale: float) -> None:
    trace, where = loaded(scale)
    session = Session(trace, where)
    seen = [0]
    while not session.advance(300):
        seen.append(certain_misses(session))
    whole = session.result().requests
    missed = int(whole.height * (1.0 - float(whole.select(SLO_ATTAINMENT).item())) + 0.5)
    assert seen == sorted(seen) and seen[-1] <= missed
    assert scale < 1 or seen[-1] > 0.3 * missed > 0


def test_a_run_that_is_cut_short_has_the_verdict_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.study.capacity.EVENTS_A_SLICE", 500)
    monkeypatch.setattr("replay.study.capacity.WORTH", 0.0)
    for scale in (0.3, 1.0, 3.0):
        trace, where = loaded(scale, 1500)
        session = Session(trace, where)
        while not session.advance(10**6):
            pass
        attained = float(session.result().requests.select(SLO_ATTAINMENT).item())
        for target in (0.05, 0.5, 0.9, 0.99):
            verdict = judged(Session(trace, where), target)
            assert verdict.keeps == (attained >= target)
            assert verdict.attained in (None, attained) and (verdict.attained is None) <= (attained < target)
    assert judged(Session(trace, where), 0.9).attained is None


def test_the_command_writes_capacities_and_curves(tmp_path: Path, capsys: Any) -> None:
    command = ["capacity", "trace.requests=400", "cluster.mixed=1", "policy/route=round_robin,kv_locality",
               "capacity.tolerance=0.1", "capacity.around=0.5,1", "capacity.slo_scales=0.5,1", f"out_dir={tmp_path}"]
    assert cli.main(command) == 0
    told = capsys.readouterr().out
    rows = pl.read_parquet(tmp_path / "capacities.parquet")
    curve, slo = pl.read_parquet(tmp_path / "curve.parquet"), pl.read_parquet(tmp_path / "slo_curve.parquet")
    assert rows["configuration"].to_list() == ["policy/route=round_robin", "policy/route=kv_locality"]
    assert (rows["slo_attainment"] >= 0.9).all() and curve.height == slo.height == 4
    assert (rows["requests_per_s_per_gpu"] * rows["gpus"] - rows["requests_per_s"]).abs().max() < 1e-9
    at_capacity = curve.filter(pl.col("rate_scale").is_in(rows["rate_scale"].implode()))
    assert at_capacity["slo_attainment"].to_list() == rows["slo_attainment"].to_list()
    assert slo.filter(slo_scale=0.5)["slo_attainment"].max() <= slo.filter(slo_scale=1.0)["slo_attainment"].min()
    assert "policy/route=kv_locality" in told and "a GPU" in told
    assert json.loads((tmp_path / "summary.json").read_text())["configuration"] == "policy/route=round_robin"


@pytest.mark.parametrize("wrong", ["target=1.5", "target=x", "tolerance=0", "around=0.5,x", "slo_scales=-1", "rate=2"])
def test_wrong_keys_are_told(wrong: str, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["capacity", f"capacity.{wrong}", f"out_dir={tmp_path / 'x'}"]) == 1
    assert "capacity." in capsys.readouterr().err and not (tmp_path / "x").exists()

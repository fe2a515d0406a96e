"""Regret of routing by hindsight: exact on cases worked out by hand, never negative, and of no effect on the replay."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from replay import cli
from replay.errors import ConfigError
from replay.session import Session
from replay.study.regret import decisions, summary
from tests.refusals import refused
from tests.scenarios import scenario_of
from tests.sessions import finished, session_of
from tests.small import small_cluster, small_instance, small_profile, small_trace

PS = 1e-12


def two(route: str, rows: list[tuple[int, int, int]]) -> Session:
    """Open a session on a slow instance, 0, and one three times as fast."""
    slow, fast = (small_profile(iteration_ps=step, prefill_token_ps=0) for step in (300, 100))
    cluster = small_cluster([small_instance("mixed", profile, max_batch=1, kv_blocks=100) for profile in (slow, fast)])
    return Session(small_trace(rows), cluster, {"route": route})


def test_the_slow_instance_costs_the_difference() -> None:
    """One iteration a token: 4 tokens take 1200 ps or 400 ps, the first 300 or 100."""
    found = decisions(two("least_loaded", [(0, 1, 4)]), 10, 0).row(0, named=True)
    assert (found["chosen"], found["best"], found["rank"]) == (0, 1, 1)
    assert found["ttft_s"] == pytest.approx(300 * PS) and found["regret_ttft_s"] == pytest.approx(200 * PS)
    assert found["e2e_s"] == pytest.approx(1200 * PS) and found["regret_e2e_s"] == pytest.approx(800 * PS)


def test_regret_counts_the_queue_that_was_there() -> None:
    """The second of two at once goes to the fast one, idle then: no regret; a third finds both busy."""
    rows = [(0, 1, 4), (0, 1, 4), (10, 1, 1)]
    found = {row["request"]: row for row in decisions(two("least_loaded", rows), 10, 0).rows(named=True)}
    assert found[1]["chosen"] == 1 and found[1]["regret_ttft_s"] == 0
    assert found[2]["chosen"] == 0  # both have one: the tie goes to the slow one, free at 1200 instead of 400
    assert found[2]["regret_ttft_s"] == pytest.approx((1200 + 300 - 400 - 100) * PS)


def test_the_best_choice_has_no_regret() -> None:
    rows = [(2000 * k, 1, 3) for k in range(5)]
    found = decisions(two("expected_ttft", rows), 10, 0)
    assert found["chosen"].to_list() == [1] * 5 and found["regret_ttft_s"].sum() == 0
    assert summary(found)["best_share"] == 1.0


@pytest.mark.parametrize("seed", range(0, 24, 2))
def test_looking_changes_nothing(seed: int) -> None:
    """Whatever the scenario: regret is not negative, and the session goes on to the bytes of one nobody looked into."""
    case = scenario_of(seed, 20)
    session = session_of(case)
    try:
        found = decisions(session, 4, seed)
    except ConfigError as error:
        assert "no decision" in str(error)
    else:
        assert (found.select(pl.selectors.starts_with("regret")).min_horizontal() >= 0).all()
        assert (found["best_ttft_s"] <= found["ttft_s"]).all()
    session.state.cluster["stop_at"] = -1
    assert finished(session).result().digest == finished(session_of(case)).result().digest


def test_the_command_and_its_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = ["hardware=linear", "trace.requests=60", "cluster=mixed_4"]
    assert cli.main(["regret", *run, "regret.sample=8", "out_dir=mine"]) == 0
    assert "8 decisions of least_loaded" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"regret.parquet", "summary.json"}
    assert pl.read_parquet(tmp_path / "mine" / "regret.parquet").height == 8
    wrong: list[tuple[list[Any], str]] = [
        (["regret.sample=0"], "regret.sample must be a whole number from 1"),
        (["regret.samples=4"], "there is no key 'regret.samples'"), (["-m"], "regret looks at one run"),
        (["kv=dram", "kv.index.shards=2"], "regret needs decisions at arrivals"),
        (["policy/admit=queue_limit", "policy.admit.limit=0"], "regret found no decision"),
    ]  # fmt: skip
    for more, words in wrong:
        refused(["regret", *run, *more, "out_dir=other"], words, tmp_path, capsys)


def test_bounds_are_a_table_of_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six runs; those of the cache can only help hits here; what does not fit a bound is left out of its command."""
    monkeypatch.chdir(tmp_path)
    run = ["bounds", "hardware=linear", "trace.requests=300", "cluster=pd_1p1d", "cluster.kv_blocks=400"]
    run += ["policy/order=priority_by_tier", "policy.order.aging_s=3"]
    run += ["policy/evict=gdsf", "policy.evict.attention=0.1"]
    assert cli.main([*run, "out_dir=mine"]) == 0
    assert "Belady's eviction" in capsys.readouterr().out
    frame = pl.read_parquet(tmp_path / "mine" / "comparison.parquet")
    assert frame["bound"].to_list()[0] == "as chosen" and frame.height == 6 and frame["error"].null_count() == 6
    hits = dict(zip(frame["bound"], frame["hit_rate"], strict=True))
    assert hits["as chosen"] <= hits["Belady's eviction"] <= hits["infinite KV memory"]
    refused([*run, "-m", "out_dir=other"], "bounds looks at one run", tmp_path, capsys)
    refused([*run, "seed=-1", "out_dir=other"], "seed must be a whole number", tmp_path, capsys)

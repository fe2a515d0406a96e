"""The study of variability: workloads of equal mean work, a station that theory knows, and a cluster that batches."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from replay import cli
from replay.study.occupancy import over_time
from replay.study.workloads import Size, backlog, workload_trace, workloads
from tests.anchors.stations import compiled
from tests.refusals import refused

SMALL = ["variability.requests=6000", "variability.replicates=6"]
STATION = ["cluster=mixed_1", "hardware=linear", "hardware.iteration_s=0", "hardware.decode_request_s=1e-12",
           "cluster.max_batch=1", "cluster.token_budget=1000000", "cluster.prefix_cache=false",
           "variability.prompt_tokens=10000", "variability.output_tokens=1"]  # fmt: skip
SIZE = Size(20_000, 1000, 100)


def spread(values: np.ndarray) -> float:
    return float(values.var() / values.mean() ** 2)


def test_workloads_have_one_mean_and_the_spread_they_say() -> None:
    found = {case.name: workload_trace(case, 5.0, SIZE, 3) for case in workloads(8)}
    for case in workloads(8):
        trace = found[case.name]
        arrivals, prompts = trace.column("arrival_s"), np.asarray(trace.column("prompt_tokens"), dtype=float)
        assert len(trace) / arrivals[-1] == pytest.approx(5.0, rel=0.05)
        assert prompts.mean() == pytest.approx(1000, rel=0.04)
        assert np.abs(trace.column("output_tokens") - prompts / 10).max() <= 0.5 or prompts.min() < 5
        gaps_scv = case.gaps_scv if case.batch == 1 else case.batch - 1
        assert spread(np.diff(arrivals)) == pytest.approx(gaps_scv, rel=0.1, abs=1e-9)
    assert spread(np.asarray(found["heavy-tailed work"].column("prompt_tokens"))) == pytest.approx(2.35, rel=0.05)
    same = (found["heavy-tailed work"], found["inference: bursty, heavy"])
    assert (same[0].column("prompt_tokens") == same[1].column("prompt_tokens")).all()
    assert not backlog("heavy", SIZE, 3).column("arrival_s").any()


def test_occupancy_over_time_by_hand() -> None:
    """One holder of 2 from 0 to 4, one of 3 from 1 to 3, looked at from 1 to 5: 5, 5, 2, 0."""
    start, end, held = np.array([0.0, 1.0]), np.array([4.0, 3.0]), np.array([2.0, 3.0])
    assert over_time(start, end, held, (1.0, 5.0)) == (3.0, 5.0)
    assert over_time(start, end, held, (3.5, 103.5)) == (pytest.approx(0.01), 0.0)
    assert over_time(start, end, held, (2.0, 2.0)) == (0.0, 0.0)


@compiled
def test_a_station_waits_as_theory_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "station"
    assert cli.main(["variability", *STATION, *SMALL, f"out_dir={folder}"]) == 0
    assert "Kingman" in (shown := capsys.readouterr().out) and "bound" in shown and "prefill" not in shown
    table = pl.read_parquet(folder / "variability.parquet")
    rows = {row["workload"]: row for row in table.iter_rows(named=True)}
    assert rows["training"]["queue_s"] == rows["training"]["kingman_s"] == 0.0
    assert rows["training, batches of 8"]["queue_s"] == pytest.approx(3.5, abs=1e-6)
    for row in rows.values():
        assert row["load"] == pytest.approx(0.8, rel=0.05)
        assert row["queue_s"] <= row["bound_s"] + 4 * row["queue_s_error"]
        if row["exact_s"] is not None:
            assert abs(row["queue_s"] - row["exact_s"]) <= 5 * row["queue_s_error"] + 1e-6
    assert sum(row["exact_s"] is not None for row in rows.values()) == 6
    assert pl.read_csv(folder / "replicates.csv").height == 6 * len(rows)
    assert "Kingman" in (folder / "variability.html").read_text()


@compiled
def test_parts_of_a_batching_cluster_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bursts lengthen what comes after the queue; work that spreads fills memory and lowers what is served."""
    asked = ["variability", "variability.requests=12000", "variability.replicates=2", "variability.batch=4"]
    tables = []
    for same in ("rate", "load"):
        assert cli.main([*asked, f"variability.same={same}", f"out_dir={tmp_path / same}"]) == 0
        shown = capsys.readouterr().out
        assert "prefill" in shown and "bound" not in shown and "places" not in shown
        tables.append(pl.read_parquet(tmp_path / same / "variability.parquet"))
    rows = {row["workload"]: row for row in tables[0].iter_rows(named=True)}
    for row in rows.values():
        assert row["e2e_s"] == pytest.approx(row["queue_s"] + row["prefill_s"] + row["decode_s"])
        assert row["exact_s"] is None and 0 < row["kv_mean"] <= row["kv_p99"]
    bursty, tail, training = rows["bursty gaps"], rows["heavy-tailed work"], rows["training"]
    assert bursty["more_decode_s"] > bursty["more_queue_s"] > 0 and bursty["running_p99"] > training["running_p99"]
    assert tail["kv_mean"] > 1.5 * training["kv_mean"] and tail["load"] > 1.1 * training["load"]
    assert tables[1]["load"].to_list() == pytest.approx([0.8] * len(rows))
    assert tables[1]["rate_per_s"][7] < 0.95 * tables[1]["rate_per_s"][0]


def test_what_cannot_be_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["variability", "trace=poisson"], "makes its own workloads", tmp_path, capsys)
    refused(["variability", "variability.load=1"], "variability.load must be a share", tmp_path, capsys)
    refused(["variability", "variability.same=work"], "variability.same must be rate or load", tmp_path, capsys)
    refused(["variability", "variability.requests=9"], "variability.requests must be", tmp_path, capsys)
    refused(["variability", "variability.cv=2"], "no key 'variability.cv'", tmp_path, capsys)
    refused(["variability", "-m"], "looks at one run", tmp_path, capsys)
    rejects = ["policy/admit=queue_limit", "policy.admit.limit=1", "variability.requests=500"]
    few = ["variability", "variability.requests=400", "variability.replicates=2", f"out_dir={tmp_path / 'few'}"]
    assert cli.main(few) == 0 and "400 requests are few for 1,024 places" in capsys.readouterr().out
    refused(["variability", *rejects, f"out_dir={tmp_path / 'out'}"], "serve every request", tmp_path, capsys)

"""The verb `compare`: replicates that configurations share, rows that say what they rest on, files together or not."""

import json
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from omegaconf import OmegaConf

from replay import cli
from replay.errors import ConfigError
from replay.metrics import HIGHER, LOWER, better
from replay.result import Result
from replay.session import Session, trie_of
from replay.study.compare import DEFAULTS, Compare
from replay.study.compare_tables import short
from replay.study.composed import Composed, compose_all
from replay.study.differences import DIFFERENCES, IDENTICAL, Plan, cautions, differences, frame, means, verdict
from replay.study.pool import in_order
from replay.study.replicates import Replicates
from replay.study.worst import parts, worst
from tests.refusals import contents, refused
from traces.schema import build

LINEAR = ["hardware=linear", "cluster=mixed_4", "trace.requests=120"]
ROUTES = "policy/route=round_robin,least_loaded"
FILES = {f"{name}.{kind}" for name in ("replicates", "differences", "worst") for kind in ("csv", "parquet")}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recorded(folder: Path, count: int = 200) -> str:
    """Write a small recorded trace and return the argument that names it."""
    rows = [f"{0.05 * k},{50 + 13 * k % 400},{1 + 7 * k % 40}" for k in range(count)]
    (folder / "rows.csv").write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows]) + "\n")
    return "trace.path=rows.csv"


def compared(arguments: Sequence[str], folder: Path) -> dict[str, pl.DataFrame]:
    """Run a comparison and return its tables."""
    assert cli.main(["compare", *arguments, f"out_dir={folder.name}"]) == 0
    assert {path.name for path in folder.iterdir()} == FILES | {"summary.json", "configurations.yaml"}
    for name in ("replicates", "differences", "worst"):
        assert pl.read_csv(folder / f"{name}.csv").height == pl.read_parquet(folder / f"{name}.parquet").height
    return {name: pl.read_parquet(folder / f"{name}.parquet") for name in ("replicates", "differences", "worst")}


def test_a_replicate_is_the_run_of_its_seed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = compared([*LINEAR, "policy/route=round_robin,random", "seed=3", "compare.replicates=6"], place / "mine")
    told = capsys.readouterr().out
    assert cli.main(["run", *LINEAR, "policy/route=random", "seed=5", "out_dir=one"]) == 0
    one, rows = Result.load(place / "one").summary, tables["replicates"]
    assert rows.height == 12 and rows.columns[:4] == ["configuration", "replicate", "requests", "finished"]
    own = rows.filter((pl.col("configuration") == "policy/route=random") & (pl.col("replicate") == 2))
    assert own["ttft_s_mean"].item() == one["ttft_s_mean"] and own["goodput_per_s"].item() == one["goodput_per_s"]
    found = tables["differences"]
    assert found.columns == list(DIFFERENCES) and found.height == 4
    p99 = found.row(by_predicate=pl.col("metric") == "ttft_s_p99", named=True)
    assert p99["note"] == "too few requests: 120 < 299" and p99["p"] is None and p99["mean_first"] > 0
    for words in ("seeds 3 to 8", "round_robin (baseline)", "too few requests: 120 < 299", "results in mine"):
        assert words in told
    numbers = json.loads((place / "mine" / "summary.json").read_text())
    assert numbers["policy/route=round_robin: ttft_s_mean"] == pytest.approx(p_mean(rows, "round_robin"))
    saved = OmegaConf.load(place / "mine" / "configurations.yaml")
    assert saved["policy/route=random"].policy.route.name == "random"


def p_mean(rows: pl.DataFrame, route: str) -> float:
    """Return the mean over replicates of a router's mean TTFT."""
    mean = rows.filter(pl.col("configuration") == f"policy/route={route}")["ttft_s_mean"].mean()
    assert isinstance(mean, float)
    return mean


def test_threads_change_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [*LINEAR, "policy/route=random,power_of_two", "compare.replicates=3"]
    first = compared(arguments, place / "first")
    monkeypatch.setattr("replay.study.pool.cores", lambda: 1)
    second = compared(arguments, place / "second")
    assert all(first[name].equals(second[name]) for name in first)


def test_windows_are_replayed_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [*LINEAR[:2], recorded(place)]
    rows = compared([*given, ROUTES, "compare.replicates=2"], place / "mine")["replicates"]
    told = capsys.readouterr().out
    assert "consecutive windows of 5 s, each replayed from an empty cluster with cold caches" in told
    assert "intervals from 2 replicates" in told
    window = "trace.window={start_s: 4.975, end_s: 100}"
    assert cli.main(["run", *given, window, "policy/route=round_robin", "seed=1", "out_dir=one"]) == 0
    own = rows.filter(pl.col("configuration").str.ends_with("round_robin") & (pl.col("replicate") == 1))
    one = Result.load(place / "one").summary
    assert own["requests"].item() == one["requests"] == 100
    assert own["ttft_s_mean"].item() == pytest.approx(one["ttft_s_mean"], rel=1e-9)


def test_bootstrap_pairs_and_a_swept_trace(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each rate has its own variant of a replicate: as many requests, the same sessions; all pairs, three of them."""
    sweep = ["trace.rate_scale=1,2,4", "compare.by=bootstrap", "compare.replicates=6", "compare.pairs=all"]
    sweep += ["compare.metrics=ttft_s_p90,e2e_s_mean", "compare.baseline=2", "-m"]
    tables = compared([*LINEAR[:2], recorded(place), *sweep], place / "mine")
    told = capsys.readouterr().out
    assert "200) drawn with replacement" in told and "ttft_s_p90" in told
    assert set(tables["replicates"]["requests"]) == {200}
    found = tables["differences"]
    assert found.height == 6 and found["p_wilcoxon"].null_count() == 6 and found["p"].null_count() == 0
    pairs = [pair for pair in found.select("first", "second").unique(maintain_order=True).iter_rows()]
    assert pairs[0] == ("trace.rate_scale=4", "trace.rate_scale=1") and len(pairs) == 3
    slower = found.filter((pl.col("metric") == "e2e_s_mean") & (pl.col("second") == "trace.rate_scale=1"))
    assert (slower["difference"] < 0).all()


def test_instants_that_many_share_are_told() -> None:
    """Four requests a second, all at once: moving them spreads them."""
    columns = {"arrival_s": [float(k // 4) for k in range(80)], "prompt_tokens": [50] * 80, "output_tokens": [5] * 80}
    runner: Any = SimpleNamespace(trace=lambda node, seed: build("fours", columns), trie=trie_of)
    for shift_s, told in ((None, 1), (0.0, 0)):
        made = Replicates(runner, "bootstrap", 3, 0, shift_s)
        assert len(set(made.make({}, 0).column("arrival_s"))) > 20 * told
        found = list(made.cautions())
        assert len(found) == told and all("100 % of the requests are recorded at one instant" in text for text in found)


def rows_of(first: Sequence[float | None], second: Sequence[float | None], metric: str, finished: int) -> pl.DataFrame:
    """Make replicates of two configurations, a and b."""
    plan = Plan((metric,), ("a", "b"))
    rows: list[dict[str, Any]] = []
    for label, values in (("a", first), ("b", second)):
        rows += [{"configuration": label, "replicate": k, "requests": 900, "finished": finished,
                  "gold.finished": finished, metric: value} for k, value in enumerate(values)]  # fmt: skip
    return frame([{name: row[name] for name in row if name in frame([], plan).columns} for row in rows], plan)


@pytest.mark.parametrize(
    ("metric", "second", "finished", "told"),
    [
        ("ttft_s_mean", [1.5, 2.4, 3.6], 5, "worse"),
        ("goodput_per_s", [1.5, 2.4, 3.6], 5, "better"),
        ("hit_rate", [0.5, 1.6, 2.4], 5, "worse"),
        ("ttft_s_mean", [1.5, 1.4, 3.2], 5, "no difference shown"),
        ("ttft_s_mean", [1.0, 2.0, 3.0], 5, IDENTICAL),
        ("ttft_s_mean", [1.5, None, 3.6], 5, "undefined in 1 of 3 replicates"),
        ("gold.ttft_s_p99", [1.5, 2.4, 3.6], 298, "too few requests: 298 < 299"),
        ("gold.ttft_s_p99", [1.5, 2.4, 3.6], 299, "worse"),
        ("e2e_s_p90", [1.5, 2.4, 3.6], 28, "too few requests: 28 < 29"),
    ],
)
def test_a_row_says_what_it_shows(metric: str, second: list[float | None], finished: int, told: str) -> None:
    plan = Plan((metric,), ("a", "b"))
    rows = rows_of([1.0, 2.0, 3.0], second, metric, finished)
    row = differences(rows, plan).row(0, named=True)
    assert verdict(row, 0.95) == told and row["mean_first"] == 2.0
    assert (row["low"] is None) == (row["p_adjusted"] is None) == told.startswith(("too few", "undefined"))
    shown = means(rows, plan).row(0, named=True)
    assert (shown["low"] is None) == told.startswith("too few")
    assert len(list(cautions(5))) == 1 and not list(cautions(6))


def test_holm_counts_every_row_that_has_a_p() -> None:
    plan = Plan(("x", "y"), ("a", "b"))
    one, other = rows_of([1, 2, 3, 4], [1.2, 2.3, 3.1, 4.4], "x", 9), rows_of([1, 2, 3, 4], [1, 2, 3, 4], "y", 9)
    found = differences(one.with_columns(y=other["y"]), plan)
    assert found["p_adjusted"].to_list() == pytest.approx([2 * found["p"][0], 1.0])


def test_the_worst_tier_and_window_by_hand() -> None:
    """Ten requests a window; the second window misses eight of ten, silver more than gold."""
    met = [*[True] * 10, *[False] * 8, True, True]
    requests = pl.DataFrame({
        "arrival_s": [0.1 * k for k in range(10)] + [1.91 - 0.1 * k for k in range(10)], "arrival_ps": list(range(20)),
        "status": ["finished"] * 20, "tier": ["gold", "silver"] * 10, "slo_met": met, "ttft_s": [1.0] * 20,
    })  # fmt: skip
    table = parts(requests, 2).select(pl.lit("a").alias("configuration"), pl.lit(4).alias("replicate"), pl.all())
    found = worst(table, 0.95)
    assert found["metric"].to_list() == ["slo_attainment"] * 2 and found["what"].to_list() == ["tier", "window"]
    assert found["value"].to_list() == pytest.approx([0.6, 0.2]) and found["name"][0] == "gold"
    assert found["name"][1] == "replicate 4, 1-2 s"
    many = table.with_columns(finished=pl.lit(299))
    assert worst(many, 0.95).height == 4 and worst(table.with_columns(arrived=pl.lit(9)), 0.95).height == 1


def test_the_way_that_is_better_is_known_in_one_place() -> None:
    assert better("gold.slo_attainment") == better("goodput_per_s") == better("hit_rate_dram") == HIGHER
    assert better("gold.ttft_s_p99") == better("usd_per_million_tokens") == better("preemptions") == LOWER


def test_names_are_short_where_one_key_differs() -> None:
    assert short(["seed=1", "seed=2"]) == ("seed", {"seed=1": "1", "seed=2": "2"})
    assert short(["a=1 b=2", "a=2"])[0] == "configuration"


def test_a_pool_takes_no_more_than_it_was_told() -> None:
    taken: list[int] = []

    def items() -> Any:
        for k in range(20):
            taken.append(k)
            yield k

    found = []
    for k in in_order(lambda k: k * k, items(), 2, ahead=3):
        found.append(k)
        assert len(taken) <= len(found) + 3
    assert found == [k * k for k in range(20)]


def test_what_cannot_be_compared_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of the command's own keys need no composing; of the others, one of each kind goes through the command."""
    rows = recorded(place)
    wrong = [
        ([ROUTES, "compare.replicates=two"], "compare.replicates must be a whole number from 1"),
        ([ROUTES, "compare.replicas=4"], "there is no key 'compare.replicas'"),
        ([ROUTES, "compare.by=days"], "compare.by must be seeds, windows or bootstrap"),
        ([ROUTES, "compare.confidence=95"], "compare.confidence must be a number from 0.5 and below 1"),
        ([ROUTES, "compare.shift_s=nan"], "compare.shift_s must be seconds from 0"),
        ([ROUTES, "compare.metrics="], "compare.metrics must be names of numbers"),
        (["policy/route=random"], "compare needs two configurations or more"),
        ([ROUTES, "compare.metrics=ttft_mean_s", "compare.replicates=2"], "there is no 'ttft_mean_s'. Did you mean"),
        ([ROUTES, rows, "compare.replicates=9999"], "each of 9999 equal windows of rows.csv must hold a request"),
        (["cluster.kv_blocks=0,5000"], "cluster.kv_blocks=0, replicate 0: "),
        ([ROUTES, "trace=sessoins"], "there is no trace called 'sessoins'"),
    ]
    for more, words in wrong:
        refused(["compare", *LINEAR, *more, "out_dir=other"], words, place, capsys)


def test_what_configurations_must_have_in_common() -> None:
    found, runner = compose_all([*LINEAR, ROUTES])  # the default folder is named by the time of composing
    first, second = found
    path = [replace(one, config=one.config | {"trace": one.config["trace"] | {"path": "rows.csv"}}) for one in found]
    seeded = replace(second, config=second.config | {"seed": 7})
    moved = replace(second, overrides=("out_dir=elsewhere", *second.overrides))
    late = replace(first, checked=replace(first.checked, seed=2**63 - 1))
    wrong: list[tuple[list[Composed], dict[str, Any], str]] = [
        (found, {"replicates": 1}, "one replicate shows no variation"),
        (found, {"baseline": "random"}, "They are: 0 policy/route=round_robin, 1 policy/route=least_loaded"),
        ([first, replace(first)], {}, "is there twice"),
        ([first, seeded], {}, "seed must be the same for every configuration"),
        ([first, moved], {}, "out_dir must be one folder"),
        ([late, second], {}, r"seed \+ compare.replicates - 1 must be below 2\^63"),
        (path, {"by": "seeds"}, "a recorded trace has one course"),
    ]
    for given, values, words in wrong:
        with pytest.raises(ConfigError, match=words):
            Compare(given, runner, DEFAULTS | values)
    assert Compare(path, runner, DEFAULTS).replicates.by == "windows"
    for text in ("1", "least_loaded", "policy/route=least_loaded"):
        assert Compare(found, runner, DEFAULTS | {"baseline": text}).plan.baseline == 1


def test_ctrl_c_writes_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second replay presses Ctrl-C in a thread of the pool."""
    before, handler, plain, calls = contents(place), signal.getsignal(signal.SIGINT), Session.advance, []

    def advance(self: Session, most: int) -> bool:
        calls.append(threading.current_thread() is threading.main_thread())
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, 10)

    monkeypatch.setattr(Session, "advance", advance)
    assert cli.main(["compare", *LINEAR, ROUTES, "compare.replicates=50", "out_dir=mine"]) == 130
    assert "interrupted: nothing was written" in capsys.readouterr().err
    assert contents(place) == before and signal.getsignal(signal.SIGINT) is handler
    assert len(calls) < 1000 and not any(calls)

"""The page and its tables: what they say is what the run directories say; bad input is one sentence."""

import json
import re
import shutil
import sys

import polars as pl
import pytest

from replay import cli, replay
from replay.metrics import HIGHER, LOWER
from replay.report.folders import read
from replay.report.names import short
from replay.report.page import Page
from replay.report.parts import Section, Table
from replay.report.tuning import pareto
from replay.report.verb import compose
from tests.report.folders import capacity_folder, compare_folder, tune_folder
from tests.small import small_cluster, small_instance, small_profile, small_trace

pytest.importorskip("plotly", reason="plotly is not installed: pip install 'kvreplay[test]'")


def sections(page: Page) -> list[str]:
    return [section.title for _, found in page.groups for section in found]


def tables(page: Page) -> dict[str, pl.DataFrame]:
    return {part.name: part.frame for part in page.parts() if isinstance(part, Table)}


def test_one_run_writes_a_page_and_its_tables(runs, tmp_path, capsys):
    folder = tmp_path / "split"
    shutil.copytree(runs / "split", folder)
    assert cli.main(["report", str(folder)]) == 0
    told = capsys.readouterr()
    assert "250 requests" in told.out and "9 figures" in told.out and told.err == ""
    text = (folder / "report.html").read_text(encoding="utf-8")
    for word in ("SLO attainment", "Latencies", "Queues and batches", "Instances", "Cost", "config.yaml", "digest"):
        assert word in text
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["digest"] in text and text.count("function(){var Plotly") <= 1
    found = pl.read_parquet(folder / "report_tables" / "summary.parquet")
    assert found["tier"].to_list() == ["all", "gold", "silver", "bronze"]
    assert found["ttft_s_p99"].to_list() == [
        summary[f"{tier}ttft_s_p99"] for tier in ("", "gold.", "silver.", "bronze.")
    ]
    listed = json.loads((folder / "report_tables" / "tables.json").read_text())
    for name in listed:
        rows = pl.read_parquet(folder / "report_tables" / f"{name}.parquet")
        assert pl.read_csv(folder / "report_tables" / f"{name}.csv", infer_schema_length=None).shape == rows.shape
    window = pl.read_parquet(folder / "report_tables" / "load.parquet")
    arrivals = (window["arrivals_per_s"] * window["length_s"]).sum()
    assert arrivals == pytest.approx(250) and window["usd_so_far"][-1] == pytest.approx(
        summary["usd_per_hour"] * summary["span_s"] / 3600
    )


def test_a_second_report_takes_away_tables_that_are_gone(runs, tmp_path):
    out = tmp_path / "page.html"
    assert cli.main(["report", str(runs / "split"), f"report.out={out}"]) == 0
    (tmp_path / "page_tables" / "mine.csv").write_text("kept\n")
    assert (tmp_path / "page_tables" / "hits_and_slo.csv").exists()
    study = tune_folder(tmp_path / "tune")
    assert cli.main(["report", str(study), f"report.out={out}"]) == 0
    names = {path.name for path in (tmp_path / "page_tables").iterdir()}
    assert "hits_and_slo.csv" not in names and {"mine.csv", "best_trials.csv", "importance.parquet"} <= names


def test_a_multirun_compares_with_the_best_in_bold(runs):
    page = compose(read([runs / "many"], 8), 60)
    assert "Comparison many" in sections(page) and "Summary" not in sections(page)
    rows = tables(page)["comparison"]
    assert rows["label"].to_list() == ["least_loaded", "kv_locality"]
    best = rows["hit_rate"].max()
    bold = [cell for cell in re.findall(r'class="best">([^<]+)<', page.html())]
    assert f"{best:.3f}" in bold and len(bold) >= 3
    only = compose(read([runs / "many"], 1), 60)
    assert "first 1 of 2 runs" in only.html() and tables(only)["comparison"].height == 2


def test_several_runs_stand_side_by_side(runs):
    page = compose(read([runs / "split", runs / "tight", runs / "many"], 8), 60)
    assert tables(page)["summary"]["run"].to_list() == ["split", "tight", "least_loaded", "kv_locality"]
    differing = tables(page)["what differs"]
    assert differing.filter(pl.col("key") == "policy.admit.name").row(0)[1:3] == ("always", "queue_limit")
    used = tables(page)["instances"]
    assert used.group_by("run").len().sort("run")["len"].to_list() == [4, 4, 2, 4]


def test_a_failed_run_of_a_multirun_keeps_its_sentence(tmp_path):
    swept = ["cluster.kv_blocks=0,-1", "trace.requests=20", f"out_dir={tmp_path / 'm'}"]
    assert cli.main(["run", "-m", *swept]) == 1
    assert cli.main(["report", str(tmp_path / "m")]) == 0
    assert "kv_blocks must be a whole number" in (tmp_path / "m" / "report.html").read_text(encoding="utf-8")


def test_studies_show_what_their_folders_have(tmp_path):
    folders = [tune_folder(tmp_path / "a"), compare_folder(tmp_path / "b"), capacity_folder(tmp_path / "c")]
    page = compose(read(folders, 8), 60)
    for title in ("History", "Pareto front", "Importance", "Parallel coordinates", "Slices", "Differences",
                  "Replicates", "Worst tiers and windows", "Capacity", "Attainment against the rate",
                  "Attainment by tier", "Attainment against the SLO", "Tuned against default"):  # fmt: skip
        assert title in sections(page), title
    verdicts = dict(tables(page)["differences"].select("metric", "verdict").head(5).iter_rows())
    assert verdicts["ttft_s_p99"] == "better" and verdicts["tpot_s_p50"] == "no difference shown"
    for path in (folders[0] / "importance.parquet", folders[0] / "summary.json", folders[0] / "best.yaml",
                 folders[1] / "worst.parquet", folders[1] / "replicates.parquet", folders[2] / "curve.parquet",
                 folders[2] / "slo_curve.parquet"):  # fmt: skip
        path.unlink()
    assert sections(compose(read(folders, 8), 60)) == [
        "History", "Best trials", "Pareto front", "Parallel coordinates", "Slices", "Differences",
        "Table of differences", "Capacity",
    ]  # fmt: skip


def test_two_multiruns_with_the_same_names_stay_apart(runs, tmp_path):
    shutil.copytree(runs / "many", tmp_path / "again")
    page = compose(read([runs / "many", tmp_path / "again", runs / "many" / "."], 8), 60)
    labels = [f"{folder}: {route}" for folder in ("many", "again") for route in ("least_loaded", "kv_locality")]
    assert tables(page)["summary"]["run"].to_list() == labels


def test_a_search_of_which_nothing_is_kept_has_a_page(tmp_path):
    folder = tune_folder(tmp_path / "tune")
    trials = pl.read_parquet(folder / "trials.parquet")
    for name, rows in (("none", trials.head(0)), ("failed", trials.with_columns(state=pl.lit("FAIL")))):
        rows.write_parquet(folder / "trials.parquet")
        page = compose(read([folder], 8), 60)
        assert "History" in sections(page) and "Best trials" not in sections(page) and page.html(), name


def test_the_front_is_what_nothing_beats():
    trials = pl.DataFrame({"objective.ttft_s_p99": [1.0, 2.0, 2.0, 3.0, 0.5, None],
                           "objective.goodput_per_s": [5.0, 6.0, 5.5, 6.0, 9.0, 9.0],
                           "fate": ["kept"] * 4 + ["out of bounds", "failed"]})  # fmt: skip
    ways = {"objective.ttft_s_p99": LOWER, "objective.goodput_per_s": HIGHER}
    assert pareto(trials, ways).to_list() == [True, True, False, False, False, False]


def test_a_run_replayed_from_python_and_a_run_of_nothing_have_pages(tmp_path):
    instance = small_instance("mixed", small_profile(iteration_ps=10**9))
    for name, blocks in (("plain", 64), ("failed", 1)):
        cluster = small_cluster([small_instance("mixed", small_profile(iteration_ps=10**9), kv_blocks=blocks)])
        replay(small_trace([(0, 8, 1), (5, 8, 1)]), cluster, slo={"only": {}}).save(tmp_path / name)
    assert instance.role == "mixed"
    for name in ("plain", "failed"):
        page = compose(read([tmp_path / name], 8), 60)
        assert "Latencies" in sections(page) and "Cost" not in sections(page) and page.html()


def test_names_that_look_like_markup_are_text(runs, tmp_path):
    folder = tmp_path / "<b>x & y<script>"
    shutil.copytree(runs / "split", folder)
    text = compose(read([folder, runs / "tight"], 8), 20).html()
    assert "x & y<script>" not in text and "&lt;b&gt;x &amp; y&lt;script&gt;" in text


def test_short_names_say_once_what_all_repeat():
    assert short(["policy/route=a", "policy/route=b"]) == ({"policy/route=a": "a", "policy/route=b": "b"},
                                                           " Configurations differ in policy/route.")  # fmt: skip
    assert short(["policy/route=a seed=1", "policy/route=a seed=2"])[0]["policy/route=a seed=2"] == "route=a seed=2"
    assert short(["as chosen"]) == ({"as chosen": "as chosen"}, "")


def test_a_table_marks_the_best_only_where_values_differ():
    frame = pl.DataFrame(
        {"run": ["a", "b"], "hit_rate": [0.2, 0.4], "ttft_s_p99": [1.0, 2.0], "slo_attainment": [1.0, 1.0]}
    )
    page = Page("t", "s")
    page.add("g", [Section("s", "says", [Table("t", frame, best=True)])])
    assert re.findall(r'class="best">([^<]+)<', page.html()) == ["1.000", "0.400"]


def broken(folder, name, content=b"PAR1 this is no parquet"):
    (folder / name).write_bytes(content)


BAD = {
    "no folder": (lambda where: shutil.rmtree(where), "does not exist"),
    "an empty folder": (lambda where: [path.unlink() for path in where.iterdir()], "must be a run directory"),
    "requests": (lambda where: broken(where, "requests.parquet"), "cannot be read as Parquet"),
    "summary": (lambda where: broken(where, "summary.json"), "must be a finished run"),
    "config": (lambda where: broken(where, "config.yaml", b"a: [1"), "cannot be read as YAML"),
    "events": (lambda where: broken(where, "events.arrow"), "cannot be read as an event log"),
    "columns": (lambda where: pl.DataFrame({"a": [1]}).write_parquet(where / "requests.parquet"), "columns of a run"),
    "trials": (lambda where: pl.DataFrame({"a": [1]}).write_parquet(where / "trials.parquet"), "objective.NAME"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_folders_are_one_sentence_and_write_nothing(runs, tmp_path, capsys, what):
    spoil, words = BAD[what]
    shutil.copytree(runs / "split", tmp_path / "run")
    spoil(tmp_path / "run")
    assert cli.main(["report", str(tmp_path / "run"), f"report.out={tmp_path / 'new' / 'page.html'}"]) == 1
    told = capsys.readouterr()
    assert words in told.err and told.err.count("\n") == 1 and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "at least one folder"),
        (["-m"], "takes no -m"),
        (["--fast"], "takes folders and keys"),
        (["seed=1"], "takes folders and keys"),
        (["report.bins=3"], "there is no key 'report.bins'"),
        (["report.windows=0"], "whole number from 1"),
        (["report.out="], "path of a page"),
        (["report.window_s=[0,1]"], "none is asked for"),
    ],
)
def test_bad_arguments_are_one_sentence(runs, tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    folder = [str(runs / "split")] if arguments else []
    assert cli.main(["report", *folder, *arguments]) == 1
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("package", "words"), [("plotly", "needs Plotly"), ("perfetto", "needs the package perfetto")])
def test_a_missing_package_is_named(runs, tmp_path, capsys, monkeypatch, package, words):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    out = [f"report.out={tmp_path / 'page.html'}", f"report.timeline={tmp_path / 'x.perfetto-trace'}"]
    assert cli.main(["report", str(runs / "split"), *out]) == 1
    told = capsys.readouterr().err
    assert words in told and "pip install 'kvreplay[report]'" in told and not list(tmp_path.iterdir())


def test_help_names_every_key(capsys):
    from replay.report.verb import DEFAULTS

    assert cli.main(["report", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"report.{key}=" in told for key in DEFAULTS)


def test_cost_against_attainment_of_instances_that_come_and_go(tmp_path):
    """Two multiruns, three runs: one figure of both; its data are their rows, its front what no other beats."""
    few = ["run", "-m", "trace.requests=120", "cluster=mixed_4", "scale=elastic", "scale.interval_s=5"]
    assert cli.main([*few, "scale.initial.mixed=1,4", f"out_dir={tmp_path / 'fixed'}"]) == 0
    assert cli.main([*few, "policy/scale=target_tracking", f"out_dir={tmp_path / 'reactive'}"]) == 0
    page = compose(read([tmp_path / "fixed", tmp_path / "reactive"], 1), 20)
    assert sections(page).count("Cost against attainment") == 1
    figure = next(part for part in page.parts() if part.name == "cost and attainment")
    assert figure.data["multirun"].to_list() == ["fixed", "fixed", "reactive"]
    one, four = figure.data["gpu_hours"][:2]
    assert 0 < one < four and [trace.name for trace in figure.plot.data][1:] == ["fixed", "reactive"]

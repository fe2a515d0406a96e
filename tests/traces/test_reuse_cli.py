"""`kvreplay traces describe --reuse`: tables, the curve's file, the picture, published points, and wrong input."""

import json
import re
import sys
from pathlib import Path

import polars as pl
import pytest

import traces
from tests.recorded import recorded
from traces.cli import main
from traces.reuse import hit_rates, lru_curve, lru_token_curve
from traces.reuse.report import default_capacities

CHAINS = [[0, 1], [2, 3], [0, 1, 4], [5], [2, 3], [0, 1], [6], [2, 3]]
PUBLISHED = "capacity_tokens,small,other\n1024,0.1,0.9\n5000,0.4,0.9\ninf,0.5,0.9\n"


@pytest.fixture
def source(tmp_path) -> str:
    """A trace of eight prompts, whose last blocks are partial."""
    path = tmp_path / "small.jsonl"
    records = [
        {"timestamp": 10 * row, "input_length": 512 * len(ids) - 100, "output_length": 1, "hash_ids": ids}
        for row, ids in enumerate(CHAINS)
    ]
    path.write_text("\n".join(json.dumps(record) for record in records))
    return str(path)


@pytest.fixture
def published(tmp_path) -> str:
    """Published points for the trace and for another."""
    path = tmp_path / "points.csv"
    path.write_text(PUBLISHED)
    return str(path)


def refused(capsys, *arguments: str) -> str:
    """Run describe, which must fail with one sentence on stderr and nothing on stdout; return the sentence."""
    assert main(["describe", *arguments]) == 1
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("TraceError: ") and told.err.count("\n") == 1
    assert "Traceback" not in told.err
    return told.err


def rows(text: str) -> list[list[str]]:
    """Return the rows of numbers of a printed table, by their cells."""
    return [line.split() for line in text.splitlines() if re.match(r"\s+(\d[\d,]*|infinite)\s+[\d.]", line)]


def test_the_table_has_every_policy_at_every_capacity(source, capsys):
    assert main(["describe", source, "--reuse", "--capacities", "2,3,inf"]) == 0
    told = capsys.readouterr().out
    trace = traces.load(source)
    wanted = [hit_rates(trace, policy, [2, 3, 10**9]) for policy in ("lru", "fifo", "lfu", "belady")]
    assert "unique_blocks" in told and "belady" in told
    shown = rows(told)
    assert [row[0] for row in shown] == ["2", "3", "infinite"]
    for place, row in enumerate(shown):
        assert set(f"{rates[place]:.4f}" for rates in wanted) <= set(row)
    assert shown[-1][1:] == [f"{lru_curve(trace).rate(float('inf')):.4f}"] * (len(shown[-1]) - 1)


def test_json_is_flat_and_keeps_the_lru_flag(source, capsys):
    assert main(["describe", source, "--json", "--lru", "2", "--capacities", "3,4"]) == 0
    told = json.loads(capsys.readouterr().out)
    trace = traces.load(source)
    assert told["lru_hit_rate_blocks_2"] == lru_curve(trace).rate(2) and told["requests"] == 8
    for policy in ("lru", "fifo", "lfu", "belady"):
        found = [told[f"{policy}_hit_rate_blocks_{size}"] for size in (3, 4)]
        assert found == hit_rates(trace, policy, [3, 4])
    assert all(isinstance(value, int | float) for value in told.values())


def test_capacities_may_be_short(source, capsys):
    assert main(["describe", source, "--json", "--capacities", "1k, 2M,INF"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {f"fifo_hit_rate_blocks_{size}" for size in ("1000", "2000000", "inf")} <= set(told)


def test_default_capacities_cover_the_range_of_the_trace():
    assert default_capacities(182_790) == [1e3, 3e3, 5e3, 1e4, 3e4, 5e4, 1e5, float("inf")]
    assert default_capacities(7) == [1, 3, 5, float("inf")]
    assert default_capacities(1) == default_capacities(0) == [float("inf")]


def test_the_curve_is_written_whole(source, tmp_path, capsys):
    assert main(["describe", source, "--out", str(tmp_path / "curve.csv")]) == 0
    assert main(["describe", source, "--out", str(tmp_path / "curve.parquet")]) == 0
    frame = pl.read_parquet(tmp_path / "curve.parquet")
    assert frame.equals(pl.read_csv(tmp_path / "curve.csv")) and "belady" in capsys.readouterr().out
    trace = traces.load(source)
    blocks, tokens = lru_curve(trace), lru_curve(trace, count_tokens=True)
    assert frame["capacity_blocks"].to_list() == blocks.capacity.tolist() and len(frame) > 2
    assert frame["hit_rate_blocks"].to_list() == [blocks.rate(size) for size in blocks.capacity]
    assert frame["hit_rate_tokens"].to_list() == [tokens.rate(size) for size in blocks.capacity]
    assert frame["hit_tokens"][-1] == 1024 + 3 * (1024 - 100)  # the third prompt's front, then three prompts whole


def test_published_points_make_a_table_and_a_picture(source, published, tmp_path, capsys):
    pytest.importorskip("plotly")
    plot = tmp_path / "picture.html"
    assert main(["describe", source, "--published", published, "--sub-block", "600,50", "--plot", str(plot)]) == 0
    trace = traces.load(source)
    plain, fine = lru_token_curve(trace), lru_token_curve(trace, 600, 50)
    shown = [row for row in rows(capsys.readouterr().out) if row[0] in ("1,024", "5,000", "infinite")][-3:]
    for row, size, rate in zip(shown, (1024, 5000, float("inf")), (0.1, 0.4, 0.5), strict=True):
        found, better = plain.rate(size), fine.rate(size)
        assert row[1:3] == [f"{rate:.4f}", f"{found:.4f}"] and row[4] == f"{better:.4f}"
        assert row[3] == f"{found - rate:+.4f}" and row[5] == f"{better - rate:+.4f}"
    page = plot.read_text(encoding="utf-8")
    assert all(f'"name":"{name}"' in page for name in ("lru", "fifo", "lfu", "belady", "lru, plain", "lru, corrected"))
    assert '"name":"published: small"' in page and '"x":[1024.0,5000.0],"y":[0.1,0.4]' in page


def test_the_picture_needs_no_network(source, tmp_path):
    pytest.importorskip("plotly")
    plot, again = tmp_path / "one.html", tmp_path / "two.html"
    assert [main(["describe", source, "--plot", str(path)]) for path in (plot, again)] == [0, 0]
    page = plot.read_text(encoding="utf-8")
    assert plot.read_bytes() == again.read_bytes() and len(page) > 1_000_000
    assert not re.search(r"<script[^>]*\ssrc=|<link[^>]*\shref=", page) and "Plotly.newPlot" in page


def test_published_blocks_are_compared_in_blocks(source, tmp_path, capsys):
    path = tmp_path / "table.csv"
    path.write_text("capacity_blocks,lru,lfu\ninf,0.5,0.5\n3,0.2,0.1\n")
    assert main(["describe", source, "--json", "--published", str(path), "--published-column", "lru"]) == 0
    told = json.loads(capsys.readouterr().out)
    curve = lru_curve(traces.load(source))
    assert told["lru_hit_rate_at_3_blocks"] == curve.rate(3) and told["published_hit_rate_at_inf_blocks"] == 0.5
    furthest = max(abs(curve.rate(3) - 0.2), abs(curve.rate(float("inf")) - 0.5))
    assert told["published_largest_difference_plain"] == furthest
    assert "counts tokens" in refused(
        capsys, source, "--published", str(path), "--published-column", "lru", "--sub-block", "1,1"
    )


def test_the_published_figure_of_the_conversation_trace_from_one_command(capsys):
    trace = str(recorded("traces/mooncake/conversation_trace.jsonl.gz"))
    points = str(recorded("measured/published/mooncake_fast25_fig9_lru_hit_rate.csv"))
    assert main(["describe", trace, "--json", "--published", points, "--sub-block", "880,256"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert round(told["published_largest_difference_plain"], 4) == 0.0341
    assert round(told["published_largest_difference_corrected"], 4) == 0.0054
    assert [round(told[f"{name}_hit_rate_blocks_10000"], 4) for name in ("lru", "lfu", "belady")] == [
        0.2112,
        0.1318,
        0.3664,
    ]
    assert round(told["fifo_any_block_hit_rate_blocks_10000"], 4) == 0.1865


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--capacities", "0"], r"at least 1 block, but got 0 \(--capacities\)"),
        (["--capacities", "10,-3"], "at least 1 block, but got -3"),
        (["--capacities", "ten"], "--capacities takes capacities in blocks like 1000,10000, but got 'ten'"),
        (["--capacities", ""], "takes capacities in blocks"),
        (["--capacities", "1.5"], "but got '1.5'"),
        (["--capacities", "nan"], "but got 'nan'"),
        (["--lru", "0"], r"at least 1 block, but got 0 \(--lru\)"),
        (["--lru", "1,,2"], "--lru takes capacities"),
        (["--out", "curve.txt"], "--out writes .parquet or .csv, but got 'curve.txt'"),
        (["--plot", "picture.png"], "--plot writes .html, but got 'picture.png'"),
        (["--out", "no/such/folder.csv"], "there is no folder no/such"),
        (["--sub-block", "880,256"], "--sub-block belongs to a comparison"),
        (["--published-column", "small"], "--published-column belongs to a comparison"),
        (["--published", "none.csv"], "cannot be read from none.csv: No such file"),
    ],
)
def test_wrong_flags_get_one_sentence(flags, sentence, source, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.search(sentence, refused(capsys, source, *flags))
    assert [path.name for path in tmp_path.iterdir()] == ["small.jsonl"]


@pytest.mark.parametrize(
    ("text", "flags", "sentence"),
    [
        ("capacity,small\n1,0.1\n", [], "need a column capacity_tokens or capacity_blocks, but .* has capacity, small"),
        ("capacity_tokens,small\n", [], "at least one row, but .* has 1 line"),
        ("", [], "has 0 lines"),
        ("capacity_tokens\n1\n", [], "one of no column"),
        ("capacity_tokens,a,b\n1,0.1,0.2\n", [], "one of a, b, but none is named like the trace small.jsonl"),
        (PUBLISHED, ["--published-column", "nobody"], "one of small, other, but there is no 'nobody'"),
        ("capacity_tokens,small\n1,37\n", [], "'small' must be a number from 0 to 1, but row 1 of .* has '37'"),
        ("capacity_tokens,small\n1,0.1\nx,0.1\n", [], "'capacity_tokens' must be a number .*, but row 2 .* has 'x'"),
        ("capacity_tokens,small\n1\n", [], "'small' must be a number from 0 to 1, but row 1 of .* has ''"),
        ("capacity_tokens,small\n1,nan\n", [], "has 'nan'"),
        (PUBLISHED, ["--sub-block", "880"], "two numbers of tokens like 880,256, but got '880'"),
        (PUBLISHED, ["--sub-block", "1,-2"], "but got '1,-2'"),
    ],
)
def test_wrong_published_points_get_one_sentence(text, flags, sentence, source, tmp_path, capsys):
    path = tmp_path / "points.csv"
    path.write_text(text)
    assert re.search(sentence, refused(capsys, source, "--published", str(path), *flags))


def test_published_points_must_be_text(source, tmp_path, capsys):
    path = tmp_path / "points.csv"
    path.write_bytes(b"\xff\xfe\x00capacity")
    assert "it is no CSV text" in refused(capsys, source, "--published", str(path))


def test_a_trace_without_blocks_has_no_reuse(tmp_path, capsys):
    path = tmp_path / "l.csv"
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,5,5\n1,5,5\n")
    assert "'prefix_blocks' is not in l.csv" in refused(capsys, str(path), "--reuse", "--out", str(tmp_path / "c.csv"))
    assert "'prefix_blocks' is not in l.csv" in refused(capsys, str(path), "--lru", "10")
    assert [file.name for file in tmp_path.iterdir()] == ["l.csv"]


def test_a_failed_write_leaves_the_older_files(source, tmp_path, capsys, monkeypatch):
    pytest.importorskip("plotly")
    out, plot = tmp_path / "curve.csv", tmp_path / "picture.html"
    out.write_text("older")

    def full(self, data):
        if "picture" in self.name:
            raise OSError(28, "No space left on device")
        return len(data) if self.open("wb").write(data) else 0

    monkeypatch.setattr(Path, "write_bytes", full)
    told = refused(capsys, source, "--out", str(out), "--plot", str(plot))
    assert "cannot be written to" in told and "picture.html: No space left on device" in told
    assert out.read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.csv", "small.jsonl"]


def test_a_folder_is_no_file_to_write(source, tmp_path, capsys):
    (tmp_path / "made.csv").mkdir()
    assert "it is a folder" in refused(capsys, source, "--out", str(tmp_path / "made.csv"))


def test_without_plotly_the_sentence_names_the_extra(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    told = refused(capsys, source, "--plot", str(tmp_path / "p.html"), "--out", str(tmp_path / "c.csv"))
    assert "pip install 'kvreplay[report]'" in told
    assert [path.name for path in tmp_path.iterdir()] == ["small.jsonl"]

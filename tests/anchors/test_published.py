"""Published measurements, each replayed: Mooncake's calibration set and DeepSeek's day."""

import polars as pl
import pytest

from replay import cli
from replay.fidelity import published
from replay.fidelity.published_day import rows as day
from replay.fidelity.published_mooncake import rows as mooncake
from replay.fidelity.row import Row
from tests.refusals import refused


@pytest.fixture(scope="module")
def figure() -> list[Row]:
    return list(mooncake())


def test_every_number_of_mooncakes_calibration_set_is_replayed_within_2_percent(figure):
    """20 numbers as single requests: prefill alone and 95 % cached (TTFT), handoff from one node to the other, decode.

    Prefills and decodes are points that the profile goes through; transfer is one bandwidth and one latency for all.
    source : Mooncake (Qin et al., FAST 2025), Fig. 14
    """
    found = [row for row in figure if "left out" not in row.what]
    assert len(found) == 20 and len({(row.what, row.point) for row in found}) == 20
    assert max(abs(row.error) for row in found) < 0.007
    assert max(abs(row.error) for row in found if "transfer" not in row.what) < 1e-4


def test_points_of_mooncake_left_out_are_told_from_the_others(figure):
    """Straight lines between points twice as far apart: 4 % of prefills, 6 % of cached ones, 0.4 % of decodes."""
    left = {what: [abs(row.error) for row in figure if row.what == f"Mooncake {what}, left out"]
            for what in ("prefill", "prefill, 95 % cached", "decode")}  # fmt: skip
    assert {what: len(errors) for what, errors in left.items()} == dict.fromkeys(left, 3)
    assert max(left["prefill"]) < 0.04 and max(left["prefill, 95 % cached"]) < 0.065 and max(left["decode"]) < 0.005


def test_a_day_of_deepseek_replayed():
    """14 minutes of it at 1/95.47 of its size: 8 GPUs prefill, 11 decode, sessions over a disk cache.

    source : DeepSeek, DeepSeek-V3/R1 inference system overview (open-infra-index, 2025)
    """
    found = {row.point: row for row in day(requests=25_000)}
    assert len(found) == 12
    for row in found.values():
        assert abs(row.error) < 0.025, row
    assert 20.0 <= found["tokens/s"].replayed <= 22.0
    assert found["requests decoding"].replayed == pytest.approx(700, rel=0.02)
    assert found["KV tokens of decode"].replayed == pytest.approx(3.5e6, rel=0.02)


def few(monkeypatch):
    """Let the sources give two points each."""
    for module in ("published_day", "published_mooncake", "published_splitwise"):
        made = [Row(f"{module} a", "x", 2.0, 2.1, "s"), Row(f"{module} b", "y", 1.0, 1.0, "ms")]
        monkeypatch.setattr(f"replay.fidelity.{module}.rows", lambda *given, made=made: iter(made))


def test_the_step_shows_and_writes_points(tmp_path, capsys, monkeypatch):
    few(monkeypatch)
    assert cli.main(["profile", "published", "of=mooncake", f"out={tmp_path / 'here'}"]) == 0
    told = capsys.readouterr().out
    assert "published_mooncake a" in told and "+5.0 %" in told and "published_day" not in told
    frame = pl.read_parquet(tmp_path / "here" / published.FILE)
    assert frame["error"].to_list() == pytest.approx([0.05, 0.0]) and frame["unit"].to_list() == ["s", "ms"]
    assert cli.main(["profile", "published"]) == 0
    told = capsys.readouterr().out
    assert "published_day a" in told and "published_splitwise" not in told


def test_large_experiments_show_their_worst_points():
    many = [Row("many", f"p{index}", 100.0, 100.5 + index, "s") for index in range(30)]
    ((title, table),) = published.detail_tables(many)
    assert title == "many: the worst of 27 beyond 3 %" and table.row_count == published.MOST_SHOWN
    assert list(table.columns[0].cells)[0] == "p29"


@pytest.mark.parametrize(("arguments", "words"), [
    (["of=vidur"], "of must name some of mooncake, deepseek, splitwise, but has 'vidur'"),
    (["of=splitwise"], "from must name Splitwise's table"),
    (["from=nowhere"], "from must name Splitwise's table, a folder with perf_model.csv, but is 'nowhere'"),
    (["show"], "kvreplay profile published takes of=..."),
    (["of=mooncake", "out=taken"], "cannot be written to 'taken'")])  # fmt: skip
def test_what_cannot_be_shown_is_refused(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("")
    refused(["profile", "published", *arguments], words, tmp_path, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]

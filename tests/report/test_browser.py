"""The page in a real browser: every figure is drawn, nothing goes wrong, nothing is asked of anybody."""

import re
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest

from replay import cli
from replay.report.page import Page
from replay.report.parts import Section, Table
from replay.report.verb import compose
from tests.report.folders import capacity_folder, compare_folder, tune_folder

pytest.importorskip("plotly", reason="plotly is not installed: pip install 'kvreplay[test]'")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--virtual-time-budget=8000", "--enable-logging=stderr")  # fmt: skip


def opened(page: Path, scratch: Path) -> tuple[str, str]:
    """Return the page's elements once its scripts have run, and what the browser logged of its console."""
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if found is None:
        pytest.skip("no chromium is installed, so that no page can be opened")
    command = [found, *FLAGS, f"--user-data-dir={scratch}", "--dump-dom", page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def check_drawn(page: Path, scratch: Path) -> dict[str, int]:
    """Check that a page was drawn whole, and return its figures: name -> traces drawn."""
    text, console = opened(page, scratch)
    root = dict(re.findall(r'(data-[a-z-]+|lang)="([^"]*)"', text[: text.index(">", text.index("<html")) + 1]))
    assert root.get("data-errors") == "0", root.get("data-first-error")
    assert root["data-done"] == "yes" and root["data-drawn"] == root["data-figures"] and console == ""
    figures = {}
    for part in re.split(r'(?=<div class="figure)', text)[1:]:
        name = re.search(r'id="([^"]+)"', part)
        traces = re.search(r'data-traces="(\d+)"', part)
        assert name and traces and 'class="main-svg"' in part, part[:200]
        marks = len(re.findall(r'class="(?:trace|cartesianlayer|hm|point|js-line)', part))
        assert marks and re.search(r'class="(?:trace scatter|trace bars|hm)', part), name[1]
        figures[name[1]] = int(traces[1])
    assert len(figures) == int(root["data-figures"])
    return figures


def test_the_page_tells_what_goes_wrong(tmp_path):
    """What the other tests rely on: broken data and a request to elsewhere are both counted."""
    page = Page("broken", "says")
    page.add("group", [Section("section", "says", [Table("table", pl.DataFrame({"run": ["a"]}))])])
    wrong = (
        '<div class="figure" id="f"></div><script type="application/json" id="f-data">{,}</script>'
        '<img src="http://elsewhere.invalid/x.png">'
    )
    out = tmp_path / "page.html"
    out.write_text(page.html().replace("</main>", f"{wrong}</main>"), encoding="utf-8")
    text, console = opened(out, tmp_path / "browser")
    assert 'data-errors="2"' in text and 'data-drawn="0"' in text and "elsewhere.invalid" in console
    with pytest.raises(AssertionError):
        check_drawn(out, tmp_path / "browser")


@pytest.mark.parametrize("what", ["run", "runs and studies"])
def test_every_figure_is_drawn(runs, tmp_path, what):
    folders = [runs / "split"]
    if what != "run":
        folders = [runs / "tight", runs / "many", tune_folder(tmp_path / "tune"), compare_folder(tmp_path / "compare"),
                   capacity_folder(tmp_path / "capacity")]  # fmt: skip
    out = tmp_path / "page.html"
    assert cli.main(["report", *map(str, folders), f"report.out={out}"]) == 0
    figures = check_drawn(out, tmp_path / "browser")
    assert len(figures) == (9 if what == "run" else 21) and min(figures.values()) >= 1
    assert figures["figure-latencies"] >= 4


def test_nothing_outside_is_named(runs, tmp_path):
    """Everything but Plotly's own text, in which addresses stand that only maps would ask, is free of them."""
    from replay.report.folders import read
    from replay.report.style import plotly

    text = compose(read([runs / "split", runs / "many"], 8), 60).html()
    library = plotly().offline.get_plotlyjs()
    assert text.count(library) == 1
    rest = text.replace(library, "")
    assert not re.search(r"https?://|//cdn|<link[^>]+href=\"(?!data:)|src=", rest) and "default-src 'none'" in rest

"""Observing an endpoint: times are right against a server of known delays, errors are rows, later turns wait."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from replay import cli
from replay.fidelity import logs, prompts
from replay.fidelity.driver import PARENT
from tests.fidelity.server import Standin, serving
from tests.refusals import refused
from tests.small import small_trace
from traces.window import sort_arrivals

WORKLOAD = ["trace=poisson", "trace.requests=24", "trace.rate_per_s=40",
            "trace.prompt_tokens={law: lognormal, mean: 60, cv: 0.5, max: 200}",
            "trace.output_tokens={law: lognormal, mean: 6, cv: 0.5, max: 12}"]  # fmt: skip
SESSIONS = ["trace=sessions", "trace.requests=12", "trace.think_s.mean=0.05", "trace.system.tokens.mean=60",
            "trace.user_tokens.mean=20", "trace.output_tokens.mean=4", "trace.arrivals.rate_per_s=20",
            "trace.branching=0"]  # fmt: skip


def observe(standin: Standin, folder: Path, *arguments: str) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Observe a server; return the rows of its log and what meta.json says."""
    with serving(standin):
        assert cli.main(["profile", "observe", f"url={standin.url}", f"out={folder}", *arguments]) == 0
    return pl.read_parquet(folder / "log.parquet"), json.loads((folder / "meta.json").read_text())


def test_times_tokens_and_arrivals_are_those_of_the_server(tmp_path: Path, capsys: Any) -> None:
    standin = Standin(first_s=0.06, gap_s=0.015)
    frame, meta = observe(standin, tmp_path / "log", *WORKLOAD)
    told = capsys.readouterr()
    assert "24 requests to standin: 24 answered, 0 failed, 0 not sent" in told.out and "TPOT ms" in told.out
    log = logs.read(tmp_path / "log")
    ttft_s, tpot_s = (log.served[name].drop_nulls().to_numpy() for name in ("ttft_s", "tpot_s"))
    # Medians within a few ms; single ones may be later by what a busy machine adds, never earlier.
    assert 0.06 <= np.median(ttft_s) < 0.07 and ttft_s.min() > 0.0595
    assert np.median(tpot_s) == pytest.approx(0.015, abs=0.003)
    assert frame["lateness_s"].median() < 0.01 and frame["lateness_s"].min() > -0.002
    assert (frame["arrival_s"] - frame["planned_s"] - frame["lateness_s"]).abs().max() < 1e-9
    assert (frame["prompt_tokens"] == frame["asked_prompt_tokens"]).all() and meta["exact_prompts"]
    assert (frame["output_tokens"] == frame["asked_output_tokens"]).all()
    assert frame["token_s"].list.len().to_list() == frame["output_tokens"].to_list()
    assert meta["extras"] == ["min_tokens", "ignore_eos"] and meta["tokens_from"] == "usage"
    assert standin.bodies[-1]["ignore_eos"] and "Traceback" not in told.err


def test_later_turns_wait_and_share_their_prefix(tmp_path: Path) -> None:
    standin = Standin(first_s=0.02, gap_s=0.002)
    frame, _ = observe(standin, tmp_path / "log", *SESSIONS)
    assert frame.height == 12 and frame["session"].n_unique() < 12
    waited = 0
    for rows in frame.sort("arrival_s").partition_by("session"):
        for before, after in zip(rows[:-1].iter_rows(named=True), rows[1:].iter_rows(named=True), strict=True):
            assert after["arrival_s"] >= before["last_token_s"]
            waited += 1
    assert waited >= 2
    log = logs.read(tmp_path / "log")
    assert log.block_tokens == 16 and "prefix_blocks" in log.trace() and len(log.trace()) == 12


def test_errors_are_rows_and_their_later_turns_too(tmp_path: Path, capsys: Any) -> None:
    standin = Standin(first_s=0.01, gap_s=0.002)
    with serving(standin):  # the probes come first: their number shows which request fails
        assert cli.main(["profile", "observe", f"url={standin.url}", f"out={tmp_path / 'a'}", *WORKLOAD]) == 0
    probes = len(standin.bodies) - 24
    standin = Standin(first_s=0.01, gap_s=0.002, fails={probes + 3: "status", probes + 5: "cut"})
    frame, meta = observe(standin, tmp_path / "b", *WORKLOAD)
    failed = frame.filter(pl.col("error").is_not_null())
    assert meta["answered"] == 22 and meta["failed"] == failed.height == 2
    assert any(text.startswith("HTTP 500: ") and "overloaded" in text for text in failed["error"])
    assert "1 failed: HTTP 500" in capsys.readouterr().err and logs.read(tmp_path / "b").served.height == 22
    standin = Standin(first_s=0.01, gap_s=0.002, fails={number: "status" for number in range(probes, 100)})
    with serving(standin):
        assert cli.main(["profile", "observe", f"url={standin.url}", f"out={tmp_path / 'c'}", *SESSIONS]) == 0
    assert PARENT in pl.read_parquet(tmp_path / "c" / "log.parquet")["error"].to_list()


def test_a_server_that_takes_and_tells_little_is_observed_and_that_is_said(tmp_path: Path, capsys: Any) -> None:
    refused_keys = ("ignore_eos", "min_tokens", "stream_options")
    standin = Standin(first_s=0.01, gap_s=0.002, refuses=refused_keys, tokenizer=False)
    frame, meta = observe(standin, tmp_path / "log", *WORKLOAD)
    assert meta["extras"] == [] and meta["tokens_from"] == "pieces of the stream" and not meta["exact_prompts"]
    assert (frame["output_tokens"] == frame["asked_output_tokens"]).all()
    assert "a word was taken for a token" in capsys.readouterr().err


def test_nothing_is_sent_after_the_limit(tmp_path: Path) -> None:
    frame, meta = observe(Standin(first_s=0.01), tmp_path / "log", *WORKLOAD, "observe.limit_s=0.25")
    assert 0 < frame.height < 24 and meta["not_sent"] == 24 - frame.height and frame["planned_s"].max() <= 0.25


@pytest.mark.parametrize(("arguments", "words"), [
    (["out=log"], "needs an endpoint, url=http://HOST:PORT/v1, but url is ''"),
    (["url=here", "out=log"], "but url is 'here'"),
    (["url=http://localhost:9/v1"], "needs the folder of its log"),
    (["url=http://localhost:9/v1", "out=log", "observe.limit_s=-1"], "observe.limit_s must be a time above 0 s"),
    (["url=http://localhost:9/v1", "out=log", "observe.api=rpc"], "observe.api must be one of completions, chat"),
    (["url=http://localhost:9/v1", "out=log", "observe.salt=-1"], "observe.salt must be a whole number"),
    (["url=http://localhost:9/v1", "out=log", "observe.rate=1"], "there is no key 'observe.rate'"),
    (["url=http://localhost:9/v1", "out=log", "trace=nothing"], "there is no trace called 'nothing'"),
    (["url=http://localhost:9/v1", "out=taken"], "cannot be written to 'taken'"),
])  # fmt: skip
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, capsys, arguments, words) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("")
    refused(["profile", "observe", *arguments, "trace.requests=5"], words, tmp_path, capsys)


def test_an_endpoint_that_does_not_answer_is_one_sentence(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        url = f"http://localhost:{free.getsockname()[1]}/v1"
    arguments = ["profile", "observe", f"url={url}", "out=log", "trace.requests=5"]
    refused(arguments, f"must answer at {url}", tmp_path, capsys)


def test_help_names_the_keys(capsys: Any) -> None:
    assert cli.main(["profile", "observe", "--help"]) == 0 and "observe.limit_s" in capsys.readouterr().out


def test_prompts_have_the_length_and_the_prefixes_that_the_trace_says() -> None:
    words = prompts.Vocabulary(("a", "b", "c", "d", "e"), overhead_tokens=1, exact=True)
    rows = [(0, 11, 1), (1, 8, 1), (2, 9, 1), (3, 3, 1)]
    trace = sort_arrivals(small_trace(rows, [[1, 2], [1, 3], [1, 2], []]))
    texts = [prompts.prompt(trace, row, words) for row in range(4)]
    assert [len(text) + 1 for text in texts] == [11, 8, 9, 3]
    assert texts[0][:7] == texts[2][:7] and texts[0][:3] == texts[1][:3]
    assert texts[0][3:7] != texts[1][3:7] and texts[0][7:9] != texts[2][7:9]
    assert texts == [prompts.prompt(trace, row, words) for row in range(4)]
    keys = [prompts.salted(trace, salt) for salt in (0, 1)]
    other = [[prompts.prompt(trace, row, words, key) for row in range(4)] for key in keys]
    assert other[0][0][:5] != other[1][0][:5] and other[0][0][:7] == other[0][2][:7]


def test_a_vocabulary_is_found_for_a_tokenizer_that_joins_letters() -> None:
    """One that counts words, and letters in runs of three, knows words only."""

    async def count(text: str) -> int:
        return 2 + sum(1 if word in " ".join(prompts.WORDS) else -(-len(word) // 3) for word in text.split())

    words = asyncio.run(prompts.vocabulary(count))
    assert words.exact and words.overhead_tokens == 2 and set(words.units) == set(prompts.WORDS)
    assert not asyncio.run(prompts.vocabulary(None)).exact

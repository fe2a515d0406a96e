"""Logs of engines: what is written in each format is read back; what is broken is refused in one sentence."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replay.errors import LogError
from replay.fidelity import logs
from tests.recorded import recorded

SECONDS = st.floats(0.0, 1e4, allow_nan=False).map(lambda value: round(value, 6))
QUICK = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@st.composite
def requests(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw requests of a log, times on one clock, in any order; output_tokens 1 means that first is last."""
    rows = []
    for _ in range(draw(st.integers(1, 8))):
        arrival, gaps = draw(SECONDS), draw(st.lists(SECONDS, max_size=5))
        waits = [draw(SECONDS) for _ in range(3)]
        queued, scheduled = arrival + waits[0], arrival + waits[0] + waits[1]
        first = scheduled + waits[2]
        rows.append({"arrival_s": arrival, "prompt_tokens": draw(st.integers(1, 10**6)), "output_tokens": len(gaps) + 1,
                     "queued_s": queued, "scheduled_s": scheduled, "first_token_s": first,
                     "last_token_s": first + sum(gaps), "gaps": gaps})  # fmt: skip
    return rows


def check(log: logs.Log, rows: list[dict[str, Any]], names: tuple[str, ...]) -> None:
    """Check that a log holds the rows, sorted by arrival, its times counted from the first."""
    start = min(row["arrival_s"] for row in rows)
    ordered = sorted(rows, key=lambda row: row["arrival_s"])
    assert log.requests.height == len(rows) and log.requests["arrival_s"][0] == 0.0
    for found, row in zip(log.requests.iter_rows(named=True), ordered, strict=True):
        for name in names:
            wanted = row[name] - (start if name.endswith("_s") else 0)
            assert found[name] == pytest.approx(wanted, abs=2e-6), name
    assert len(log.trace()) == len(rows)


ALL = ("arrival_s", "prompt_tokens", "output_tokens", "first_token_s", "last_token_s")


@QUICK
@given(requests(), st.floats(-1e5, 1e5))
def test_runs_of_llmservingsim(tmp_path: Path, rows: list[dict[str, Any]], shift: float) -> None:
    """Their arrivals are on another clock; the request that is queued soonest aligns the two."""
    soonest = min(row["queued_s"] - row["arrival_s"] for row in rows)
    keys = {"input_toks": "prompt_tokens", "output_toks": "output_tokens", "queued_ts": "queued_s",
            "scheduled_ts": "scheduled_s", "first_token_ts": "first_token_s", "last_token_ts": "last_token_s"}
    lines = [{"request_id": "a", "arrival_time": row["arrival_s"] + shift, **{k: row[v] for k, v in keys.items()}}
             for row in rows]
    (tmp_path / "requests.jsonl").write_text("\n".join(map(json.dumps, lines)))
    log = logs.read(tmp_path)
    assert log.format == "llmservingsim"
    moved = [{**row, "arrival_s": row["arrival_s"] + soonest} for row in rows]
    check(log, moved, (*ALL, "queued_s", "scheduled_s"))


def bench(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what benchmark clients write of some requests."""
    return {"input_lens": [row["prompt_tokens"] for row in rows], "output_lens": [row["output_tokens"] for row in rows],
            "ttfts": [row["first_token_s"] - row["arrival_s"] for row in rows], "itls": [row["gaps"] for row in rows],
            "start_times": [row["arrival_s"] for row in rows], "errors": [""] * len(rows)}


@QUICK
@given(requests(), st.booleans())
def test_results_of_benchmark_clients(tmp_path: Path, rows: list[dict[str, Any]], sglang: bool) -> None:
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"backend": "x", **({"dataset_name": "random"} if sglang else {}), **bench(rows)}))
    log = logs.read(file)
    assert log.format == ("sglang_bench" if sglang else "vllm_bench")
    check(log, rows, ALL)


@QUICK
@given(requests(), st.booleans())
def test_opentelemetry_spans(tmp_path: Path, rows: list[dict[str, Any]], lines: bool) -> None:
    epoch = 1_790_000_000_000_000_000

    def span(row: dict[str, Any]) -> dict[str, Any]:
        pairs = {"gen_ai.usage.input_tokens": {"intValue": str(row["prompt_tokens"])},
                 "gen_ai.usage.output_tokens": {"intValue": row["output_tokens"]},
                 "gen_ai.server.time_to_first_token": {"doubleValue": row["first_token_s"] - row["arrival_s"]}}
        return {"name": "chat", "startTimeUnixNano": str(epoch + round(row["arrival_s"] * 1e9)),
                "endTimeUnixNano": str(epoch + round(row["last_token_s"] * 1e9)),
                "attributes": [{"key": key, "value": value} for key, value in pairs.items()]}

    other = {"name": "GET /", "startTimeUnixNano": "5", "endTimeUnixNano": "6", "attributes": []}
    groups = [[span(row)] for row in rows] if lines else [[span(row) for row in rows]]
    text = [json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [*group, other]}]}]}) for group in groups]
    (tmp_path / "spans.json").write_text("\n".join(text))
    log = logs.read(tmp_path / "spans.json")
    assert log.format == "otel_spans" and log.notes["other_spans"] == len(groups)
    check(log, rows, ALL)


@QUICK
@given(requests(), st.sampled_from(["csv", "parquet", "jsonl"]), st.booleans())
def test_plain_tables(tmp_path: Path, rows: list[dict[str, Any]], ending: str, mapped: bool) -> None:
    frame = pl.DataFrame([{key: row[key] for key in ALL} for row in rows], schema_overrides={"arrival_s": pl.Float64})
    names = {name: f"my {name}" for name in ALL} if mapped else None
    frame = frame.rename(names or {})
    file = tmp_path / f"mine.{ending}"
    if ending == "csv":
        frame.write_csv(file)
    elif ending == "parquet":
        frame.write_parquet(file)
    else:
        frame.write_ndjson(file)
    log = logs.read(file, columns=names)
    assert log.format == "table"
    check(log, rows, ALL)


def test_metrics_of_a_log_are_those_of_a_replay(tmp_path: Path) -> None:
    rows = "arrival_s,prompt_tokens,output_tokens,scheduled_s,first_token_s,last_token_s,error\n" \
           "10,5,1,10.5,11,11,\n9,5,3,9,10,14,\n9.5,5,0,,,,timeout\n"
    (tmp_path / "log.csv").write_text(rows)
    log = logs.read(tmp_path / "log.csv")
    served = log.served
    assert served.height == 2 and log.requests["error"].to_list() == [None, "timeout", None]
    assert served["ttft_s"].to_list() == [1.0, 1.0] and served["tpot_s"].to_list() == [2.0, None]
    assert served["e2e_s"].to_list() == [5.0, 1.0] and served["queue_s"].to_list() == [0.0, 0.5]


GOOD = {"input_toks": 5, "output_toks": 2, "arrival_time": 1.0, "queued_ts": 2.0, "first_token_ts": 3.0,
        "last_token_ts": 4.0}
HEAD = "arrival_s,prompt_tokens,output_tokens,first_token_s,last_token_s\n"


def spans(**changes: Any) -> str:
    """Return a document of one span, some of its fields changed."""
    span = {"startTimeUnixNano": "10", "endTimeUnixNano": "20", "attributes": [
        {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "3"}},
        {"key": "gen_ai.usage.output_tokens", "value": {"intValue": "4"}}], **changes}
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})


def lists(**changes: Any) -> str:
    """Return the result of a benchmark of one request, some of its fields changed."""
    return json.dumps({"input_lens": [5], "output_lens": [2], "ttfts": [0.1], "itls": [[0.2]], "start_times": [1.0],
                       "errors": [""], **changes})


@pytest.mark.parametrize(("text", "words"), [
    ("", "is empty"),
    ("\n \n", "is empty"),
    ("arrival_s,prompt_tokens,output_tokens\n", "at least one request"),
    ("a,b\n1,2\n", "has no 'arrival_s' among a, b"),
    (HEAD + "0,5,5,1,2\n1,5,5,0.5,2\n", "first_token_s must not come before arrival_s, but row 1 of log.txt"),
    (HEAD + "0,5,5,3,2\n", "last_token_s must not come before first_token_s"),
    (HEAD + "0,0,5,1,2\n", "prompt_tokens must be at least 1, but row 0"),
    (HEAD + "0,5,0,1,2\n", "output_tokens must be at least 1 unless"),
    (HEAD + "0,5.5,5,1,2\n", "prompt_tokens of row 0 of log.txt must be a whole number of tokens"),
    (HEAD + "0,-5,5,1,2\n", "prompt_tokens of row 0"),
    (HEAD + "x,5,5,1,2\n", "arrival_s of row 0 of log.txt must be a finite number, but is 'x'"),
    (HEAD + "inf,5,5,1,2\n", "must be a finite number"),
    (HEAD + "0,99999999999,5,1,2\n", "from 0 to 2^31 - 1, but is 99999999999"),
    (json.dumps(GOOD) + "\n{\"input_toks\": 5, \"out", "line 2 of log.txt is none"),
    (json.dumps(GOOD) + "\n[1]", "line 2 of log.txt is a list"),
    (json.dumps(GOOD) + "\n" + json.dumps({**GOOD, "input_toks": "5"}), "'input_toks' of line 2 of log.txt must be"),
    (json.dumps(GOOD) + "\n" + json.dumps({**GOOD, "first_token_ts": None}), "must be a finite number, but is missing"),
    (json.dumps({**GOOD, "arrival_time": float("nan")}), "must be a finite number, but is nan"),
    (json.dumps({**GOOD, "queued_ts": None}), "the clocks of log.txt are aligned by 'queued_ts'"),
    (lists(ttfts=[]), "'ttfts' has 0 items, not 1"),
    (lists(itls=[3]), "itls of request 0 of log.txt must be a list"),
    (lists(output_lens=["2"]), "output_lens of request 0"),
    (lists(start_times=None, request_rate=4.0), "must say when its requests were sent"),
    (lists(dataset_name="random") + "\n" + lists(dataset_name="random"), "must hold one run, but has 2"),
    (spans(startTimeUnixNano="then"), "'startTimeUnixNano' of span 0 (log.txt) must be nanoseconds since 1970"),
    (spans(attributes=5), "'attributes' of span 0 (log.txt) must be a list"),
    (spans(attributes=[]), "at least one request, but log.txt has none"),
    (spans() + "\n{", "line 2 of log.txt is none"),
    ("PAR1 no such file", "cannot be read"),
])  # fmt: skip
def test_what_is_broken_is_refused_in_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "log.txt"
    file.write_text(text)
    with pytest.raises(LogError) as refusal:
        logs.read(file)
    told = str(refusal.value)
    assert words in told and "\n" not in told and told.endswith(".")


@QUICK
@given(st.binary(max_size=300), st.sampled_from(["", json.dumps(GOOD) + "\n", spans()[:-30], HEAD, lists()[:-40]]))
def test_noise_is_read_or_refused_never_a_crash(tmp_path: Path, noise: bytes, start: str) -> None:
    file = tmp_path / "noise"
    file.write_bytes(start.encode() + noise)
    try:
        assert logs.read(file).requests.height > 0
    except LogError as error:
        assert "\n" not in str(error)


def test_a_missing_file_an_unknown_format_and_a_stray_map_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="there is none at"):
        logs.read(tmp_path / "nothing")
    with pytest.raises(LogError, match="must hold one of log.parquet"):
        logs.read(tmp_path)
    file = tmp_path / "log.csv"
    file.write_text(HEAD + "0,5,5,1,2\n")
    with pytest.raises(LogError, match="must be one of .*otel_spans.*, but is 'pcap'"):
        logs.read(file, format="pcap")
    with pytest.raises(LogError, match="a column map is for plain tables"):
        logs.read(file, format="vllm_bench", columns={"arrival_s": "t"})
    with pytest.raises(LogError, match="the map names 'start'"):
        logs.read(file, columns={"start": "t"})


def test_vllm_runs_of_llmservingsim_have_the_means_that_they_publish() -> None:
    """Their summary counts from the queue, ours from the arrival: less than 0.1 % apart in a saturated run."""
    folder = recorded("measured/llmservingsim/bench/examples/RTX4090/Llama-3.1-8B")
    log = logs.read(folder / "vllm")
    assert log.requests.height == 300 and log.settings["cluster.kv_blocks"] == 2588 and log.gauges is not None
    assert log.served["ttft_s"].mean() == pytest.approx(65.4566, rel=1e-3)
    assert log.served["tpot_s"].mean() == pytest.approx(0.0324, rel=2e-3)
    assert log.gauges["kv_used"].max() <= 1.0

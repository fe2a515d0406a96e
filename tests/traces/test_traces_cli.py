"""The command line: each verb once, and errors as one sentence with an exit code."""

import json

import pytest

import traces
from traces.cli import main


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "l.csv"
    rows = [f"{t},{16 * (t + 1)},{t + 1}" for t in range(10)]
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + "\n".join(rows))
    return path


def test_import_then_describe(source, tmp_path, capsys):
    assert main(["import", str(source), str(tmp_path / "l.arrow")]) == 0
    assert "10 requests" in capsys.readouterr().out
    assert main(["describe", str(tmp_path / "l.arrow"), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["requests"] == 10 and numbers["output_tokens_max"] == 10
    assert main(["describe", str(tmp_path / "l.arrow")]) == 0
    assert "prompt_tokens_p99" in capsys.readouterr().out


def test_describe_with_lru(tmp_path, capsys):
    path = tmp_path / "m.jsonl"
    record = {"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [0, 1]}
    path.write_text((json.dumps(record) + "\n") * 2)
    assert main(["describe", str(path), "--json", "--lru", "1,2"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["lru_hit_rate_blocks_1"] == 0.0 and numbers["lru_hit_rate_blocks_2"] == 0.5


def test_columns_and_options(tmp_path, capsys):
    path = tmp_path / "g.csv"
    path.write_text("t,in,out\n2000,5,0\n1000,6,1\n")
    columns = [f"--column={pair}" for pair in ("arrival_s=t", "prompt_tokens=in", "output_tokens=out")]
    options = [f"--option={pair}" for pair in ("arrival_unit=ms", "sort=true", "zero_tokens=one")]
    assert main(["import", str(path), str(tmp_path / "g.arrow"), *columns, *options]) == 0
    trace = traces.load(tmp_path / "g.arrow")
    assert trace.column("arrival_s").tolist() == [1.0, 2.0] and trace.column("output_tokens").tolist() == [1, 1]


def test_window(source, tmp_path):
    target = tmp_path / "w.arrow"
    assert main(["window", str(source), str(target), "--time", "2:8", "--rows", "1:5", "--rate", "2"]) == 0
    assert traces.load(target).column("arrival_s").tolist() == [0.0, 0.5, 1.0, 1.5]
    assert main(["window", str(source), str(target), "--thin", "0.5", "--seed", "7"]) == 0
    assert 0 < len(traces.load(target)) < 10


def test_catalog(capsys):
    assert main(["catalog"]) == 0
    assert "mooncake_conversation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["describe", "absent.csv"], 1, "TraceError: a trace file must exist"),
        (["describe", "{source}", "--format", "parket"], 1, "format must be one of"),
        (["describe", "{source}", "--lru", "many"], 1, "--lru takes capacities"),
        (["describe", "{source}", "--column", "arrival_s"], 1, "--column takes NAME=VALUE"),
        (["describe", "{source}", "--option", "path=3"], 1, "got 'path'"),
        (["window", "{source}", "w.arrow", "--time", "5"], 1, "--time takes START:END"),
        (["import", "{source}", "t.csv"], 1, "must be named *.arrow"),
        (["fetch", "nothing"], 1, "a catalog trace must be one of"),
        (["fly"], 2, "invalid choice"),
        ([], 2, "required"),
    ],
)
def test_errors_are_one_sentence_and_a_code(source, tmp_path, monkeypatch, capsys, arguments, code, text):
    monkeypatch.chdir(tmp_path)
    assert main([argument.format(source=source) for argument in arguments]) == code
    errors = capsys.readouterr().err
    assert text in errors and "Traceback" not in errors
    assert code == 2 or errors.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["l.csv"]

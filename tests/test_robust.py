"""Bad traces, settings and disks through the real command: one sentence, exit code 1 or 2, nothing half-written."""

import gzip
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pytest
import zstandard

from replay import cli
from replay.engine import adapters, compile
from replay.policy import load_all, registry
from tests.refusals import refused

ROOT = Path(__file__).resolve().parents[1]
ENTRY = "import sys; from replay.cli import main; sys.exit(main())"
HEAD = b"arrival_s,prompt_tokens,output_tokens\n"
MOONCAKE = b'{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}\n'
BIG = 2**31 - 1
# name of the file, its bytes, words of the sentence
BAD_TRACES = [
    ("empty.csv", b"", "empty.csv"),
    ("blank.csv", b"\n\n", "blank.csv"),
    ("header.csv", HEAD, "at least one request"),
    ("nan_arrival.csv", HEAD + b"nan,5,5\n", "request 0"),
    ("infinite.csv", HEAD + b"inf,5,5\n", "finite"),
    ("before_zero.csv", HEAD + b"-1,5,5\n", "request 0"),
    ("far.csv", HEAD + b"0,5,5\n1e9,5,5\n", "request 1 arrives at 1000000000 s"),
    ("nan_length.csv", HEAD + b"0,nan,5\n", "request 0"),
    ("negative.csv", HEAD + b"0,5,5\n1,-5,5\n", "request 1 has prompt_tokens -5"),
    ("zero.csv", HEAD + b"0,0,5\n", "at least 1"),
    ("fraction.csv", HEAD + b"0,5.5,5\n", "whole number"),
    ("huge.csv", HEAD + b"0,99999999999,5\n", "99999999999"),
    ("overflow.csv", HEAD + b"0,%d,%d\n" % (BIG, BIG), "int64"),
    ("unsorted.csv", HEAD + b"2,5,5\n1,5,5\n", "request 1 arrives at 1 s, before request 0 at 2 s"),
    ("words.csv", HEAD + b"one,two,three\n", "words.csv"),
    ("nothing.csv", HEAD + b",,\n", "request 0"),
    ("short_row.csv", HEAD + b"0,5,5\n1,5\n", "short_row.csv"),
    ("twice.csv", b"arrival_s,arrival_s,prompt_tokens,output_tokens\n0,0,1,1\n", "'arrival_s' more than once"),
    ("zeros.bin", bytes(200), "zeros.bin"),
    ("noise.arrow", Random(0).randbytes(300), "noise.arrow"),
    ("magic.parquet", b"PAR1" + bytes(50), "magic.parquet"),
    ("magic.arrow", b"ARROW1" + bytes(50), "magic.arrow"),
    ("list.json", b"[1, 2, 3]", "list.json"),
    ("cut_line.jsonl", MOONCAKE + b'{"timestamp": 5, "input', "line 2"),
    ("wrong_type.jsonl", MOONCAKE.replace(b"600", b'"many"'), "wrong_type.jsonl"),
    ("same_id.jsonl", MOONCAKE.replace(b"[1, 2]", b"[1, 1]"), "chained"),
    ("two_pasts.jsonl", MOONCAKE + MOONCAKE.replace(b"[1, 2]", b"[3, 2]"), "chained"),
    ("cut.jsonl.gz", gzip.compress(MOONCAKE * 500, mtime=0)[:60], "cut.jsonl.gz"),
    ("cut.jsonl.zst", zstandard.compress(MOONCAKE * 500)[:20], "cut.jsonl.zst"),
    ("noise.zst", b"\x28\xb5\x2f\xfd" + Random(1).randbytes(40), "noise.zst"),
]
BAD_ARGUMENTS = [
    (["cluster=mixed_5"], "mixed_4"),
    (["foo=1"], "'foo'"),
    (["+cluster.gpus=1"], "gpus"),
    (["trace.requests=0"], "requests"),
    (["trace.requests=1.5"], "requests"),
    (["trace.rate_scale=0"], "rate_scale"),
    (["trace.rate_scale=.nan"], "rate_scale"),
    (["trace.window={start_s: 5, end_s: 1}"], "start_s < end_s"),
    (["trace.path=3"], "3"),
    (["trace=recorded"], "trace.path"),
    (["cluster.max_batch=0"], "max_batch"),
    (["cluster.token_budget=many"], "token_budget"),
    (["cluster.block_tokens=7"], "block_tokens"),
    (["cluster.prefill=2"], "decode"),
    (["cluster.mixed=1000000"], "65536"),
    (["cluster.nic_latency_s=-1"], "nic_latency_s"),
    (["hardware.tp=0"], "tp"),
    (["hardware=linear", "hardware.iteration_s=-1"], "iteration_s"),
    (["hardware=linear", "hardware.iteration_s=1e300"], "iteration_s"),
    (["model=moe_100t"], "GB of weights"),
    (["slo.default=platinum"], "platinum"),
    (["policy.route.waiting_weight=.nan"], "waiting_weight"),
    (["policy.route.waiting_weight=heavy"], "waiting_weight"),
    (["policy.route=3"], "policy/route=NAME"),
    (["policy.route.name=null"], "policy/route=NAME"),
    (["policy.order.name=fastest"], "priority_by_tier"),
    (["policy/route=null"], "policy/route must be the name"),
    (["~seed"], "'seed' must have a value"),
    (["cluster.instances=[]"], "needs a prefill or mixed"),
    (["cluster.instances=[{role: cook}]"], "cook"),
    (["trace.kind=nope"], "nope"),
    (["trace.format=csv"], "trace.path is null"),
        (["trace.requests=1e30"], "requests"),
    (["plugins=[.]"], "plug-in"),
    (["policy=null"], "policy"),
    (["cluster=null"], "cluster"),
    (["trace=null"], "trace"),
    (["slo=null"], "slo"),
    (["hardware=null"], "hardware"),
]


@pytest.mark.parametrize(("name", "content", "words"), BAD_TRACES, ids=[name for name, _, _ in BAD_TRACES])
def test_a_bad_trace_is_refused(name, content, words, tmp_path, monkeypatch, capsys):
    """By `run`, and by `traces` wherever the fault is the file's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    refused(["run", f"trace.path={name}", "out_dir=mine"], words, tmp_path, capsys)
    if name != "overflow.csv":  # a trace that only this hardware cannot time
        refused(["traces", "describe", name], words, tmp_path, capsys)
        refused(["traces", "import", name, "made.arrow"], words, tmp_path, capsys)


@pytest.mark.parametrize(("arguments", "words"), BAD_ARGUMENTS, ids=[" ".join(given) for given, _ in BAD_ARGUMENTS])
def test_a_bad_setting_is_refused(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = [] if any("requests" in text or text == "trace=null" for text in arguments) else ["trace.requests=5"]
    refused(["run", *arguments, *small], words, tmp_path, capsys)


def test_equal_arrivals_are_no_fault(tmp_path, monkeypatch, capsys):
    """Ties are broken by row."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "equal.csv").write_bytes(HEAD + b"1,5,5\n" * 20)
    assert cli.main(["run", "trace.path=equal.csv", "out_dir=mine"]) == 0
    assert "20 requests: 20 finished" in capsys.readouterr().out


def damaged(data: bytes, random: Random) -> bytes:
    """Cut, flip, drop or repeat a piece of a file."""
    start = random.randrange(len(data))
    stop = min(len(data), start + random.randrange(1, 40))
    kind = random.randrange(4)
    if kind == 0:
        return data[:start]
    if kind == 1:
        return data[:start] + random.randbytes(stop - start) + data[stop:]
    return data[:start] + data[stop:] if kind == 2 else data[:stop] + data[start:]


def imported(folder: Path) -> bytes:
    """Return the bytes of a small imported trace."""
    source = folder / "source.jsonl"
    source.write_bytes(MOONCAKE * 30)
    assert cli.main(["traces", "import", str(source), str(folder / "small.arrow")]) == 0
    return (folder / "small.arrow").read_bytes()


@pytest.mark.parametrize("form", ["mooncake", "gzip", "table", "arrow"])
def test_damaged_files_never_end_in_a_traceback(form, tmp_path, monkeypatch, capsys):
    """Random damage to a good file: it is read as something else, or refused in one sentence."""
    monkeypatch.chdir(tmp_path)
    rows = HEAD + b"".join(b"%d,%d,%d\n" % (row, 100 + row, 5) for row in range(60))
    good = {"mooncake": MOONCAKE * 30, "gzip": gzip.compress(MOONCAKE * 30, mtime=0), "table": rows}
    data = good[form] if form in good else imported(tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    capsys.readouterr()
    random, refusals = Random(form), 0
    for case in range(60):
        (work / "damaged").write_bytes(damaged(data, random))
        code = cli.main(["traces", "describe", "damaged"])
        told = capsys.readouterr().err
        assert code in (0, 1), case
        assert code == 0 or (told.count("\n") == 1 and "unexpected" not in told and "Traceback" not in told), told
        refusals += code
    assert refusals > 5 and [path.name for path in work.iterdir()] == ["damaged"]


def test_an_arrow_file_that_breaks_the_schema_is_refused(tmp_path, monkeypatch, capsys):
    """Values that the CSV readers cannot produce."""
    monkeypatch.chdir(tmp_path)
    columns = {"arrival_s": [0.0, 1.0], "prompt_tokens": [5, 5], "output_tokens": [5, 5]}
    for extra in ({"parent": [5, -1]}, {"parent": [-1, 1]}, {"think_s": [np.nan, 0.0]}, {"prefix_blocks": [[-1], [2]]}):
        with pa.OSFile(str(tmp_path / "odd.arrow"), "wb") as sink:
            table = pa.table({**columns, **extra})
            with pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        refused(["run", "trace.path=odd.arrow"], "odd.arrow", tmp_path, capsys)


def command(
    arguments: Sequence[str], folder: Path, largest_file: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the real command in a process of its own, with a limit on the size of files if given [bytes]."""

    def limit() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-c", ENTRY, *arguments]
    return subprocess.run(
        program, cwd=folder, env=environment, capture_output=True, text=True, preexec_fn=limit, timeout=300
    )


@pytest.fixture(scope="module")
def compiled() -> None:
    """Have all compiled code in the cache, so that only results are written under the limits below."""
    compile.load()
    load_all()
    from replay.policy import choose

    for slot, group in registry().items():
        for name in ("always", "least_loaded", "least_kv", "fcfs", "chunked", "lru"):
            if name in group:
                adapters.adapter(choose(slot, name))


@pytest.mark.parametrize("options", [["events=true"], ["-m", "seed=1,2"], ["leap=false"]], ids=" ".join)
def test_a_full_disk_leaves_nothing_half_written(options, tmp_path, compiled):
    """Files of more than 8 KiB cannot be written."""
    done = command(["run", "trace.requests=2000", "out_dir=mine", *options], tmp_path, largest_file=8192)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    said = done.stdout + done.stderr
    assert "cannot be written" in said or "run 1: failed" in said, said
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left in ([], ["mine/comparison.parquet"]), left


def test_a_full_disk_leaves_no_half_imported_trace(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(MOONCAKE * 100)
    done = command(["traces", "import", "rows.jsonl", "made.arrow"], tmp_path, largest_file=1024)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_full_disk_keeps_the_results_that_were_there(tmp_path, compiled):
    assert command(["run", "trace.requests=20", "out_dir=mine"], tmp_path).returncode == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    assert command(["run", "trace.requests=2000", "out_dir=mine"], tmp_path, largest_file=8192).returncode == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before


@pytest.mark.parametrize("place", ["taken", "taken/below", "/proc/nowhere"])
def test_an_out_dir_that_cannot_be_written_is_refused(place, tmp_path):
    (tmp_path / "taken").write_text("a file")
    done = command(["run", "trace.requests=5", f"out_dir={place}"], tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "cannot be written" in done.stderr, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("arguments", [["frobnicate"], [], ["traces", "frobnicate"], ["traces", "import"]])
def test_wrong_usage_is_exit_code_2(arguments, tmp_path):
    done = command(arguments, tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr and not list(tmp_path.iterdir())

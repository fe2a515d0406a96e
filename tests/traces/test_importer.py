"""Import: what is written is what was read, mapped not copied, whole or not there."""

import os
import time

import numpy as np
import pyarrow as pa
import pytest

import traces
from tests.recorded import recorded
from traces import TraceError, build
from traces.importer import import_trace, sidecar, write_trace


def million(count=1_000_000):
    draw = np.random.default_rng(0)
    return build(
        "million",
        {
            "arrival_s": np.cumsum(draw.exponential(0.01, count)),
            "prompt_tokens": draw.integers(1, 9000, count),
            "output_tokens": draw.integers(1, 900, count),
        },
    )


def test_a_million_requests_load_in_milliseconds(tmp_path):
    trace = write_trace(million(), tmp_path / "m.arrow")
    traces.load(tmp_path / "m.arrow")
    elapsed = []
    for _ in range(5):
        start = time.perf_counter()
        loaded = traces.load(tmp_path / "m.arrow")
        elapsed.append(time.perf_counter() - start)
    assert min(elapsed) < 0.25, elapsed  # 20 ms on an idle core; the margin is for a busy one
    assert loaded.digest(recompute=True) == trace.digest()
    assert loaded.table.column("arrival_s").num_chunks == 1


def test_loading_maps_the_file(tmp_path):
    write_trace(million(50_000), tmp_path / "m.arrow")
    before = pa.total_allocated_bytes()
    trace = traces.load(tmp_path / "m.arrow")
    assert pa.total_allocated_bytes() - before < 10_000
    assert not trace.column("arrival_s").flags.writeable


def test_import_of_the_conversation_trace(tmp_path):
    target = tmp_path / "conversation.arrow"
    trace = import_trace(recorded("traces/mooncake/conversation_trace.jsonl.gz"), target)
    again = traces.load(target, verify=True)
    assert again.digest() == trace.digest() and again.block_tokens == 512
    from traces import trie

    found = trie.load(sidecar(target), again.digest())
    assert len(found.leaf) == 12_031 and found.block_tokens == 512


def test_a_reimport_without_blocks_removes_the_old_trie(tmp_path):
    blocks = {"arrival_s": [0.0], "prompt_tokens": [4], "output_tokens": [1], "prefix_blocks": [[0]]}
    write_trace(build("blocks", blocks, 4), tmp_path / "t.arrow")
    assert sidecar(tmp_path / "t.arrow").exists()
    write_trace(million(10), tmp_path / "t.arrow")
    assert sorted(os.listdir(tmp_path)) == ["t.arrow"]


def test_a_changed_byte_is_found_by_verify(tmp_path):
    path = tmp_path / "t.arrow"
    write_trace(million(1000), path)
    data = bytearray(path.read_bytes())
    place = bytes(data).find(traces.load(path).column("prompt_tokens").tobytes())
    data[place + 400] ^= 1
    other = tmp_path / "other.arrow"
    other.write_bytes(data)
    with pytest.raises(TraceError, match="must have the digest written at import"):
        traces.load(other, verify=True)


def test_a_target_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    trace = million(10)
    with pytest.raises(TraceError, match="cannot be written to"):
        write_trace(trace, tmp_path / "absent" / "t.arrow")
    with pytest.raises(TraceError, match=r"named \*.arrow, but got t.csv"):
        write_trace(trace, tmp_path / "t.csv")

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pa.ipc, "new_file", full)
    with pytest.raises(TraceError, match="No space left on device. Nothing was left behind. Free some space"):
        write_trace(trace, tmp_path / "t.arrow")
    assert os.listdir(tmp_path) == []

"""Random files: valid content round-trips, damaged bytes give a sentence or a valid trace, never another error."""

import gzip
import io
import json
import random
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import traces
from traces import TraceError, build, check
from traces.importer import sidecar, write_trace

SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LENGTH = st.integers(1, 2**31 - 1)


@st.composite
def requests(draw):
    """Sorted arrivals in ms, lengths and chained ids of 16-token blocks (a path through a random tree)."""
    count = draw(st.integers(1, 12))
    arrivals = sorted(draw(st.lists(st.integers(0, 10**9), min_size=count, max_size=count)))
    children: dict[tuple[int, int], int] = {}
    rows = []
    for arrival in arrivals:
        node, ids = -1, []
        for branch in draw(st.lists(st.integers(0, 2), max_size=5)):
            node = children.setdefault((node, branch), len(children))
            ids.append(node)
        rows.append((arrival, max(1, 16 * len(ids) - draw(st.integers(0, 15))), draw(LENGTH), ids))
    return rows


def as_mooncake(rows):
    keys = ("timestamp", "input_length", "output_length", "hash_ids")
    return "".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows).encode()


def as_bailian(rows):
    records = [
        {"chat_id": n, "parent_chat_id": n // 2 - 1, "timestamp": t / 1e3, "input_length": i, "output_length": o}
        | {"type": "text", "turn": 1, "hash_ids": ids}
        for n, (t, i, o, ids) in enumerate(rows)
    ]
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def as_lengths(rows):
    return "\n".join(
        ["arrived_at,num_prefill_tokens,num_decode_tokens", *(f"{t / 1e3},{i},{o}" for t, i, o, _ in rows)]
    )


def as_burstgpt(rows):
    head = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    return "\n".join([head, *(f"{t / 1e3},GPT-4,{i},{o},{i + o},API log" for t, i, o, _ in rows)])


def as_azure(rows):
    times = (f"2023-11-{16 + t // 86_400_000:02} {_clock(t)}" for t, *_ in rows)
    lines = (f"{time},{row[1]},{row[2]}" for time, row in zip(times, rows, strict=True))
    return "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines])


def _clock(ms):
    seconds = ms % 86_400_000 // 1000
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{ms % 1000:03}0000"


def as_parquet(rows):
    columns = dict(zip(("arrival_s", "prompt_tokens", "output_tokens"), list(zip(*rows, strict=True))[:3], strict=True))
    sink = io.BytesIO()
    pl.DataFrame({**columns, "arrival_s": [t / 1e3 for t in columns["arrival_s"]]}).write_parquet(sink)
    return sink.getvalue()


FORMATS = {
    "mooncake": as_mooncake,
    "bailian": as_bailian,
    "lengths": as_lengths,
    "burstgpt": as_burstgpt,
    "azure": as_azure,
    "table": as_parquet,
}
EXAMPLE = [(0, 30, 4, [0, 1]), (1500, 16, 2, [0]), (1500, 40, 9, [0, 1, 2]), (9000, 17, 1, [3, 4])]


def encode(name, rows):
    data = FORMATS[name](rows)
    return data if isinstance(data, bytes) else data.encode()


@pytest.mark.parametrize("name", FORMATS)
@SETTINGS
@given(rows=requests(), packed=st.booleans())
def test_valid_content_round_trips(name, rows, packed):
    rows = [row for row in rows if row[0] < 10**9]  # azure_2023's month ends
    if not rows:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace"
        data = encode(name, rows)
        path.write_bytes(gzip.compress(data, 1) if packed else data)
        options = {"block_tokens": 16} if name == "mooncake" else {}
        trace = traces.load(path, **options)
        assert trace.notes["format"] == name
        assert trace.column("prompt_tokens").tolist() == [row[1] for row in rows]
        assert trace.column("output_tokens").tolist() == [row[2] for row in rows]
        start = rows[0][0] if name in ("azure", "burstgpt") else 0
        assert trace.column("arrival_s").tolist() == pytest.approx([(row[0] - start) / 1e3 for row in rows], abs=1e-9)
        if "prefix_blocks" in trace:
            offsets, ids = trace.prefix()
            assert offsets.tolist()[1:] == [sum(len(row[3]) for row in rows[: n + 1]) for n in range(len(rows))]
            assert len(set(ids.tolist())) == len({node for row in rows for node in row[3]})
        target = Path(folder) / "copy.arrow"
        assert write_trace(trace, target).digest() == trace.digest()
        again = traces.load(target, verify=True)
        assert again.digest(recompute=True) == trace.digest() and again.notes == trace.notes


def damage(data, chance):
    """Cut, flip, insert, repeat or swap bytes, as a seeded chance decides."""
    mutable = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(mutable) + 1)
        act = chance.randrange(5)
        if act == 0:
            del mutable[place:]
        elif act == 1 and mutable:
            mutable[place % len(mutable)] = chance.randrange(256)
        elif act == 2:
            mutable[place:place] = chance.choice(
                [b"-", b"9" * 30, b"null", b"\n", b'"', b"NaN", b"\xff", b",", b"]", b"1e999"]
            )
        elif act == 3:
            mutable[place:place] = mutable[place : place + chance.randrange(60)]
        else:
            del mutable[place : place + chance.randrange(20)]
    return bytes(mutable)


def outcome(path, **options):
    """Load a file that may be damaged: 1 for a valid trace, 0 for a sentence."""
    try:
        trace = traces.load(path, **options)
    except TraceError as error:
        assert "\n" not in str(error)
        return 0
    check(trace, chains=options.get("format") != "arrow")  # an imported file is trusted to have chained ids
    return 1


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_never_raise_anything_else(tmp_path, name, named):
    chance, path = random.Random(f"{name} {named}"), tmp_path / "trace"
    long = [(t, i * 32, o, ids) for t, i, o, ids in EXAMPLE]  # enough tokens for blocks of 512
    data = encode(name, long)
    path.write_bytes(data)
    assert outcome(path) == 1
    results = set()
    for _ in range(150):
        broken = damage(data, chance)
        if chance.random() < 0.2:
            broken = damage(gzip.compress(data), chance)
        path.write_bytes(broken)
        results.add(outcome(path, **({"format": name} if named else {})))
    assert 0 in results


def test_damaged_arrow_files_never_raise_anything_else(tmp_path):
    columns = {
        "arrival_s": [row[0] / 1e3 for row in EXAMPLE],
        "prompt_tokens": [row[1] for row in EXAMPLE],
        "output_tokens": [row[2] for row in EXAMPLE],
        "prefix_blocks": [row[3] for row in EXAMPLE],
        "session": ["a", "b", "a", "b"],
    }
    write_trace(build("example", columns, 16), tmp_path / "whole.arrow")
    data = (tmp_path / "whole.arrow").read_bytes()
    assert sidecar(tmp_path / "whole.arrow").exists()
    chance, results = random.Random(11), set()
    for number in range(300):
        path = tmp_path / f"{number}.arrow"  # a new name: the old one may still be mapped
        path.write_bytes(damage(data, chance))
        results.add(outcome(path, format="arrow"))
        if outcome(path, format="arrow", verify=True):
            assert traces.load(path).digest(recompute=True) == traces.load(tmp_path / "whole.arrow").digest()
    assert results == {0, 1}

"""Each reader on a small file written here, and on the recorded files where they are present."""

import gzip
import json

import numpy as np
import polars as pl
import pytest
import zstandard

import traces
from tests.recorded import recorded
from traces import TraceError
from traces.readers import detect, readers
from traces.readers.chain import chain_ids

MOONCAKE = [
    {"timestamp": 0, "input_length": 1000, "output_length": 5, "hash_ids": [0, 1]},
    {"timestamp": 3000, "input_length": 513, "output_length": 6, "hash_ids": [0, 2]},
    {"timestamp": 3000, "input_length": 10, "output_length": 7, "hash_ids": [0]},
]


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def save(folder, name, data):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
def test_mooncake_plain_and_compressed(tmp_path, pack):
    path = save(tmp_path, "trace.data", pack(lines(MOONCAKE)))
    assert detect(path) == "mooncake"
    trace = traces.load(path)
    assert trace.column("arrival_s").tolist() == [0.0, 3.0, 3.0]
    assert trace.column("prompt_tokens").tolist() == [1000, 513, 10]
    assert trace.prefix()[1].tolist() == [0, 1, 0, 2, 0] and trace.block_tokens == 512


def test_mooncake_with_content_ids_is_chained_on_request(tmp_path):
    swapped = [MOONCAKE[0], {**MOONCAKE[1], "hash_ids": [1, 0]}]
    path = save(tmp_path, "t.jsonl", lines(swapped))
    with pytest.raises(TraceError, match="must be chained"):
        traces.load(path)
    assert traces.load(path, content_ids=True).prefix()[1].tolist() == [0, 2, 1, 3]


def test_azure_2023_and_2024_clocks(tmp_path):
    rows = ["2023-11-16 18:17:03.9799600,4808,10", "2023-11-16 18:17:04.0319601,3180,8"]
    path = save(tmp_path, "a.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\r\n" + "\r\n".join(rows) + "\r\n")
    assert traces.load(path).column("arrival_s").tolist() == [0.0, 0.0520001]
    rows = ["2024-05-10 00:00:00.009930+00:00,2162,5", "2024-05-10 00:00:01+00:00,7,5", "2024-05-10 02:00:02+02:00,7,5"]
    path = save(tmp_path, "b.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows))
    assert traces.load(path).column("arrival_s").tolist() == [0.0, 0.99007, 1.99007]


def test_azure_2025_has_images(tmp_path):
    rows = ["TIMESTAMP,NumImages,ContextTokens,GeneratedTokens", "2024-10-15 00:00:00,2,2600,5",
            "2024-10-15 00:00:01,0,7,5"]  # fmt: skip
    text = "\n".join(rows)
    trace = traces.load(save(tmp_path, "m.csv", text))
    assert trace.column("images").tolist() == [2, 0] and trace.column("prompt_tokens").tolist() == [2600, 7]
    with pytest.raises(TraceError, match="images must be at least 0, but request 0 has images -2"):
        traces.load(save(tmp_path, "n.csv", text.replace(",2,", ",-2,")))


@pytest.mark.parametrize("clock", ["yesterday", "2023-13-16 18:17:03.9", "2023-11-16 18:17:03.", "2023-11-16T18:17"])
def test_azure_names_the_row_of_a_bad_clock(tmp_path, clock):
    text = f"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9,1,1\n{clock},1,1\n"
    with pytest.raises(TraceError, match="TIMESTAMP must be like .* request 1 has"):
        traces.load(save(tmp_path, "a.csv", text))


def test_burstgpt_drops_and_counts_failures(tmp_path):
    rows = ["5,ChatGPT,472,18,490,Conversation log", "45,GPT-4,300,0,300,API log", "118,GPT-4,417,276,693,API log"]
    path = save(
        tmp_path, "b.csv", "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n" + "\n".join(rows)
    )
    trace = traces.load(path)
    assert trace.column("arrival_s").tolist() == [0.0, 113.0]
    assert trace.column("kind").tolist() == ["ChatGPT, Conversation log", "GPT-4, API log"]
    assert trace.notes["zero_tokens"] == {"rule": "drop", "rows": 1, "first_row": 1}
    assert traces.load(path, zero_tokens="one").column("output_tokens").tolist() == [18, 1, 276]
    with pytest.raises(TraceError, match="request 1 has 300 and 0; 1 request"):
        traces.load(path, zero_tokens="refuse")


def test_burstgpt_with_sessions_and_elapsed_time(tmp_path):
    head = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    rows = ["1.5,s1,2.25,GPT-4,10,2,12,Conversation log", "2,s1,,GPT-4,10,2,12,Conversation log"]
    trace = traces.load(save(tmp_path, "b.csv", head + "\n".join(rows)))
    assert trace.column("session").tolist() == ["s1", "s1"]
    assert np.array_equal(trace.column("e2e_s"), [2.25, np.nan], equal_nan=True)


def test_bailian_chains_contents_and_follows_chats(tmp_path):
    def turn(chat, parent, t, ids, **more):
        counts = {"input_length": 16 * len(ids), "output_length": 3, "type": "text", "turn": 1, **more}
        return {"chat_id": chat, "parent_chat_id": parent, "timestamp": t, **counts, "hash_ids": ids}

    records = [
        turn(7, -1, 0.5, [10, 11]),
        turn(9, -1, 0.6, [11, 10]),
        turn(12, 7, 2.0, [10, 11, 12]),
        turn(13, 99, 3.0, []),
    ]
    records[3]["input_length"] = 5
    trace = traces.load(save(tmp_path, "q.jsonl", lines(records)))
    assert trace.block_tokens == 16
    assert trace.column("session").tolist() == ["7", "9", "7", "13"]
    first, second, third = (trace.prefix()[1][a:b].tolist() for a, b in ((0, 2), (2, 4), (4, 7)))
    assert third[:2] == first and not set(first) & set(second)


def test_lengths_and_generic_tables(tmp_path):
    path = save(tmp_path, "l.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,4,1\n0.25,8,2\n")
    expected = traces.load(path)
    assert expected.column("arrival_s").tolist() == [0.0, 0.25]
    frame = pl.DataFrame({"t": [0.0, 250.0], "in": [4, 8], "out": [1, 2], "class": ["a", "b"]})
    frame.write_csv(tmp_path / "g.csv")
    frame.write_parquet(tmp_path / "g.parquet")
    frame.write_ndjson(tmp_path / "g.jsonl")
    frame.write_ipc(tmp_path / "g.arrow")
    names = {"arrival_s": "t", "prompt_tokens": "in", "output_tokens": "out"}
    for kind in ("csv", "parquet", "jsonl", "arrow"):
        trace = traces.load(tmp_path / f"g.{kind}", columns=names, arrival_unit="ms")
        assert trace.digest() == expected.digest(), kind
        tiered = traces.load(tmp_path / f"g.{kind}", columns={**names, "tier": "class"}, arrival_unit="ms")
        assert tiered.column("tier").tolist() == ["a", "b"]
    with pytest.raises(TraceError, match="column 'when' .for arrival_s. must be in the file"):
        traces.load(tmp_path / "g.csv", columns={**names, "arrival_s": "when"})
    with pytest.raises(TraceError, match="keys are .* got 'arrival'"):
        traces.load(tmp_path / "g.csv", columns={"arrival": "t"})


def test_kv_cache_tester_closes_the_loop(tmp_path):
    frame = pl.DataFrame(
        {
            "trace_id": ["one"] * 4 + ["two", "copy"],
            "agent_id": ["", "", "", "sub", "", ""],
            "seq": [0, 1, 2, 0, 0, 0],
            "t_abs": [0.0, 10.0, 30.0, 12.0, 0.0, 0.0],
            "input_length": [64, 128, 200, 64, 64, 64],
            "output_length": [5, 5, 5, 5, 0, 5],
            "api_time": [4.0, None, 1.0, 2.0, 1.0, 1.0],
            "ttft": [None, 1.5, None, None, None, None],
            "think_time": [0.0, 6.0, None, 0.0, 0.0, 0.0],
            "hash_ids": [[1], [1, 2], [1, 2, 3], [9], [1], [1]],
        },
        strict=False,
    )
    frame.write_parquet(tmp_path / "requests.parquet")
    pl.DataFrame({"trace_id": ["one", "two", "copy"], "duplicate_of": [None, None, "one"]}).write_parquet(
        tmp_path / "sessions.parquet"
    )
    trace = traces.load(tmp_path, rate_per_s=1e-3, seed=1)
    assert len(trace) == 5 and trace.notes["duplicates_dropped"] == 1
    one = trace.column("session") == "one"
    start_s = trace.column("arrival_s")[one].min()
    assert (trace.column("arrival_s")[one] - start_s).tolist() == pytest.approx([0.0, 10.0, 12.0, 30.0])
    rows = np.flatnonzero(one).tolist()
    assert trace.column("kind")[rows].tolist() == ["main", "main", "sub-agent", "main"]
    assert trace.column("parent")[rows].tolist() == [-1, rows[0], rows[1], rows[1]]
    # recorded, from the spawn's delay after a call of unknown service, from the gap where no think time was recorded
    assert trace.column("think_s")[rows].tolist() == [0.0, 6.0, 2.0, 20.0]
    assert trace.column("output_tokens")[~one].tolist() == [1]
    assert not set(_blocks(trace, rows)) & set(_blocks(trace, np.flatnonzero(~one)))
    assert traces.load(tmp_path, seed=1).digest() == traces.load(tmp_path / "requests.parquet", seed=1).digest()
    assert traces.load(tmp_path, seed=2).digest() != traces.load(tmp_path, seed=1).digest()


def _blocks(trace, rows):
    offsets, ids = trace.prefix()
    return [int(i) for row in rows for i in ids[offsets[row] : offsets[row + 1]]]


def test_ragpulse_shares_blocks_of_equal_chunk_prefixes(tmp_path):
    def record(t, passages, user):
        ids = {"sys_prompt": [1], "passages_ids": passages, "history": [], "web_search": [], "user_input": [user]}
        return {"timestamp": t, "input_length": 60, "output_length": 4, "hash_ids": ids, "session_id": f"s{t}"}

    save(tmp_path, "0_trace.jsonl", b"\n".join(lines([r]) for r in (record("9", [5, 6], 8), record("3", [6, 5], 8))))
    save(tmp_path, "1_sys_prompt.jsonl", lines([{"sys_prompt_id": 1, "token_length": 10}]))
    passages = [{"passage_id": 5, "token_length": 20}, {"passage_id": 6, "token_length": 20}]
    save(tmp_path, "2_passages.jsonl", lines(passages))
    save(tmp_path, "4_user_input.jsonl", lines([{"user_input_id": 8, "token_length": 4}]))
    trace = traces.load(tmp_path, block_tokens=8)
    assert trace.column("arrival_s").tolist() == [3.0, 9.0]
    offsets, ids = trace.prefix()
    # 54 tokens are 6 full blocks; only the first lies within the system prompt, which both share
    assert np.diff(offsets).tolist() == [6, 6]
    assert ids[0] == ids[6] and not set(ids[1:6]) & set(ids[7:])
    (tmp_path / "4_user_input.jsonl").unlink()
    with pytest.raises(TraceError, match="chunk lengths beside it, but 4_user_input.jsonl is not there"):
        traces.load(tmp_path)


def test_chain_ids_equal_the_numbering_of_prefixes():
    draw = np.random.default_rng(2)
    lists = [draw.integers(0, 3, draw.integers(0, 6)).tolist() for _ in range(60)]
    offsets = np.cumsum([0, *map(len, lists)])
    chained = chain_ids(offsets, np.array([i for ids in lists for i in ids], np.int64))
    prefixes = [tuple(ids[: n + 1]) for ids in lists for n in range(len(ids))]
    pairs = set(zip(prefixes, chained.tolist(), strict=True))
    assert len(pairs) == len(set(prefixes)) == len(set(chained.tolist()))


def test_unsorted_files_are_refused_or_sorted(tmp_path):
    path = save(tmp_path, "t.jsonl", lines(MOONCAKE[::-1]))
    with pytest.raises(TraceError, match="sorted: request 2 arrives at 0 s, before request 1 at 3 s"):
        traces.load(path)
    assert traces.load(path, sort=True).column("output_tokens").tolist() == [5, 7, 6]


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("x.jsonl", b"", "no reader recognises x.jsonl"),
        ("x.csv", b"one,two\n1,2\n", "no reader recognises x.csv"),
        ("x.jsonl", lines(MOONCAKE)[:-30], "must hold a JSON record a line"),
        ("x.jsonl", lines([{**MOONCAKE[0], "input_length": "many"}]), "must hold a JSON record a line"),
        ("x.jsonl", lines([MOONCAKE[0], {"timestamp": 3}]), "must have 'input_length', but request 1"),
        ("x.gz", gzip.compress(lines(MOONCAKE * 300))[:-9], "x.gz is damaged"),
        ("x.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,4.5,1\n", "must hold a CSV record"),
        ("x.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n", "only a header"),
    ],
)
def test_damage_is_one_sentence(tmp_path, name, data, sentence):
    with pytest.raises(TraceError, match=sentence):
        traces.load(save(tmp_path, name, data))


def test_load_refuses_what_it_does_not_know(tmp_path):
    path = save(tmp_path, "t.jsonl", lines(MOONCAKE))
    with pytest.raises(TraceError, match="format must be one of arrow, azure, .* got 'parket'"):
        traces.load(path, "parket")
    with pytest.raises(TraceError, match="mooncake reader has the options .* got 'speed'"):
        traces.load(path, speed=2)
    with pytest.raises(TraceError, match="there is none at"):
        traces.load(tmp_path / "absent.csv")
    with pytest.raises(TraceError, match="zero_tokens must be one of"):
        traces.load(path, zero_tokens="maybe")


def test_every_reader_is_found_and_says_its_source():
    assert list(readers())[-1] == "table" and len(readers()) >= 10
    for name, reader in readers().items():
        assert reader.read.__doc__ and reader.sniff.__annotations__["return"] is bool, name


@pytest.mark.parametrize(
    ("file", "requests", "prompt_tokens"),
    [
        ("mooncake/conversation_trace.jsonl.gz", 12_031, 144_793_823),
        ("azure2023/AzureLLMInferenceTrace_code.csv", 8_819, None),
        ("azure2023/AzureLLMInferenceTrace_conv.csv", 19_366, None),
        ("ragpulse/0_trace.jsonl.gz", 7_106, None),
        ("lmcache-agent/requests.parquet", 1_095, None),
    ],
)
def test_recorded_files(file, requests, prompt_tokens):
    trace = traces.load(recorded(f"traces/{file}"))
    assert len(trace) == requests
    if prompt_tokens:
        assert trace.column("prompt_tokens").sum(dtype=np.int64) == prompt_tokens


def test_azure_agrees_with_the_processed_list_of_another_project():
    """The same trace, converted by vidur (which rounds arrivals to microseconds)."""
    ours = traces.load(recorded("traces/azure2023/AzureLLMInferenceTrace_conv.csv"))
    theirs = traces.load(recorded("traces/vidur/splitwise_conv.csv"))
    for name in ("prompt_tokens", "output_tokens"):
        assert np.array_equal(ours.column(name), theirs.column(name))
    assert np.abs(ours.column("arrival_s") - theirs.column("arrival_s")).max() < 2e-6

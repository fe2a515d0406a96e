"""The result object: rows, digest, and the run directory and back."""

import hashlib
import json

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from replay import events
from replay.engine.schema import EVENT, LOG_ARRIVE, LOG_FINISH
from replay.errors import ConfigError
from replay.result import DIGESTED, Result, digest
from tests.handmade import request, session, waiting

ROWS = [
    request(0.0),
    request(0.0, tier="bronze", output_tokens=1, finish_s=0.5, max_itl_s=None),
    waiting(1.0, "rejected"),
    waiting(None),
]


def test_rows_are_those_of_the_contract_in_trace_order():
    frame = Result.from_session(session(ROWS)).requests
    promised = (
        "arrival_s prompt_tokens output_tokens tier status prefill_instance decode_instance hit_tokens queue_s ttft_s "
        "tpot_s max_itl_s e2e_s"
    )
    assert frame.columns[: len(promised.split())] == promised.split()
    assert frame["arrival_s"].to_list() == [0.0, 0.0, 1.0, None]
    assert frame["status"].to_list() == ["finished", "finished", "rejected", "unfinished"]
    assert frame["tier"].to_list() == ["gold", "bronze", "gold", "gold"] and frame["tier"].dtype == pl.String
    assert frame["tpot_s"].to_list() == [pytest.approx(0.1), None, None, None]
    assert frame["max_itl_s"].to_list() == [0.1, None, None, None]
    assert frame["prefill_instance"].to_list() == [0, 0, None, None]
    assert frame["finish_ps"].to_list() == [1_500_000_000_000, 500_000_000_000, None, None]
    assert frame["kind"].to_list() == ["chat"] * 4 and "tenant" not in frame.columns


def test_digest_is_a_sha256_over_named_little_endian_columns():
    columns = {name: np.array([index, -1], np.int32) for index, name in enumerate(DIGESTED)}
    spelled = hashlib.sha256()
    for index, name in enumerate(DIGESTED):
        spelled.update(f"{name} 2\n".encode() + index.to_bytes(8, "little", signed=True) + b"\xff" * 8)
    assert digest(columns) == spelled.hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"finish_s": 1.500000000001}, {"hit_tokens": 21}, {"preemptions": 1}, {"decode_instance": 2},
        {"max_itl_s": 0.100000000001}, {"status": "failed"}, {"scheduled_s": 0.2}, {"output_tokens": 12},
    ],
)  # fmt: skip
def test_any_change_of_history_changes_the_digest(change):
    before = Result.from_session(session([request(0.0)])).digest
    assert Result.from_session(session([request(0.0)])).digest == before
    assert Result.from_session(session([request(0.0, **change)])).digest != before


def test_save_and_load_give_the_same_result(tmp_path):
    made = session(ROWS)
    made.events = True
    log = np.zeros(2, EVENT)
    log["kind"], log["time_ps"], log["instance"] = (LOG_ARRIVE, LOG_FINISH), (5, 9), (-1, 3)
    made.log = [log[:1], log[1:]]
    result = Result.from_session(made, {"seed": 3, "cluster": {"name": "mixed_1"}})
    result.save(tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.yaml", "summary.json", "requests.parquet", "digest.txt", "events.arrow"}
    back = Result.load(tmp_path / "run")
    assert_frame_equal(back.requests, result.requests)
    assert back.summary == result.summary and back.digest == result.digest and back.config == result.config
    assert back.events.to_pylist() == [
        {"time_ps": 5, "kind": "arrive", "request": 0, "instance": None, "value": 0},
        {"time_ps": 9, "kind": "finish", "request": 0, "instance": 3, "value": 0},
    ]


def test_a_second_save_leaves_nothing_of_the_first(tmp_path):
    made = session(ROWS)
    made.events = True
    Result.from_session(made, {"seed": 1}).save(tmp_path)
    Result.from_session(session(ROWS)).save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"summary.json", "requests.parquet", "digest.txt"}
    assert Result.load(tmp_path).config is None


def test_summary_json_is_flat_and_strict(tmp_path):
    Result.from_session(session(ROWS)).save(tmp_path)
    numbers = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert all(value is None or isinstance(value, int | float | str) for value in numbers.values())
    assert numbers["digest"] == (tmp_path / "digest.txt").read_text().strip()


def test_a_folder_that_is_no_run_directory_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="must be the directory of a finished run"):
        Result.load(tmp_path)


def test_an_empty_log_gives_an_empty_table():
    assert events.to_table([]).num_rows == 0
    with pytest.raises(TypeError, match="EVENT rows"):
        events.to_table([np.zeros(1, np.int64)])
    assert isinstance(events.to_table([np.zeros(1, EVENT)]), pa.Table)

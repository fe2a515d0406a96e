"""Profile files: what is written is read, what is none is refused, and what a node says changes it."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from replay.errors import ConfigError
from replay.hardware import build, iteration_ps, table
from replay.hardware.conf import load as node_of
from replay.hardware.file import load, save
from tests.small import small_profile


def test_a_profile_is_what_its_file_says(tmp_path: Path) -> None:
    profile = small_profile(prefill_token_ps=3, prefill_token_sq_fs=7, decode_request_ps=2,
                            token_segments=[(0, 5, 1), (9, 40, 2)],
                            decode_segments=[(0, 4, 0), (9, 30, 0)], mixed_kv_segments=[(0, 0, 3)])  # fmt: skip
    save(profile, tmp_path / "a.json")
    again = load(tmp_path / "a.json")
    for field in fields(profile):
        first, second = getattr(profile, field.name), getattr(again, field.name)
        assert np.array_equal(first, second) if isinstance(first, np.ndarray) else first == second, field.name
    node = {**node_of("hardware", "measured"), "path": str(tmp_path / "a.json"), "kv_capacity_tokens": 77}
    assert build({"hardware": node}).kv_capacity_tokens == 77


def test_an_iteration_without_prefill_has_its_own_table() -> None:
    profile = small_profile(token_segments=[(0, 100, 1)], decode_segments=[(0, 7, 0), (3, 9, 0)])
    asked = ((0, 1), (0, 2), (0, 3), (1, 2), (5, 0))
    assert [iteration_ps(profile, p, D, 0, 0) for p, D in asked] == [7, 7, 9, 103, 105]
    profile = small_profile(iteration_ps=1, kv_token_ps=2, mixed_kv_segments=[(0, 10, 5)], mixed_request_ps=1000)
    assert [iteration_ps(profile, p, 1, 100, 0) for p in (0, 1)] == [201, 1511]
    with pytest.raises(ConfigError, match="decode_table"):
        replace(profile, decode_table=table([(0, 9, 0), (3, 7, 0)]))


BEGIN = '{"format": "kvreplay profile 1", '


@pytest.mark.parametrize("text", ["", "{}", BEGIN + '"speed": 3}', BEGIN + '"name": "x"}'])
def test_what_is_no_profile_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigError, match="a.json"):
        load(tmp_path / "a.json")
    with pytest.raises(ConfigError, match=r"hardware\.path must name a profile file"):
        build({"hardware": node_of("hardware", "measured")})

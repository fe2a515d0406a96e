"""A policy's helpers belong to it: what they read is read by it, and a change in them is a change of it."""

import importlib
import sys
from pathlib import Path

import pytest

from replay.policy import Policy, load_file, registry

HELPER = "SCALE = {scale}\n\n\ndef weigh(view):\n    return SCALE * view.hit_tokens\n"
PLUGIN = '''
import helpers_of_a_test
from numba import njit

from replay.policy import policy


@policy("route")
def with_helpers(request, instances, now_ps):
    """Send to the first.

    source : own
    """
    return 0 if score(instances[0]) >= 0 else 0


score = njit(helpers_of_a_test.weigh)
'''


def loaded(folder: Path, scale: float) -> Policy:
    (folder / "helpers_of_a_test.py").write_text(HELPER.format(scale=scale))
    (folder / "with_helpers.py").write_text(PLUGIN)
    sys.modules.pop("helpers_of_a_test", None)
    importlib.invalidate_caches()
    load_file(folder / "with_helpers.py")
    return registry()["route"].pop("with_helpers")


def test_reads_and_content_follow_helpers_in_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    first, same, other = (loaded(tmp_path, scale) for scale in (1.0, 1.0, 2.5))
    assert "hit_tokens" in first.reads
    assert first.content == same.content != other.content

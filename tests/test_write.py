"""Writing: all files or none, whatever stops it."""

import contextlib
import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from replay.errors import WriteError
from replay.result import Result
from replay.write import check_writable, together
from tests.handmade import request, session

ROOT = Path(__file__).resolve().parents[1]


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_files_appear_together_at_the_end(tmp_path):
    with together(tmp_path / "a" / "b") as place:
        place("x").write_text("1")
        place("y").write_text("2")
        assert not (tmp_path / "a" / "b" / "x").exists()
    assert everything(tmp_path) == ["a", "a/b", "a/b/x", "a/b/y"]


def test_files_below_the_folder_appear_with_the_others_or_not_at_all(tmp_path):
    for fails in (True, False):
        with contextlib.suppress(KeyError), together(tmp_path / "a") as place:
            place("x").write_text("1")
            place("b/c/y").write_text("2")
            if fails:
                raise KeyError
        assert everything(tmp_path) == ([] if fails else ["a", "a/b", "a/b/c", "a/b/c/y", "a/x"])


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt(), TypeError()])
def test_a_failure_inside_leaves_nothing(tmp_path, failure):
    expected = WriteError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected), together(tmp_path / "run") as place:
        place("x").write_text("1")
        raise failure
    assert everything(tmp_path) == []


def test_a_failure_keeps_the_files_of_an_earlier_run(tmp_path, monkeypatch):
    Result.from_session(session([request(0.0)])).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="No space left on device.*out_dir="):
        Result.from_session(session([request(1.0), request(2.0)])).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(WriteError, match="cannot be written"):
            Result.from_session(session([request(0.0)])).save(folder)
        with pytest.raises(WriteError, match="cannot be written"):
            check_writable(folder)
    assert everything(tmp_path) == ["taken"]


def test_checking_leaves_no_trace(tmp_path):
    check_writable(tmp_path / "deep" / "er")
    check_writable(tmp_path)
    assert everything(tmp_path) == []


def test_checks_of_runs_at_once_do_not_take_the_folder_from_each_other(tmp_path):
    """Each check makes and removes the folder of the multirun, where another may be about to make its own."""
    def check(number: int) -> None:
        for _ in range(1500):
            check_writable(tmp_path / "many" / str(number))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(check, range(4))) == [None] * 4


def test_a_real_write_that_stops_half_way_leaves_nothing(tmp_path):
    """The system itself refuses bytes beyond a file-size limit, as a full disk does."""
    script = (
        "import resource, signal, sys\n"
        "from replay.result import Result\n"
        "from tests.handmade import request, session\n"
        "result = Result.from_session(session([request(float(i)) for i in range(3000)]))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    result.save(sys.argv[1])\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("WriteError the results cannot be written"), done.stdout + done.stderr
    assert everything(tmp_path) == []

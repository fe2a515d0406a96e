"""What every refusal of the command has in common."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from replay import cli


def refused(arguments: Sequence[str], words: str, folder: Path, capsys: Any) -> None:
    """Run the command in-process and check that it refuses: exit code 1, one sentence on stderr, nothing new on disk.

    folder : the working directory; it must hold the same files, with the same bytes, afterwards
    capsys : pytest's capture of this test
    """
    before = contents(folder)
    code = cli.main(arguments)
    told = capsys.readouterr()
    assert code == 1, (code, told)
    assert words in told.err and told.err.count("\n") == 1 and len(told.err) > len(words) + 20, told.err
    assert "Traceback" not in told.err and "unexpected" not in told.err, told.err
    assert told.out == "" and contents(folder) == before, told


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file below a folder; folders stand there too, without bytes."""
    paths = sorted(folder.rglob("*"))
    return {os.fspath(path): path.read_bytes() if path.is_file() else b"" for path in paths}

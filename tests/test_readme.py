"""The README's commands and Python run as written.

In a block without a language, or `sh`, every line that starts with `kvreplay` is run by bash in one folder, in order. A
`python` block whose first line is `# name.py` becomes that file; any other one is run. The lines that make a virtual
environment are what `.ci/run` and a fresh machine run; they are left out here.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recorded import FOLDER

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
RECORDED = {
    "conversation_trace.jsonl.gz": "traces/mooncake/conversation_trace.jsonl.gz",
    "mooncake_fast25_fig9_lru_hit_rate.csv": "measured/published/mooncake_fast25_fig9_lru_hit_rate.csv",
    "azure_code.csv": "traces/azure2023/AzureLLMInferenceTrace_code.csv",
    "AzureLLMInferenceTrace_conv.csv": "traces/azure2023/AzureLLMInferenceTrace_conv.csv",
}
ENTRY = '#!/bin/sh\nexec "{python}" -c "import sys; from replay.cli import main; sys.exit(main())" "$@"\n'


def blocks() -> list[tuple[str, str]]:
    """Return (language, content) of every fenced block."""
    return re.findall(r"^```(\w*)[^\n]*\n(.*?)^```$", TEXT, re.M | re.S)


def commands() -> list[str]:
    """Return the lines to run, in order, each once."""
    lines = [line for language, block in blocks() if language in ("", "sh", "bash") for line in block.splitlines()]
    return list(dict.fromkeys(line for line in lines if line.startswith("kvreplay")))


def programs() -> list[str]:
    """Return the Python blocks to run."""
    return [block for language, block in blocks() if language == "python" and not named(block)]


def named(block: str) -> str | None:
    """Return the file's name in a block's first line, None without one."""
    found = re.match(r"# (\w+\.py)\n", block)
    return found[1] if found else None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder that a reader would be in: the README's files, recorded traces and a command called kvreplay."""
    folder = tmp_path_factory.mktemp("readme")
    for language, block in blocks():
        if language == "python" and (name := named(block)):
            (folder / name).write_text(block)
    for name, source in RECORDED.items():
        if (FOLDER / source).exists():
            shutil.copy(FOLDER / source, folder / name)
    (folder / "bin").mkdir()
    command = folder / "bin" / "kvreplay"
    command.write_text(ENTRY.format(python=sys.executable))
    command.chmod(0o755)
    return folder


def ran(arguments: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in the reader's folder."""
    path = f"{place / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    return subprocess.run(arguments, cwd=place, env=environment, capture_output=True, text=True, timeout=500)


@pytest.mark.parametrize("line", commands())
def test_command(line: str, place: Path) -> None:
    missing = [name for name in RECORDED if name in line and not (place / name).exists()]
    if missing:
        pytest.skip(f"recorded data not present: {missing[0]} (set KVREPLAY_SHARED to a folder that has it)")
    done = ran(["bash", "-euo", "pipefail", "-c", line], place)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("block", programs())
def test_python(block: str, place: Path) -> None:
    missing = [name for name in RECORDED if name in block and not (place / name).exists()]
    if missing:
        pytest.skip(f"recorded data not present: {missing[0]} (set KVREPLAY_SHARED to a folder that has it)")
    done = ran([sys.executable, "-c", block], place)
    assert done.returncode == 0, done.stderr


def test_the_first_lines_set_up_and_run() -> None:
    """One command runs the main job on a fresh machine, the next passes the tests."""
    first = next(block for language, block in blocks()).splitlines()
    assert len(first) == 2 and all(line.startswith("python3 -m venv ") for line in first)
    assert first[0].endswith("kvreplay run") and "pytest" in first[1]


def test_the_commands_show_every_verb() -> None:
    from replay.cli import VERBS

    assert len(commands()) >= 5
    assert all(any(f"kvreplay {verb}" in line for line in commands()) for verb in VERBS)


def test_links_and_folders_exist() -> None:
    """Links inside the project, and names of its files in backquotes, lead somewhere."""
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", TEXT) if "://" not in link]
    folders = r"(?:conf|traces|predictors|replay|policies|tests|\.ci)"
    links += re.findall(rf"`({folders}/[\w./-]*\w(?:\.\w+)?)`", TEXT)
    assert links and not [link for link in links if not (ROOT / link).exists()]

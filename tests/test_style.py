"""House rules that a program can check: lint, types, sizes, and words that do not belong in a public project."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("traces", "predictors", "replay", "policies")
MOST_LINES, MOST_FUNCTION_LINES, MOST_ARGUMENTS = 320, 60, 8
SELF = Path(__file__).name
SKIPPED = {".git", ".venv", "runs", "dist", "build", "__pycache__"}
# Each is spelled so that this file does not contain it.
FORBIDDEN = {
    "a path of one machine": r"/(?:home|root|work|Users)/[A-Za-z0-9_.-]+|C:\\\\Users",
    "a registry's host": r"pypi\.org|files\.pythonhosted|registry\.npmjs|index-url|\d+\.\d+\.\d+\.\d+:\d{2,5}",
    "an unfinished place": r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b",
    "talk about tools": r"(?i)\b(?:cla" + r"ude|co" + r"pilot|anthr" + r"opic|l" + r"lm-generated)\b",
    "a placeholder": r"(?i)\blorem ip" + r"sum\b|raise NotImplemented" + r"Error",
    "unseeded randomness": r"default_rng\(\)|RandomState\(\)|np\.random\.(?:rand|randn|randint|random|choice|seed)\(",
}


def sources() -> list[Path]:
    """Return the Python files of the packages."""
    return sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def texts() -> Iterator[tuple[Path, str]]:
    """Yield every text file that the project publishes."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        if path.suffix not in {".py", ".md", ".yaml", ".toml", ".json", ""} or not path.is_file() or path.name == SELF:
            continue
        if not SKIPPED & set(parts) and not (parts[0].startswith(".") and parts[0] != ".ci"):
            yield path, path.read_text(encoding="utf-8", errors="replace")


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield the functions of a file, with a place for messages."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def length(node: ast.FunctionDef) -> int:
    """Count a function's lines without its docstring."""
    first = node.body[1] if ast.get_docstring(node) is not None and len(node.body) > 1 else node.body[0]
    return int(node.end_lineno or 0) - first.lineno + 1


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a checker of the test extra from the root, or skip if it is absent."""
    present = subprocess.run([sys.executable, "-m", name, "--version"], capture_output=True).returncode == 0
    if not present:
        pytest.skip(f"{name} is not installed: pip install 'kvreplay[test]'")
    return subprocess.run([sys.executable, "-m", name, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_ruff() -> None:
    done = tool("ruff", "check", "--output-format", "concise", ".")
    assert done.returncode == 0, done.stdout


def test_mypy() -> None:
    done = tool("mypy")
    assert done.returncode == 0, done.stdout


def test_files_and_functions_are_short() -> None:
    """Design says about 300 lines a file and 40 a function; this is where "about" ends."""
    files = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert len(files) > 50 and not {name: lines for name, lines in files.items() if lines > MOST_LINES}
    long = {place: length(node) for path in sources() for place, node in functions(path)}
    assert len(long) > 300 and not {place: lines for place, lines in long.items() if lines > MOST_FUNCTION_LINES}


def test_functions_take_few_arguments() -> None:
    """But for policies, whose tunables are arguments, and the kernel's entry, which takes one policy a slot."""
    taken = {}
    for path in sources():
        for place, node in functions(path):
            names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args) if argument.arg != "self"]
            if "policies" not in path.parts and "route" not in names:
                taken[place] = len(names)
    assert not {place: count for place, count in taken.items() if count > MOST_ARGUMENTS}


def test_public_functions_say_what_they_do() -> None:
    """Every public function of the packages has a docstring; of a reader's `sniff`, traces.readers says it once."""
    silent = []
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        owners = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
        for node in (node for owner in owners for node in owner.body if isinstance(node, ast.FunctionDef)):
            if not node.name.startswith("_") and node.name != "sniff" and ast.get_docstring(node) is None:
                silent.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not silent


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_text_holds(what: str) -> None:
    found = []
    for path, text in texts():
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(FORBIDDEN[what], line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found


def test_every_test_asserts() -> None:
    """A test without an assertion, an expected error or a helper that checks cannot fail for the right reason."""
    idle = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        helpers = {node.name: ast.unparse(node) for _, node in functions(path)}
        for place, node in functions(path):
            text = ast.unparse(node)
            reached = text + "".join(body for name, body in helpers.items() if f"{name}(" in text)
            checks = r"\bassert[ _]|\b\w*(raises|refused|fail|close)\(|\bcheck\w*\(|\bagree"
            if node.name.startswith("test_") and not re.search(checks, reached):
                idle.append(place)
    assert not idle

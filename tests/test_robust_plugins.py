"""Policies that are wrong in every way a file can be: one sentence through the real command, and no run directory."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from replay import cli
from replay.policy import SLOTS, registry
from tests.refusals import refused

ROOT = Path(__file__).resolve().parents[1]
HEAD = "import math\nimport sys\nfrom replay.policy import HOLD, NEVER, Choice, Span, policy\n\n\n"
ARGUMENTS = ["trace.requests=30", "cluster.kv_blocks=900", "out_dir=mine"]
CLUSTER = {"decode": "cluster=pd_1p1d"}
TUNABLE = "request, instances, now_ps, weight: "


def plugin(body: str, slot: str = "route", takes: str | None = None) -> str:
    """Return a file that registers one policy called `mine`.

    takes : its parameters, those of the slot if None
    """
    parameters = ", ".join(SLOTS[slot]) if takes is None else takes
    return f'{HEAD}@policy("{slot}")\ndef mine({parameters}):\n    """Do something odd."""\n    {body}\n'


# what it is, slot, body of the policy, words of the sentence
NONSENSE = [
    ("beyond the last", "route", "return 99", "returned instance 99 for request 0, but the cluster has"),
    ("negative", "route", "return -7", "returned instance -7"),
    ("source beyond the last", "route", "return 0, 99", "returned source 99"),
    ("text", "route", 'return "first"', "does not compile: it must return an instance index"),
    ("nothing", "route", "pass", "does not compile: it must return an instance index"),
    ("a huge number", "route", "return 10**30", "does not compile"),
    ("raises sometimes", "route", "return 1 // instances[0].waiting", "a policy raised ZeroDivisionError"),
    ("raises", "route", "if request.id == 3:\n        raise KeyError('no')\n    return 0", "a policy raised KeyError"),
    ("raises always", "route", "raise ValueError('no')", "does not compile"),
    ("a dict", "route", "return {}['a']", "does not compile"),
    ("opens a file", "route", "open('x')\n    return 0", "does not compile"),
    ("unknown name", "route", "return undefined_name", "undefined_name"),
    ("calls itself", "route", "return mine(request, instances, now_ps)", "does not compile"),
    ("negative", "decode", "return -2", "decode policy 'mine' returned instance -2"),
    ("NaN key", "order", "return math.nan", "order policy 'mine' returned NaN for request 0"),
    ("NaN margin", "order", "return 1.0, math.nan", "order policy 'mine' returned NaN"),
    ("negative tokens", "batch", "return -5, True, False", "batch policy 'mine' returned -5 prefill tokens"),
    ("one number", "batch", "return 5", "it must return (prefill_tokens, decode, whole)"),
    ("NaN score", "evict", "return math.nan", "evict policy 'mine' returned NaN"),
]
# answers that a careless cast would take for numbers
CAST = [
    ("NaN", "route", "return math.nan", "must return an instance index"),
    ("fraction", "route", "return 1.5", "must return an instance index"),
    ("three numbers", "route", "return 0, 1, 2", "must return an instance index"),
    ("a pair", "decode", "return 0, 1", "must return an instance index"),
    ("text", "admit", 'return "yes"', "must return True or False"),
    ("NaN", "admit", "return math.nan", "must return True or False"),
    ("nothing", "admit", "pass", "must return True or False"),
    ("NaN tokens", "batch", "return math.nan, True, False", "must return (prefill_tokens, decode, whole)"),
    ("the future", "route", "return request.output_tokens % 2", "output_tokens"),
    ("outside the rows", "route", "return instances[99].waiting", "a policy raised IndexError"),
]
BROKEN_FILES = [
    ("syntax error", HEAD + "def mine(:\n", "does not import: SyntaxError"),
    ("empty", "", "registers no policy"),
    ("registers nothing", "x = 1\n", "registers no policy"),
    ("unknown module", "import not_there\n", "No module named 'not_there'"),
    ("leaves", HEAD + "sys.exit(3)\n", "does not import: SystemExit"),
    ("unknown slot", plugin("return 0").replace('"route"', '"rout"'), "slot must be one of admit, route"),
    ("no slot", plugin("return 0").replace('@policy("route")', "@policy"), "slot must be one of admit, route"),
    ("a class", HEAD + '@policy("route")\nclass mine:\n    pass\n', "must take (request, instances, now_ps"),
    ("other parameters", plugin("return 0", takes="a, b"), "must take (request, instances, now_ps, ...) first"),
    ("no range", plugin("return 0", takes=TUNABLE + "float = 1.0"), "needs a range and a default"),
    ("no default", plugin("return 0", takes=TUNABLE + "Span(0, 1)"), "needs a range and a default"),
    ("default outside", plugin("return 0", takes=TUNABLE + "Span(0, 1) = 5"), "0 <= value <= 1, but got 5"),
    ("ends swapped", plugin("return 0", takes=TUNABLE + "Span(5, 1) = 3"), "low <= high"),
    ("no end", plugin("return 0", takes=TUNABLE + "Span(0.0, math.inf) = 3.0"), "finite"),
    ("text for an end", plugin("return 0", takes=TUNABLE + "Span('a', 1) = 1"), "finite numbers"),
    ("log of zero", plugin("return 0", takes=TUNABLE + "Span(0.0, 1.0, log=True) = 0.5"), "low > 0 for log"),
    ("no choice", plugin("return 0", takes=TUNABLE + "Choice() = 1"), "one or more"),
    ("text for a choice", plugin("return 0", takes=TUNABLE + "Choice('a', 'b') = 'a'"), "numbers or truth values"),
    ("called name", plugin("return 0", takes=TUNABLE.replace("weight", "name") + "Span(0, 1) = 1"), "called 'name'"),
    ("17 tunables", plugin("return 0", takes=", ".join(
        ["request, instances, now_ps", *(f"w{k}: Span(0, 1) = 0" for k in range(17))])), "17 tunables, but at most 16"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder, and forget the policy afterwards."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for group in registry().values():
        group.pop("mine", None)


def chosen(slot: str) -> list[str]:
    """Return the arguments that choose the policy of `mine.py`."""
    return ["run", "plugins=[mine.py]", f"policy/{slot}=mine", CLUSTER.get(slot, "cluster=mixed_4"), *ARGUMENTS]


@pytest.mark.parametrize(("slot", "body", "words"), [row[1:] for row in NONSENSE], ids=[row[0] for row in NONSENSE])
def test_a_policy_that_returns_nonsense_or_raises(slot, body, words, folder, capsys):
    (folder / "mine.py").write_text(plugin(body, slot))
    refused(chosen(slot), words, folder, capsys)


@pytest.mark.parametrize(("slot", "body", "words"), [row[1:] for row in CAST], ids=[row[0] for row in CAST])
def test_an_answer_of_another_type_is_not_cast(slot, body, words, folder, capsys):
    (folder / "mine.py").write_text(plugin(body, slot))
    refused(chosen(slot), words, folder, capsys)


@pytest.mark.parametrize(("text", "words"), [row[1:] for row in BROKEN_FILES], ids=[row[0] for row in BROKEN_FILES])
def test_a_broken_plug_in_file(text, words, folder, capsys):
    (folder / "mine.py").write_text(text)
    refused(chosen("route"), words, folder, capsys)


def test_a_missing_plug_in_file(folder, capsys):
    refused(chosen("route"), "mine.py", folder, capsys)


@pytest.mark.parametrize("value", ["weight=9", "weight=heavy", "wieght=1"])
def test_a_bad_tunable_of_a_plug_in(value, folder, capsys):
    (folder / "mine.py").write_text(plugin("return 0", takes=TUNABLE + "Span(0.0, 8.0) = 1.0"))
    refused([*chosen("route"), f"policy.route.{value}"], "weight", folder, capsys)


@pytest.mark.parametrize("body", ["return -now_ps * 1.0, 0.0", "return -float(request.generated_tokens), 0.0"])
def test_preemption_without_end_is_bounded(body, folder, capsys):
    """Two requests that would preempt each other for ever still finish."""
    (folder / "mine.py").write_text(plugin(body, "order"))
    assert cli.main([*chosen("order"), "cluster.max_batch=2"]) == 0
    assert "30 finished" in capsys.readouterr().out


@pytest.mark.parametrize("slot, body", [("route", "return HOLD"), ("batch", "return 0, False, False")])
def test_a_policy_that_never_serves_ends_the_replay(slot, body, folder, capsys):
    """Nothing moves any more: every request is kept, marked unfinished."""
    (folder / "mine.py").write_text(plugin(body, slot))
    assert cli.main(chosen(slot)) == 0
    assert "30 requests: 30 unfinished" in capsys.readouterr().out


@pytest.fixture
def own_always() -> Iterator[None]:
    """Give the policy that takes every request back after a plug-in stood in its place."""
    before = registry()["admit"].get("always")
    yield
    if before is not None:
        registry()["admit"]["always"] = before


def test_a_plug_in_in_the_place_of_a_policy_is_asked(own_always, folder, capsys):
    (folder / "mine.py").write_text(plugin("return False", "admit").replace("def mine", "def always"))
    assert cli.main(["run", "plugins=[mine.py]", "cluster=mixed_4", *ARGUMENTS]) == 0
    assert "30 requests: 30 rejected" in capsys.readouterr().out


@pytest.mark.parametrize("slot, body, words", [NONSENSE[0][1:], NONSENSE[6][1:]])
def test_in_a_process_of_its_own(slot, body, words, folder):
    (folder / "mine.py").write_text(plugin(body, slot))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-c", "import sys; from replay.cli import main; sys.exit(main())", *chosen(slot)]
    done = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stdout == "", done
    assert words in done.stderr and "Traceback" not in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (folder / "mine").exists()


def test_the_faults_of_a_sweep_are_rows(folder, capsys):
    """A bad policy among good ones is a failed run; the others are compared."""
    (folder / "mine.py").write_text(plugin("return 99"))
    arguments = ["run", "-m", "plugins=[mine.py]", "policy/route=mine,round_robin", *ARGUMENTS]
    assert cli.main(arguments) == 1
    told = capsys.readouterr()
    assert "run 0: failed" in told.err and "returned instance 99" in told.out and "Traceback" not in told.err
    assert sorted(path.name for path in (folder / "mine").iterdir()) == ["1", "comparison.parquet", "jobs"]

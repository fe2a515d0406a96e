"""The kernel and the policies run line by line in Python: same results, and every branch taken.

`test_the_suite_passes_interpreted` starts this file again with NUMBA_DISABLE_JIT=1 under `coverage run --branch`; the
gate is on what Numba compiles (MEASURED). What serves compilation only is left out: state, jit, compile, answers.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from replay.engine import schema
from replay.errors import KvreplayError
from replay.policy import NEVER, policy, registry
from replay.session import replay
from tests import test_golden as golden
from tests.odd_policies import registered
from tests.scenarios import Scenario, scenario
from tests.sessions import engine_run
from tests.small import small_cluster, small_instance, small_policies, small_profile, small_trace
from tests.test_twin import differences
from traces.jit import INTERPRETED

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ("kernel", "batching", "kvcache", "phases", "queues", "routing", "timing", "tree", "load")
LEAST_SHARE = 0.95
SEEDS, SLICED_SEEDS, MOST_REQUESTS = 110, 10, 24
GOLDEN = ("locality", "central_queue", "urgent_tiers", "split_layerwise_locality", "closed_loop")
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in the process that the first test starts")


@pytest.mark.skipif(INTERPRETED, reason="starts the interpreted process")
def test_the_suite_passes_interpreted(tmp_path: Path) -> None:
    """Twin, slices, faults, golden digests, laws by hand: in one process, with branch coverage of the kernel."""
    data, report = tmp_path / "coverage", tmp_path / "coverage.json"
    coverage = [sys.executable, "-m", "coverage"]
    if subprocess.run([*coverage, "--version"], capture_output=True).returncode:
        pytest.skip("coverage is not installed: pip install 'kvreplay[test]'")
    options = ["--branch", "--source=replay/engine,policies", f"--data-file={data}"]
    suite = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/test_interpreted.py", "tests/test_policies.py"]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [*coverage, "run", *options, *suite], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout[-3000:]
    made = [*coverage, "json", f"--data-file={data}", "-o", str(report)]
    assert subprocess.run(made, cwd=ROOT, capture_output=True).returncode == 0
    check_coverage(json.loads(report.read_text())["files"])


def check_coverage(files: dict[str, Any]) -> None:
    """Check the share of lines and branches taken: in all of the kernel, and in each policy."""
    taken = there = 0
    missed = []
    for name in MEASURED:
        one = files[f"replay/engine/{name}.py"]
        taken += one["summary"]["covered_lines"] + one["summary"]["covered_branches"]
        there += one["summary"]["num_statements"] + one["summary"]["num_branches"]
        missed.append(f"{name}: lines {one['missing_lines']}, branches {one['missing_branches']}")
    share = taken / there
    assert there > 1500 and share >= LEAST_SHARE, (share, *missed)
    of_policies = {name: one["summary"]["percent_covered"] for name, one in files.items() if name.startswith("policies/")}
    assert len(of_policies) > 16 and all(share == 100 for share in of_policies.values()), of_policies


@pytest.fixture
def odd() -> Iterator[None]:
    """Offer the odd policies to the scenarios."""
    with registered():
        yield


def case_of(seed: int) -> Scenario:
    """Return a small scenario."""
    return scenario(Random(seed), MOST_REQUESTS)


@interpreted
def test_twin(odd: None) -> None:
    for seed in range(SEEDS):
        assert not differences(case_of(seed)), seed


@interpreted
def test_slices_and_steps(odd: None) -> None:
    for seed in range(SLICED_SEEDS):
        case = case_of(seed)
        whole = engine_run(case, events=True)
        assert whole.events is not None and whole.events.num_rows > 0
        assert engine_run(case, 1).digest == engine_run(case, leap=False).digest == whole.digest, seed


@interpreted
@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name: str) -> None:
    assert golden.described(golden.run(name)) == json.loads(golden.PINNED.read_text())[name]


# slot, answer, fault
FAULTS = [
    ("route", lambda request, instances, now_ps: len(instances), schema.BAD_ROUTE),
    ("route", lambda request, instances, now_ps: -2, schema.BAD_ROUTE),
    ("route", lambda request, instances, now_ps: (0, len(instances)), schema.BAD_SOURCE),
    ("route", lambda request, instances, now_ps: (0, -2), schema.BAD_SOURCE),
    ("decode", lambda request, instances, now_ps: -1, schema.BAD_DECODE),
    ("decode", lambda request, instances, now_ps: len(instances), schema.BAD_DECODE),
    ("order", lambda request, now_ps: (float("nan"), NEVER), schema.BAD_ORDER),
    ("order", lambda request, now_ps: (0.0, float("nan")), schema.BAD_ORDER),
    ("batch", lambda instance, now_ps: (-1, True, False), schema.BAD_BATCH),
    ("evict", lambda node, now_ps: float("nan"), schema.BAD_EVICT),
    # another type is refused before it reaches the kernel
    ("admit", lambda request, instances, now_ps: None, None),
    ("route", lambda request, instances, now_ps: 0.5, None),
    ("route", lambda request, instances, now_ps: (0, 1, 2), None),
    ("decode", lambda request, instances, now_ps: (0, 0), None),
    ("order", lambda request, now_ps: "first", None),
    ("batch", lambda instance, now_ps: 5, None),
    ("evict", lambda node, now_ps: (1.0, 2.0), None),
]


@interpreted
@pytest.mark.parametrize(("slot", "function", "fault"), FAULTS)
def test_faults(slot: str, function: Callable[..., Any], fault: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong answer stops the replay with its fault and a sentence that names policy and slot."""
    found: list[int] = []
    monkeypatch.setattr("replay.session.Session._fault", noting(found))
    function.__name__ = "wrong"
    policy(slot)(function)
    try:
        with pytest.raises(KvreplayError, match=slot):
            replay(TRACE, SPLIT, small_policies(**{slot: "wrong"}))
    finally:
        registry()[slot].pop("wrong")
    assert found == ([] if fault is None else [fault])


def noting(found: list[int]) -> Callable[[Any], Exception]:
    """Return Session._fault with a note of the kernel's code."""
    from replay.session import Session

    sentence = Session._fault

    def fault(session: Any) -> Exception:
        found.append(int(session.state.cluster["fault"][0]))
        return sentence(session)

    return fault


@interpreted
@pytest.mark.parametrize("limits", [{"iteration_ps": 1 << 61}, {"decode_request_ps": 1 << 61}])
def test_time_beyond_the_range_is_a_sentence(limits: dict[str, int]) -> None:
    profile = small_profile(**{"iteration_ps": 1, **limits})
    with pytest.raises(KvreplayError, match="days|int64"):
        replay(TRACE, small_cluster([small_instance("mixed", profile)]), small_policies())


TRACE = small_trace([(row * 50, 8, 3) for row in range(12)], [[row % 3, 10 + row % 3] for row in range(12)])
PROFILE = small_profile(iteration_ps=100, prefill_token_ps=10)
SPLIT = small_cluster([small_instance(role, PROFILE, kv_blocks=6) for role in ("prefill", "mixed", "decode")])

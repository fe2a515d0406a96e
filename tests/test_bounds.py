"""No index of the kernel leaves its array: scenarios replayed with every index checked give the same digests.

`python -m tests.test_bounds` prints the digests; the test compares those of a process with NUMBA_BOUNDSCHECK=1.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import numba
import numpy as np

from replay.errors import PolicyError
from replay.session import Session
from tests import test_golden as golden
from tests.odd_policies import registered
from tests.scenarios import scenario
from tests.sessions import engine_run, finished, session_of
from tests.test_twin_fabric import case_of as fabric_case
from tests.test_twin_fabric import traces_of as fabric_traces_of
from tests.test_twin_hierarchy import case_of, traces_of

ROOT = Path(__file__).resolve().parents[1]
SEEDS = range(7000, 7020)
TIERED_SEEDS = range(8000, 8015)
FABRIC_SEEDS = range(9000, 9012)
PROBE, LOADING_SEED = "probe", 8002


def digests() -> dict[str, str]:
    """Replay the scenarios, events on and off, those with a hierarchy, and the golden runs; returns name -> digest."""
    with registered():
        found = {str(seed): engine_run(scenario(Random(seed), 40), events=seed % 2 == 0).digest for seed in SEEDS}
        found |= {f"tiers {seed}": tiered_digest(seed) for seed in TIERED_SEEDS}
        found |= {f"fabric {seed}": fabric_digest(seed) for seed in FABRIC_SEEDS}
    return found | {name: golden.run(name).digest for name in golden.RUNS}


def tiered_digest(seed: int) -> str:
    """Replay a scenario with a KV hierarchy; returns a digest of its requests, its loads and its stores."""
    session = finished(session_of(case_of(seed), events=seed % 2 == 0))
    return hashlib.sha256(json.dumps(traces_of(session)).encode()).hexdigest()


def fabric_digest(seed: int) -> str:
    """Replay a scenario with a fabric; returns a digest of its requests, its links and its kinds of traffic."""
    session = finished(session_of(fabric_case(seed)))
    return hashlib.sha256(json.dumps(fabric_traces_of(session)).encode()).hexdigest()


def third(values):
    """Return the third value, wherever that is."""
    return values[2]


def checked() -> bool:
    """Whether compiled code raises on an index that leaves its array."""
    try:
        numba.njit(third)(np.zeros(4)[:2])
    except IndexError:
        return True
    return False


def kernel_checked() -> bool:
    """Whether kernel and hierarchy raise when an array of theirs is too short; never try this without checks."""
    session = session_of(scenario(Random(0), 40))
    session.state = session.state._replace(histogram=np.zeros((3, 1), np.int64))
    tiered = session_of(case_of(LOADING_SEED))
    short = tiered.state.hierarchy._replace(parts=tiered.state.hierarchy.parts[:0].copy())
    tiered.state = tiered.state._replace(hierarchy=short)
    return raises_index_error(session) and raises_index_error(tiered)


def raises_index_error(session: Session) -> bool:
    """Whether a replay ends because an index left its array."""
    try:
        finished(session)
    except PolicyError as error:
        return "IndexError" in str(error)
    return False


def test_checked_indices_change_nothing(tmp_path: Path) -> None:
    """The kernel is compiled anew, with checks, into a cache of its own."""
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "KVREPLAY_CACHE": str(tmp_path)}
    environment.pop("NUMBA_DISABLE_JIT", None)
    command = [sys.executable, "-m", "tests.test_bounds"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found.pop(PROBE) is True, "the checks were off"
    for name in ("advance_table", "tiers_at", "fabric_at"):
        assert any(tmp_path.rglob(f"compile.{name}*.nbc")), f"{name} was not compiled with them"
    assert not checked() and found == digests()


if __name__ == "__main__":
    with registered():
        probed = checked() and kernel_checked()
    print(json.dumps({PROBE: probed, **digests()}))

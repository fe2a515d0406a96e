"""Measure how long a user waits for a first result.

python -m tests.bench.start [--runs 3] [--skip-cold]

Four waits: a Python call with compiled code at hand, the same with an empty cache of compiled code, a policy of the
user's own that nobody compiled before, and the whole command.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.common import child, load, machine, median, table

CALL = """
import time; started_s = time.perf_counter()
from replay import replay
from traces.synthetic.make import make
trace = make("poisson", 1000, 0, rate_per_s=20.0, prompt_tokens=1200, output_tokens=250)
result = replay(trace, "mixed_4")
assert result.summary["finished"] == 1000
print(time.perf_counter() - started_s)
"""
OWN_POLICY = """
from replay.policy import Span, policy


@policy("route")
def mine(request, instances, now_ps, weight: Span(0.0, 8.0) = 1.0):
    \"\"\"Send a request to the instance with the least waiting tokens, weighted.\"\"\"
    best, lowest = 0, 1e300
    for i in range(len(instances)):
        cost = weight * instances[i].queued_tokens + {weight} * instances[i].running
        if cost < lowest:
            best, lowest = i, cost
    return best
"""
COMPILE = """
import sys, time
from pathlib import Path
from replay.engine import adapters, compile
from replay.policy import choose, load_all, load_file
load_all(); compile.load(); adapters.adapter(choose("route", "round_robin"))
load_file(Path(sys.argv[1]))
started_s = time.perf_counter()
adapters.adapter(choose("route", "mine"))
print(time.perf_counter() - started_s)
"""


def main() -> int:
    """Print the table of waits beside what they should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--skip-cold", action="store_true", help="leave out the compilation of everything")
    asked = parser.parse_args()
    print(f"{machine()}; median of {asked.runs} runs, one run with the empty cache\n")
    headings = ("wait", "inside Python", "whole process", "wanted", "load")
    print(table(headings, []), flush=True)
    child(["-c", CALL])  # fills the cache, should it be empty
    waits: list[tuple[str, Callable[[int], tuple[float, float]], str, int]] = [
        ("import to first result, compiled code at hand", _call, "3 s", asked.runs),
        ("`kvreplay run trace.requests=1000`", _command, "3 s", asked.runs),
        ("a new policy compiles", _own_policy, "1 s", asked.runs),
    ]
    if not asked.skip_cold:
        waits.append(("import to first result, empty cache", _cold, "40 s", 1))
    for name, wait, wanted, runs in waits:
        times = [wait(run) for run in range(runs)]
        inside_s, whole_s = (median(column) for column in zip(*times, strict=True))
        row = (name, f"{inside_s:.2f} s", f"{whole_s:.2f} s", f"< {wanted}", load()[13:])
        print(table(headings, [row]).splitlines()[-1], flush=True)
    return 0


def _call(run: int) -> tuple[float, float]:
    whole_s, printed = child(["-c", CALL])
    return float(printed), whole_s


def _cold(run: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as cache:
        whole_s, printed = child(["-c", CALL], {"KVREPLAY_CACHE": cache})
    return float(printed), whole_s


def _own_policy(run: int) -> tuple[float, float]:
    """Compile a policy whose text differs from every earlier one's, so that no cache can know it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mine.py"
        path.write_text(OWN_POLICY.format(weight=f"1.{time.time_ns()}"))
        whole_s, printed = child(["-c", COMPILE, str(path)])
    return float(printed), whole_s


def _command(run: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        whole_s, _ = child(["-m", "replay", "trace.requests=1000", f"out_dir={folder}/run"])
    return whole_s, whole_s


if __name__ == "__main__":
    sys.exit(main())

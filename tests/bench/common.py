"""What the benchmarks share: the machine and its load, the workload, timing of the kernel alone, tables."""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LINEAR = {
    "base": "linear",
    "iteration_s": 0.004,
    "prefill_token_s": 28e-6,
    "decode_request_s": 15e-6,
    "kv_token_s": 40e-9,
}
PROMPTS = {"law": "lognormal", "mean": 1200, "cv": 1.0, "max": 32768}
OUTPUTS = {"law": "lognormal", "mean": 250, "cv": 1.0, "max": 8192}
ALL_EVENTS = 2**62


class Timing(NamedTuple):
    """One run of the event loop: CPU time of the thread and wall time, both without set-up and checks."""

    cpu_s: float
    wall_s: float
    events: int


def machine() -> str:
    """Describe where and under which load a benchmark runs, in one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    model = next(names, platform.machine())
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {load()}"


def load() -> str:
    """Say how busy the machine is: its load average over one minute, this process included."""
    return f"load average {os.getloadavg()[0]:.2f}"


def kernel_times(make_session: Callable[[], Any], runs: int) -> list[Timing]:
    """Replay fresh sessions to the end, timing nothing but the event loop; one more first, to warm up.

    make_session : returns a Session that has not advanced
    raises  : EngineError if a run breaks a conservation law of the model
    """
    return [time_kernel(make_session()) for _ in range(runs + 1)][1:]


def time_kernel(session: Any) -> Timing:
    """Replay a session to the end, modified in place, timing nothing but the event loop; raises as `kernel_times`."""
    from replay.engine import compile, schema
    from replay.laws import check

    compile.load()
    wall_s, cpu_s = time.perf_counter(), time.thread_time()
    code = compile.run(session.state, session._functions, ALL_EVENTS)
    cpu_s, wall_s = time.thread_time() - cpu_s, time.perf_counter() - wall_s
    if code != schema.DONE:
        raise RuntimeError(f"the event loop must finish, but returned code {code}")
    check(session.state)
    return Timing(cpu_s, wall_s, int(session.state.cluster["events"][0]))


def median(values: Sequence[float]) -> float:
    """Return the median as a float."""
    return float(statistics.median(values))


def child(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[float, str]:
    """Run a Python process from the repository root and return its wall time and what it printed.

    arguments : after the interpreter
    raises    : RuntimeError with the process's complaint if it fails
    """
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    started_s = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=variables, capture_output=True, text=True)
    wall_s = time.perf_counter() - started_s
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)[:200]} failed: {done.stderr.strip()[-600:]}")
    return wall_s, done.stdout


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Format rows as a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def gate(name: str, passed: bool) -> bool:
    """Print a check that ends the benchmark with exit code 1 when it fails; return whether it passed."""
    print(f"{'pass' if passed else 'FAIL'}: {name}", flush=True)
    return passed

"""What studies cost beyond replaying: two threads against one, and a trial of a study against the replay in it.

    python -m tests.bench.studies [--requests 400000] [--runs 5] [--trials 60]

Exits with 1 if two threads are not 1.6 times as fast as one without prefix caches, or a trial costs 20 ms or more
beyond its replays. Every figure is the median of several runs; the load of the machine is told.
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from replay import cli
from replay.driving import ready
from replay.session import replay
from replay.study.composed import compose_all
from replay.study.pool import cores, in_order
from tests.bench.common import child
from traces.window import split_time

FASTER, MOST_MS = 1.6, 20.0
JOBS = 8
SWEEP = """
import contextlib, io, os, sys, tempfile, time
requests, workers = sys.argv[1], int(sys.argv[2])
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:workers])  # before anything starts threads of its own
from replay import driving, run
from replay.compositions import Job
from replay.study.composed import compose_all
from replay.sweep import Sweep
os.environ[run.STARTED] = "now"
policies = "least_loaded,least_in_flight,power_of_two,random,round_robin,least_tokens"
with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
    found, _ = compose_all([f"trace.requests={requests}", "trace=poisson", "cluster=mixed_16", "hardware=linear",
                            "cluster.prefix_cache=false", f"policy/route={policies}", f"out_dir={folder}"])
    driving.ready()
    jobs = [Job(number, one.overrides, one.config) for number, one in enumerate(found)]
    started_s = time.perf_counter()
    Sweep().many(jobs, workers)
    took_s = time.perf_counter() - started_s
print(took_s)
"""


def threads(requests: int, runs: int) -> dict[str, float]:
    """Return how many times as fast two threads replay as one."""
    found, runner = compose_all([f"trace.requests={requests}", "trace=poisson", "cluster=mixed_16", "hardware=linear",
                                 "cluster.prefix_cache=false"])  # fmt: skip
    config, checked = found[0].config, found[0].checked

    def alone(workers: int) -> float:
        sessions = [runner.session(config, checked) for _ in range(JOBS)]
        started_s = time.perf_counter()
        list(in_order(lambda session: session.advance(10**12), sessions, workers))
        return time.perf_counter() - started_s

    alone(2)
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(runs):
        for workers in times:
            times[workers].append(alone(workers))
    one, two = (statistics.median(times[workers]) for workers in (1, 2))
    return {"replays, 1 thread s": one, "replays, 2 threads s": two, "replays ratio": one / two}


def sweeps(requests: int, runs: int) -> dict[str, float]:
    """Return how many times as fast two cores do the jobs of a sweep as one: replays, tables, files."""
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(runs):
        for workers in times:
            _, out = child(["-c", SWEEP, str(requests), str(workers)])
            times[workers].append(float(out))
    one, two = (statistics.median(times[workers]) for workers in (1, 2))
    return {"sweep, 1 core s": one, "sweep, 2 cores s": two, "sweep ratio": one / two}


def trial(trials: int, runs: int) -> dict[str, float]:
    """Return milliseconds of a trial, of the replay of its training window, and of the rest of it."""
    arguments = ["trace.requests=20000", "cluster=mixed_16", "policy/route=kv_locality"]
    found, runner = compose_all(arguments)
    config, checked = found[0].config, found[0].checked
    window = split_time(runner.trace(config["trace"], checked.seed), [0.6, 0.4])[0]
    from replay.cluster import build_cluster

    where = build_cluster(config, window.block_tokens)

    def once() -> float:
        started_s = time.perf_counter()
        replay(window, where, checked.policies)
        return time.perf_counter() - started_s

    once()
    replay_s = statistics.median(once() for _ in range(20))

    def study(count: int) -> float:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            started_s = time.perf_counter()
            command = ["tune", *arguments, f"study.trials={count}", "study.workers=1", "study.windows=[]",
                       "study.pruner=none", "study.objectives=[ttft_s_mean]", f"out_dir={Path(folder) / 'x'}"]
            assert cli.main(command) == 0
            return time.perf_counter() - started_s

    study(2)
    each_s = statistics.median((study(trials + 2) - study(2)) / trials for _ in range(runs))
    return {"trial ms": each_s * 1e3, "replay ms": replay_s * 1e3, "beyond ms": (each_s - replay_s) * 1e3}


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("requests", 400_000), ("runs", 5), ("trials", 60)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    ready()
    print(f"{cores()} cores, load {os.getloadavg()[0]:.2f}")
    found = threads(given.requests, given.runs) | sweeps(given.requests, given.runs) | trial(given.trials, given.runs)
    for name, value in found.items():
        print(f"{name:>20} {value:8.3f}")
    short = min(found["sweep ratio"], found["replays ratio"]) < FASTER
    return int(short or found["beyond ms"] >= MOST_MS)


if __name__ == "__main__":
    sys.exit(main())

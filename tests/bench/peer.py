"""Replay one recorded trace with kvreplay and with a peer, in turns, and compare their times.

python -m tests.bench.peer [--runs 3] [--peer-python PATH] [--trace FILE]

The peer is the trace replay of ai-dynamo-runtime (the extra `bench`), written in Rust. Both sides read the same plain
JSON lines file and get equal block size, KV blocks, batch cap and token budget. The kernel time is what each side
itself reports after the trace is read (kvreplay: kernel_s, the event loop alone; the peer: wall_time_ms, which may
include more, so the time of whole processes stands beside it). "One more run" is what each run after the first costs
in a process that goes on: kvreplay's sweep of eight batch caps with all files written, less a single run, by seven; for
the peer the time of its call.

What differs: the peer adds up a prefill time and a decode time for each iteration, from polynomials of its own, and its
time grows with the iterations; here an iteration has one linear cost, and runs of alike iterations are leapt over
exactly. Its kv_router weighs cached blocks and active load; kv_locality is Mooncake's Algorithm 1, which also fetches
prefixes between instances. Metrics of both are printed: they should be alike, and are not meant to be equal.
"""

import argparse
import gzip
import json
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.common import ROOT, load, machine, median, table
from tests.recorded import FOLDER

TRACE = FOLDER / "traces/mooncake/conversation_trace.jsonl.gz"
LIMITS = (512, 2000, 256, 2048)  # tokens a block, KV blocks, batch cap, token budget of an instance
# Near the peer's polynomials: an idle decode iteration takes it 5.8 ms, one with 2048 prefill tokens about 55 ms.
COSTS = {"iteration_s": 0.0057, "prefill_token_s": 25e-6, "decode_request_s": 15e-6, "kv_token_s": 5e-9}
SWEPT = range(249, 257)  # batch caps of the sweep that shows what one more run in a process costs
MODES = (("round_robin", "round_robin"), ("kv_locality", "kv_router"))
METRICS = ("hit_rate", "ttft_s_mean", "tpot_s_mean")


class Run(NamedTuple):
    """One process: its wall and CPU time, and what it reported.

    report    : `out` as printed, until it is read
    further_s : wall time of one more replay in a process that goes on; nan until measured
    """

    wall_s: float
    cpu_s: float
    report: dict[str, Any]
    further_s: float = float("nan")


def main() -> int:
    """Print both commands and the tables of times and metrics."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has ai-dynamo-runtime")
    parser.add_argument("--trace", type=Path, default=TRACE)
    parser.add_argument("--instances", type=int, nargs="+", default=[4, 16])
    asked = parser.parse_args()
    if problem := _missing(asked.trace, asked.peer_python):
        print(problem, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        _compare(_plain(asked.trace, Path(scratch)), asked, Path(scratch))
    return 0


def _missing(trace: Path, python: str) -> str:
    """Say in a sentence what the comparison lacks; nothing if it can start."""
    if not trace.exists():
        return f"the trace must exist, but there is none at {trace}. Name one with --trace or set KVREPLAY_SHARED."
    probe = [python, "-c", "from dynamo._core import run_mocker_trace_replay"]
    done = subprocess.run(probe, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return f"the peer must be importable, but {python} says: {reason}. Install ai-dynamo-runtime, or --peer-python."
    return ""


def _plain(trace: Path, folder: Path) -> Path:
    """Return an uncompressed copy, since the peer reads no gzip."""
    if trace.suffix != ".gz":
        return trace.resolve()
    target = folder / trace.stem
    with gzip.open(trace) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)
    return target


def _compare(trace: Path, asked: argparse.Namespace, folder: Path) -> None:
    cells = [(count, *mode) for count in asked.instances for mode in MODES]
    print(f"{machine()}; {trace.name}, median of {asked.runs} pairs of runs\n")
    times, metrics = [], []
    for instances, ours, theirs in cells:
        commands = _kvreplay(trace, instances, ours, folder / "run"), _peer(asked.peer_python, trace, instances, theirs)
        for command in commands:
            print(shlex.join(command).replace(str(folder), "FOLDER").replace(str(ROOT) + "/", ""), flush=True)
        _run(commands[0])  # compiles what is not compiled yet; not counted
        pairs = [_pair(commands, folder / "run") for _ in range(asked.runs)]
        times.append(_times(instances, (ours, theirs), pairs))
        for side, name in enumerate((f"kvreplay {ours}", f"peer {theirs}")):
            metrics.append(_metrics(instances, name, pairs[0][side].report))
    print(f"\npeer: ai-dynamo-runtime {pairs[0][1].report['version']}\n")
    headings = ("instances", "routes", "kernel: kvreplay", "peer", "ratio", "process: kvreplay", "peer", "ratio",
                "one more run: kvreplay", "peer", "ratio", "process CPU: kvreplay", "peer", "load")  # fmt: skip
    print(table(headings, times), table(("instances", "route", "finished", *METRICS), metrics), sep="\n\n")


def _pair(commands: tuple[list[str], list[str]], folder: Path) -> tuple[Run, Run]:
    """Run both sides once, and kvreplay's sweep for what one more run costs; the peer's is the time of its call."""
    run, other = _run(commands[0]), _run(commands[1])
    summary = json.loads((folder / "summary.json").read_text())
    sweep = _run([*commands[0], "-m", f"cluster.max_batch={','.join(map(str, SWEPT))}", f"out_dir={folder}_sweep"])
    shutil.rmtree(f"{folder}_sweep")
    report = json.loads(other.report["out"])
    further_s = (sweep.wall_s - run.wall_s) / (len(SWEPT) - 1)
    return run._replace(report=summary, further_s=further_s), other._replace(report=report, further_s=report["call_s"])


def _times(instances: int, names: tuple[str, str], pairs: list[tuple[Run, Run]]) -> list[str]:
    """Format the medians; a ratio is the median over the pairs."""
    columns = [
        [(ours.report["kernel_s"], theirs.report["kernel_s"]) for ours, theirs in pairs],
        [(ours.wall_s, theirs.wall_s) for ours, theirs in pairs],
        [(ours.further_s, theirs.further_s) for ours, theirs in pairs],
    ]
    cells = []
    for column in columns:
        ours_s, theirs_s = (median(side) for side in zip(*column, strict=True))
        cells += [f"{ours_s:.4f} s", f"{theirs_s:.2f} s", f"{median([b / a for a, b in column]):.1f}"]
    cpu = [f"{median([pair[side].cpu_s for pair in pairs]):.2f} s" for side in (0, 1)]
    return [str(instances), " / ".join(names), *cells, *cpu, load()[13:]]


def _metrics(instances: int, name: str, report: dict[str, Any]) -> list[str]:
    return [str(instances), name, str(report["finished"]), *(f"{report[key]:.4f}" for key in METRICS)]


def _kvreplay(trace: Path, instances: int, route: str, folder: Path) -> list[str]:
    costs = [f"hardware.{name}={value}" for name, value in COSTS.items()]
    limits = zip(("block_tokens", "kv_blocks", "max_batch", "token_budget"), LIMITS, strict=True)
    settings = ["cluster=mixed_4", f"cluster.mixed={instances}", *(f"cluster.{name}={value}" for name, value in limits)]
    return [sys.executable, "-m", "replay", f"trace.path={trace}", *settings, "hardware=linear", *costs,
            f"policy/route={route}", "slo=none", f"out_dir={folder}"]  # fmt: skip


def _peer(python: str, trace: Path, instances: int, mode: str) -> list[str]:
    return [python, str(ROOT / "tests/bench/peer_dynamo.py"), str(trace), str(instances), mode, *map(str, LIMITS)]


def _run(command: list[str]) -> Run:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started_s = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    wall_s = time.perf_counter() - started_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)[:300]} failed: {done.stderr.strip()[-600:]}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(wall_s, cpu_s, {"out": done.stdout})


if __name__ == "__main__":
    sys.exit(main())

"""Measure memory and time against the number of requests, each size in a process of its own.

python -m tests.bench.memory [--requests 1000000] [--factor 10] [--folder FOLDER]

The trace is written first, by another process, and memory-mapped by the one that is measured. Anonymous memory (what
the system cannot drop, as it can the pages of a mapped file) is read after each stage; the peak of all resident memory,
mapped pages included, is printed beside it.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.common import LINEAR, OUTPUTS, PROMPTS, child, gate, machine, table, time_kernel

MODULE = "tests.bench.memory"
RATE_PER_S = 120.0
MOST_STATE_BYTES = 250  # per request, without prefix cache
MOST_GROWTH = 1.5  # cost of a request at the larger size over that at the smaller: caches and page faults, no more
STAGES = ("trace mapped", "state built", "replayed", "result made")


def main() -> int:
    """Print the table of sizes and check that time and memory grow linearly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--factor", type=int, default=10)
    parser.add_argument("--folder", default=None, help="where the traces are written; 16 bytes a request")
    parser.add_argument("--write", nargs=2, metavar=("REQUESTS", "PATH"), help=argparse.SUPPRESS)
    parser.add_argument("--replay", metavar="PATH", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.write:
        _write(int(asked.write[0]), Path(asked.write[1]))
    elif asked.replay:
        print(json.dumps(_replay(Path(asked.replay))))
    else:
        return _compare((asked.requests, asked.requests * asked.factor), asked.folder)
    return 0


def _compare(sizes: tuple[int, int], folder: str | None) -> int:
    print(f"{machine()}; poisson {RATE_PER_S:g}/s, mixed_16, least_loaded, no prefix cache\n")
    found = []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for requests in sizes:
            path = Path(scratch) / f"{requests}.arrow"
            child(["-m", MODULE, "--write", str(requests), str(path)])
            found.append(json.loads(child(["-m", MODULE, "--replay", str(path)])[1]))
            path.unlink()
    peaks = ("peak resident until replayed", "peak resident with result")
    headings = ("requests", "file", "state/request", "kernel CPU", "ns/request", *STAGES, *peaks)
    print(table(headings, [_row(one) for one in found]))
    print("\ncolumns named by a stage: anonymous memory after it\n")
    return 0 if _passes(*found) else 1


def _row(found: dict[str, Any]) -> list[str]:
    requests = found["requests"]
    return [
        f"{requests:,}",
        f"{found['file_bytes'] / 1e6:.0f} MB",
        f"{found['state_bytes'] / requests:.1f} B",
        f"{found['cpu_s']:.2f} s",
        f"{found['cpu_s'] / requests * 1e9:.0f}",
        *(f"{found['anonymous_bytes'][stage] / 1e6:.0f} MB" for stage in STAGES),
        f"{found['peak_replayed_bytes'] / 1e6:.0f} MB",
        f"{found['peak_result_bytes'] / 1e6:.0f} MB",
    ]


def _passes(small: dict[str, Any], large: dict[str, Any]) -> bool:
    ratio = large["requests"] / small["requests"]
    state = large["state_bytes"] / large["requests"]
    time_growth = large["cpu_s"] / small["cpu_s"] / ratio
    replayed = STAGES[2]
    memory_growth = _added(large, replayed) / _added(small, replayed) / ratio
    passed = gate(f"state takes at most {MOST_STATE_BYTES} bytes a request: {state:.1f}", state <= MOST_STATE_BYTES)
    passed &= gate(f"kernel time grows linearly, {ratio:g} times the requests: x {time_growth:.2f} a request",
                   time_growth <= MOST_GROWTH)  # fmt: skip
    return gate(f"memory grows linearly until the end of the replay: x {memory_growth:.2f} a request",
                memory_growth <= MOST_GROWTH) and passed  # fmt: skip


def _added(found: dict[str, Any], stage: str) -> float:
    return float(found["anonymous_bytes"][stage] - found["start_bytes"])


def _write(requests: int, path: Path) -> None:
    """Write a synthetic trace as the memory-mapped form that an import writes."""
    from traces.importer import write_trace
    from traces.synthetic.make import make

    write_trace(make("poisson", requests, 0, rate_per_s=RATE_PER_S, prompt_tokens=PROMPTS, output_tokens=OUTPUTS), path)


def _replay(path: Path) -> dict[str, Any]:
    """Replay a memory-mapped trace and say how much memory each stage left in use."""
    from replay.cluster import cluster
    from replay.engine import compile
    from replay.engine.state import arrays
    from replay.session import Session
    from traces.readers import load

    compile.load()
    found: dict[str, Any] = {"start_bytes": _anonymous_bytes(), "file_bytes": path.stat().st_size}
    trace = load(path)
    left = {STAGES[0]: _anonymous_bytes()}
    where = cluster("mixed_16", hardware=LINEAR, prefix_cache=False)
    session = Session(trace, where, {"route": "least_loaded"}, slo="none")
    left[STAGES[1]] = _anonymous_bytes()
    found["cpu_s"] = time_kernel(session).cpu_s
    left[STAGES[2]], found["peak_replayed_bytes"] = _anonymous_bytes(), _peak_bytes()
    summary = session.result().summary
    left[STAGES[3]], found["peak_result_bytes"] = _anonymous_bytes(), _peak_bytes()
    if summary["finished"] != len(trace):
        raise RuntimeError(f"every request must finish, but {summary['finished']} of {len(trace)} did")
    state_bytes = sum(array.nbytes for array in arrays(session.state))
    return {**found, "requests": len(trace), "state_bytes": state_bytes, "anonymous_bytes": left}


def _anonymous_bytes() -> int:
    """Return the resident memory that is not a page of a mapped file."""
    for line in Path(f"/proc/{os.getpid()}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the benchmark reads RssAnon from /proc, which this system lacks; run it on Linux")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())

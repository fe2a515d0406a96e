"""What predicting costs: training on many rows, predicting them, and the model that learns inside a replay.

`python -m tests.bench.predict [rows]` prints medians of three; load is what `uptime` says.
"""

import statistics
import sys
import time
from collections.abc import Callable

from predictors import predict
from predictors.boosted import Boosted
from predictors.features import build
from predictors.groups import History
from replay.session import Session
from tests.bench.common import machine
from traces.synthetic import make
from traces.trie import compress

REPEATS = 3
LENGTHS = {"prompt_tokens": {"law": "lognormal", "mean": 300, "cv": 1.0},
           "output_tokens": {"law": "lognormal", "mean": 200, "cv": 1.5}}  # fmt: skip


def timed_s(act: Callable[[], object]) -> float:
    """Return how long a call takes [s]."""
    started_s = time.perf_counter()
    act()
    return time.perf_counter() - started_s


def main(rows: int) -> None:
    """Print what each part takes."""
    trace = make("poisson", requests=rows, seed=1, rate_per_s=50.0, **LENGTHS)
    trie = compress(trace)
    print(machine())
    print(f"features       {timed_s(lambda: build(trace, trie=trie)):8.2f} s")
    frame = build(trace, trie=trie)
    for model in (History(), Boosted()):
        print(f"fit {model.kind:10s} {timed_s(lambda model=model: model.fit(frame)):8.2f} s")
        model.predict(frame.head(1000))
        seconds = statistics.median(timed_s(lambda model=model: model.predict(frame)) for _ in range(REPEATS))
        print(f"predict {model.kind:8s} {rows / seconds / 1e3:6.0f} k rows/s")
    print(f"online, a request: {1e6 * online_s(min(rows, 200_000)):.2f} us to predict and learn")


def online_s(rows: int) -> float:
    """Return what learning adds to the replay of one request, by the kernel's own clock [s]."""
    trace = make("poisson", requests=rows, seed=1, rate_per_s=50.0, **LENGTHS)
    took = {}
    for kind in ("constant", "online"):
        times_s = []
        for _ in range(REPEATS):
            predictions = predict({"kind": kind, **({"tokens": 100} if kind == "constant" else {})}, trace, 0)
            session = Session(trace, "mixed_16", {"route": "round_robin"}, predictions=predictions)
            while not session.advance(10**7):
                pass
            times_s.append(session.kernel_s)
        took[kind] = min(times_s)
    return (took["online"] - took["constant"]) / rows


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)

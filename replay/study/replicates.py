"""Replicates of a workload for comparisons: the same trace and the same seed for every configuration."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from replay.configuration import HIGHEST_SEED
from replay.errors import ConfigError
from replay.run import Runner
from traces.resample import bootstrap, sessions, windows
from traces.schema import Trace

WAYS = ("seeds", "windows", "bootstrap")
SHIFT = 0.05  # of the trace's time span
CROWDED = 0.1  # share of requests with the instant of another one that is worth a word


@dataclass(frozen=True, eq=False)
class _Source:
    """A trace that replicates are made of, with its windows or the sessions of its requests."""

    trace: Trace
    windows: list[Trace]
    groups: np.ndarray


class Replicates:
    """Makes replicate k of the trace that a configuration asks for.

    A trace that is cut or drawn again is read once and kept; configurations that ask for different ones, such as
    different rates, each have their own, drawn alike.
    """

    def __init__(self, runner: Runner, by: str, count: int, seed: int, shift_s: float | None = None) -> None:
        """Check that the last seed is one.

        by      : seeds, windows or bootstrap
        shift_s : of bootstrap copies; None for SHIFT of the span
        raises  : ConfigError
        """
        if seed + count - 1 > HIGHEST_SEED:
            raise ConfigError(f"seed + compare.replicates - 1 must be below 2^63, but seed is {seed}. Lower it.")
        self.runner, self.by, self.count, self.seed, self.shift_s = runner, by, count, seed, shift_s
        self._sources: dict[str, _Source] = {}
        self._spans: dict[str, float] = {}

    @property
    def resampled(self) -> bool:
        """Whether replicates are resamples of one sample, in the sense of `replay.study.statistics`."""
        return self.by == "bootstrap"

    def make(self, node: Mapping[str, Any], k: int) -> Trace:
        """Return replicate k of the trace of a `trace` node; the replay's seed is the first seed + k.

        raises : TraceError as reading and cutting do
        """
        if self.by == "seeds":
            trace = self.runner.trace(node, self.seed + k)
            self._spans.setdefault(_key(node), _span_s(trace))
            return trace
        source = self._source(node)
        if self.by == "windows":
            return source.windows[k]
        shift_s = SHIFT * _span_s(source.trace) if self.shift_s is None else self.shift_s
        return bootstrap(source.trace, source.groups, (self.seed, k), shift_s)

    def cautions(self) -> Iterator[str]:
        """Yield what a reader should know about drawing this trace again; after the first replicate was made."""
        if self.by != "bootstrap" or self.shift_s == 0.0:
            return
        counts = np.unique(next(iter(self._sources.values())).trace.column("arrival_s"), return_counts=True)[1]
        share = 1.0 - (counts == 1).sum() / counts.sum()
        if share > CROWDED:
            yield (f"{100 * share:.0f} % of the requests are recorded at one instant with others; moving sessions "
                   f"spreads them, which routers feel. compare.shift_s=0 keeps the instants")  # fmt: skip

    def told(self) -> str:
        """Say in one sentence how the replicates came about; after the first was made."""
        if self.by == "seeds":
            return (f"{self.count} replicates: the workload drawn anew with seeds {self.seed} to "
                    f"{self.seed + self.count - 1}, the same for every configuration")  # fmt: skip
        span_s = next(iter(self._spans.values()))
        if self.by == "windows":
            return (f"{self.count} replicates: consecutive windows of {span_s / self.count:,.0f} s, each replayed from "
                    f"an empty cluster with cold caches")  # fmt: skip
        source = next(iter(self._sources.values()))
        shift_s = SHIFT * span_s if self.shift_s is None else self.shift_s
        return (f"{self.count} replicates: as many sessions as the trace has ({int(source.groups.max()) + 1:,}) drawn "
                f"with replacement, each moved by up to {shift_s:,.0f} s; intervals are those of a new trace like this "
                f"one, so that more replicates do not narrow them")  # fmt: skip

    def _source(self, node: Mapping[str, Any]) -> _Source:
        key = _key(node)
        if key not in self._sources:
            trace = self.runner.trace(node, self.seed)
            cut = windows(trace, self.count) if self.by == "windows" else []
            groups = sessions(trace, self.runner.trie(trace)) if self.by == "bootstrap" else np.zeros(0, np.int64)
            self._sources[key] = _Source(trace, cut, groups)
            self._spans[key] = _span_s(trace)
        return self._sources[key]


def _key(node: Mapping[str, Any]) -> str:
    return json.dumps(node, sort_keys=True, default=str)


def _span_s(trace: Trace) -> float:
    arrivals = trace.column("arrival_s")
    return float(arrivals[-1] - arrivals[0])

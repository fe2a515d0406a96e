"""The verb `bounds`: a run beside runs with one cause of delay taken away each.

Each is the bound of its cause in the sense of an oracle: nobody can order, evict, cache or send better by that means.
None is a theorem about the run as a whole: with several servers a better order can make a mean worse (Graham, 1966).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from replay.comparison import Comparison
from replay.configuration import settings
from replay.errors import KvreplayError
from replay.run import INTERRUPTED, Runner
from replay.run import main as run
from replay.study.verb import split
from replay.table import show, totals

HUGE_BLOCKS, ENDLESS_BYTES_PER_S = 1_000_000_000, 1e15
ORDER = ["policy/order=oracle_srpt"]
EVICT = ["policy/evict=oracle_belady"]
CACHE = [f"cluster.kv_blocks={HUGE_BLOCKS}"]
NETWORK = [f"cluster.nic_bytes_per_s={ENDLESS_BYTES_PER_S}", "cluster.nic_latency_s=0", "fabric=none"]
BOUNDS: dict[str, list[str]] = {
    "as chosen": [],
    "order by true work left": ORDER,
    "Belady's eviction": EVICT,
    "infinite KV memory": CACHE,
    "network of no cost": NETWORK,
    "all of them": [*ORDER, *EVICT, *CACHE, *NETWORK],
}


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments of `kvreplay bounds` ask for: those of `kvreplay run`, for one run.

    raises : ConfigError for -m, or what `kvreplay run` refuses about the run as chosen
    """
    split("bounds", arguments, {}, _nothing)
    chosen = OneOfBounds()
    for number, (name, changes) in enumerate(BOUNDS.items()):
        chosen.bound, chosen.number = name, number
        try:
            run([*_without(arguments, changes), *changes], chosen)
        except KvreplayError as error:
            if number == 0:
                raise
            chosen.fail(str(error))
        if chosen.interrupted:
            break
    assert chosen.comparison is not None
    chosen.comparison.close()
    return INTERRUPTED if chosen.interrupted else int(chosen.comparison.failed)


def _nothing(key: str, text: str) -> None:
    """Read nothing: the verb has no keys of its own."""


def _without(arguments: Sequence[str], changes: Sequence[str]) -> list[str]:
    """Leave out what a changed group would not know: tunables of the policy before, keys of the fabric."""
    groups = [text.partition("=")[0] for text in changes if "/" in text or text.startswith("fabric=")]
    stale = [re.compile(rf"[+~]*{re.escape(group).replace('/', '[/.]')}[.=]") for group in groups]
    return [text for text in arguments if not any(pattern.match(text) for pattern in stale)]


class OneOfBounds(Runner):
    """Replays one of the runs and keeps its summary for the table."""

    def __init__(self) -> None:
        super().__init__()
        self.bound, self.number = "", 0
        self.comparison: Comparison | None = None

    def single(self, config: dict[str, Any]) -> Any:
        """Replay the configuration under its bound and keep its row."""
        if self.comparison is None:
            self.comparison = Comparison(Path(settings(config).out_dir))
        folder = self.comparison.folder / str(self.number)
        result = self.replayed(config, folder)
        self.comparison.add(self.number, folder, [f"bound={self.bound}"], result.summary)
        show(f"run {self.number}: {totals(result.summary)}", stderr=True)

    def fail(self, text: str) -> None:
        """Note that a bound could not be replayed."""
        assert self.comparison is not None
        self.comparison.add(self.number, self.comparison.folder / str(self.number), [f"bound={self.bound}"], error=text)
        show(f"run {self.number}: failed", stderr=True)

    def finish(self) -> int:
        """Raise the error of this run; the table comes after all of them."""
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return 0

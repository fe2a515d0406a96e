"""Stages of a request beside the transformer: what each does, who serves it and when the request waits for it.

`replay/engine/STAGES.md` says what happens; `replay/stages_config.py` builds stages from a configuration.
"""

from dataclasses import dataclass

BEFORE, BESIDE, SEGMENT, AFTER = range(4)
PLACES = ("before", "beside", "segment", "after")
FINISH, FIRST_TOKEN = 0, 1
GATES = ("finish", "first_token")
LAWS = ("constant", "exponential", "lognormal", "geometric")
COLUMNS = ("images", "prompt_tokens", "output_tokens")  # of a trace, that items can be
MOST_STAGES = 32


@dataclass(frozen=True)
class Law:
    """A random number: its law, mean, and coefficient of variation (of lognormal)."""

    law: str
    mean: float
    cv: float = 1.0


@dataclass(frozen=True)
class Stage:
    """One stage and the pool that serves it.

    place         : BEFORE admission, BESIDE prefill and decode, one call a SEGMENT of decoded tokens, or AFTER
    needs         : numbers of the stages of the same place that come first; all lower than its own
    gate          : of a stage beside: what of the request waits for it, FIRST_TOKEN or FINISH
    every_tokens  : of a segment
    share         : of the requests that have it, drawn by seed
    items         : of a call: a number, a law, or a column of the trace; requests with none do not have the stage
    split         : each item is a call of its own, so that servers share a request's items
    servers       : of the pool; each serves one batch of at most max_batch calls at once
    wait_ps       : for how long a free server lets the first of too few calls wait
    by_tier       : urgent tiers first; else in order of arrival
    base_ps       : what a batch takes; and item_s: each item of it beside that
    item_fs       : what its link takes for the output of an item, femtoseconds; then latency_ps
    gpus, cores   : of a server
    usd_per_hour  : of a server; None for what its cores cost by `prices`
    """

    name: str
    place: int
    needs: tuple[int, ...] = ()
    gate: int = FINISH
    every_tokens: int = 0
    share: float = 1.0
    items: float | Law | str = 1.0
    split: bool = False
    servers: int = 1
    max_batch: int = 1
    wait_ps: int = 0
    by_tier: bool = False
    base_ps: int = 0
    item_s: float | Law = 0.0
    item_fs: int = 0
    latency_ps: int = 0
    gpus: int = 0
    cores: float = 0.0
    usd_per_hour: float | None = None

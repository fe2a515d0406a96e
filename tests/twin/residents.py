"""What a holder knows of the runs that it has, and what its cache is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from types import SimpleNamespace
from typing import TYPE_CHECKING

from tests.twin.chains import Block, Run

if TYPE_CHECKING:
    from tests.twin.prefixes import BlockCache

Evict = Callable[[SimpleNamespace, int], float]
NO_CLOCK = -1e308  # the score of the node last evicted, before there is one


@dataclass
class Clock:
    """The time, for everything that must know it."""

    now: int = 0


@dataclass
class Group:
    """How often nodes are used again after a use by one class of requests."""

    uses: int = 0
    reuses: int = 0
    reuse_s: float = 0.0


@dataclass(frozen=True)
class Rules:
    """What all holders of a cluster have in common beyond the evict policy."""

    evict: Evict
    second_look: bool = False
    ttl_ps: int = 0
    refresh: bool = True
    exact: bool = False
    groups: dict[tuple[int, int], Group] = field(default_factory=dict)  # by kind and turn, turns from 7 on as one

    def group(self, kind: int, turn: int) -> Group:
        """Return the class of a request."""
        return self.groups.setdefault((kind, min(turn, 7)), Group())


class Watch:
    """What else happens when a holder's blocks come and go; here nothing."""

    def evicting(self, cache: BlockCache, resident: Resident) -> None:
        """See a node of which blocks are about to be evicted."""

    def shrunk(self, run: Run, count: int) -> None:
        """See a node that lost its last `count` blocks: evicted, expired or dropped."""

    def extended(self, run: Run, first: int, count: int) -> None:
        """See a node that an insert gave `count` blocks, the first of them its `first`."""

    def inserted(self) -> None:
        """See the end of an insert that had something to do."""

    def protected(self) -> set[Run]:
        """Return the runs that go after all others."""
        return set()


@dataclass(eq=False)
class Resident:
    """The blocks of one run that a holder has: its first ones, and how they were used."""

    run: Run
    first_used_ps: int
    last_used_ps: int
    blocks: list[Block] = field(default_factory=list)
    pins: int = 0
    uses: int = 0
    mark: int = 1  # uses when it was first queued, or last queued anew by a second look
    score: float = 0.0
    floor: float = -inf
    queued: int = 0  # when it joined the queue of unpinned runs, as a running number
    group: Group = field(default_factory=Group)  # class of its last user
    whole: bool = False  # a whole prompt ended here when it was published, or came as a copy of such

    @property
    def complete(self) -> bool:
        """Whether no block of the run lacks."""
        return len(self.blocks) == len(self.run.blocks)

    @property
    def end(self) -> int:
        """Blocks from the root to the last one here."""
        return self.run.start_blocks + len(self.blocks)

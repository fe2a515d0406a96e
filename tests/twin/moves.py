"""Live migration in the twin: rounds of copies while a request decodes, and the pause for the last one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.twin.plain import Request, Server, ceil_div

if TYPE_CHECKING:
    from tests.twin.model import Twin


@dataclass
class Move:
    """A request on its way from an instance to another one."""

    request: Request
    source: Server
    target: Server
    preemptions: int
    copied: int = 0
    ends_ps: int | None = None  # of the copy under way
    leaves: bool = False  # at the end of the iteration in progress

    @property
    def goes_on(self) -> bool:
        """Whether the request still decodes where it did."""
        return self.request in self.source.decoding and self.request.preemptions == self.preemptions


class Mover:
    """Asks for migrations at regular times, at most one from an instance at once, and carries them out."""

    def __init__(self, twin: Twin, period_ps: int) -> None:
        self.twin, self.period_ps = twin, period_ps
        self.next_ps: int | None = period_ps or None
        self.moves: dict[int, Move] = {}

    def pending(self) -> list[tuple[int, int]]:
        """List (time, index) of what is to happen: ends of copies by instance, then the question."""
        events = [(move.ends_ps, index) for index, move in self.moves.items() if move.ends_ps is not None]
        if self.next_ps is not None:
            events.append((self.next_ps, len(self.twin.servers)))
        return events

    def handle(self, index: int) -> None:
        """Handle the end of a copy, or ask."""
        if index == len(self.twin.servers):
            self.ask()
            return
        move = self.moves[index]
        move.ends_ps = None
        if not move.goes_on:
            del self.moves[index]
            return
        new = move.request.context - 1 - move.copied
        if new > move.source.block_tokens:
            self.copy(move, new)
        else:
            move.leaves = True

    def ask(self) -> None:
        """Ask the policy, and begin what it says."""
        decoders = self.twin.decoders
        self.next_ps = None
        if self.twin.goes_on():
            self.next_ps = self.twin.now + self.period_ps
        source, target = self.twin.policies["migrate"]([server.seen() for server in decoders], self.twin.now)
        if source < 0 or target < 0 or source == target or decoders[source].index in self.moves:
            return
        giver, taker = decoders[source], decoders[target]
        best = min(giver.decoding, key=lambda request: (-request.tier, request.context, request.row), default=None)
        if best is None:
            return
        last = best.prompt_tokens + best.output_tokens - 1 + taker.draft_tokens
        if ceil_div(last, taker.block_tokens) > taker.blocks.total_blocks:
            return
        self.moves[giver.index] = move = Move(best, giver, taker, best.preemptions)
        self.copy(move, best.context - 1)

    def copy(self, move: Move, tokens: int) -> None:
        """Send so many tokens over the card of the source."""
        link = move.source.link
        link.free_ps = max(self.twin.now, link.free_ps) + tokens * link.token_fs // 1000
        move.copied += tokens
        move.ends_ps = link.free_ps + link.latency_ps

    def iteration_ended(self, server: Server) -> bool:
        """Let a request leave that is to; True if it left the batch."""
        move = self.moves.get(server.index)
        if move is None or not move.leaves:
            return False
        del self.moves[server.index]
        if not move.goes_on:
            return False
        request, target, link = move.request, move.target, server.link
        held_tokens = request.context - 1
        room = target.blocks.free_blocks + target.blocks.cached_blocks
        full = len(target.running) + target.waiting >= target.max_batch
        if full or ceil_div(held_tokens, target.block_tokens) + 1 > room:
            return False
        server.decoding.remove(request)
        self.twin.desk.stopped(request)
        target.waiting += 1
        target.sent += 1
        target.waiting_tokens += request.context
        request.decode_instance = target.index
        request.handed_off = True
        tokens = held_tokens - move.copied
        link.free_ps = max(self.twin.now, link.free_ps) + tokens * link.token_fs // 1000
        link.deliveries.append((link.free_ps + link.latency_ps, request, "handoff", target.index, 0))
        return True

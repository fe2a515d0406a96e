"""Who owns a prefix: consistent hashing with bounded load, and the index shards with what a router believes."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import TYPE_CHECKING

from replay.engine.draws import mix
from tests.twin.chains import Run, key_of

if TYPE_CHECKING:
    from replay.kv import Kv
    from tests.twin.plain import Request, Server
    from tests.twin.residents import Clock

SPREAD = 1_000_003


class Ring:
    """Owners on a circle, and the keys that each was assigned."""

    def __init__(self, owners: int, virtual_nodes: int, bound: float) -> None:
        self.points = sorted((mix(owner * SPREAD + v), owner) for owner in range(owners) for v in range(virtual_nodes))
        self.open = [True] * owners  # present and not leaving
        self.bound = bound
        self.owner_of: dict[int, int] = {}

    def clockwise(self, key: int) -> Iterator[int]:
        """Yield the open owners from the key's hash on, each as often as it has points."""
        first = sum(point < mix(key) for point, _ in self.points)
        yield from (owner for _, owner in self.points[first:] + self.points[:first] if self.open[owner])

    def held(self, owner: int) -> int:
        """Count the keys of an owner."""
        return list(self.owner_of.values()).count(owner)

    def assign(self, key: int) -> int | None:
        """Return the owner of a key, which is chosen now if it has none; None if nobody is there."""
        if key in self.owner_of:
            return self.owner_of[key]
        present = sum(self.open)
        total = sum(self.held(owner) for owner, there in enumerate(self.open) if there)
        walk = list(self.clockwise(key))
        if not walk:
            return None
        self.owner_of[key] = next(o for o in walk if self.held(o) + 1 <= ceil(self.bound * (total + 1) / present))
        return self.owner_of[key]

    def another(self, key: int, owner: int) -> int | None:
        """Return the next owner after the hash of a key that is not the one given."""
        return next((other for other in self.clockwise(key) if other != owner), None)

    def join(self, owner: int) -> None:
        """Let an owner in; all keys find a place anew."""
        self.open[owner] = True
        self.owner_of = {}

    def close(self, owner: int) -> None:
        """Take an owner out; its keys are forgotten."""
        self.open[owner] = False
        self.owner_of = {key: who for key, who in self.owner_of.items() if who != owner}


class Shards:
    """The index: its servers, each with a queue, and what it says where a prefix is."""

    def __init__(self, kv: Kv, clock: Clock) -> None:
        self.kv = kv
        self.rules = kv.index
        self.clock = clock
        self.ring = Ring(self.rules.shards, kv.virtual_nodes, kv.bound)
        self.free_ps = [0] * self.rules.shards
        self.down_ps = [0] * self.rules.shards
        self.stopped_ps = [0] * self.rules.shards  # how long each has failed in all
        self.asked: dict[Request, tuple[int, int]] = {}  # where a request is looked up, and stopped_ps of that then
        self.sent_ps: dict[tuple[Run, int], int] = {}  # (run, instance) -> last dispatch of a prompt that has it

    def look_up(self, request: Request) -> int:
        """Queue a lookup; returns when it is done."""
        key = key_of(request.chain, self.kv.key_blocks)
        shard = request.row % self.rules.shards if key is None else self.ring.assign(key)
        assert shard is not None
        work_ps = self.rules.lookup_ps + self.rules.node_ps * len(request.chain)
        self.free_ps[shard] = max(self.clock.now, self.free_ps[shard]) + work_ps
        self.asked[request] = (shard, self.stopped_ps[shard])
        return self.free_ps[shard]

    def later_ps(self, request: Request) -> int:
        """Return by how much a lookup, done now but for that, is late because its shard failed."""
        shard, before_ps = self.asked[request]
        self.asked[request] = (shard, self.stopped_ps[shard])
        return self.stopped_ps[shard] - before_ps

    def stop(self, shard: int, for_ps: int) -> None:
        """Let a shard answer nothing for so long."""
        now_ps = self.clock.now
        later_ps = now_ps + for_ps - max(now_ps, self.down_ps[shard])
        if later_ps > 0:
            self.down_ps[shard] = now_ps + for_ps
            self.stopped_ps[shard] += later_ps
            self.free_ps[shard] = max(now_ps, self.free_ps[shard]) + later_ps

    def sweep(self, nodes: int) -> None:
        """Let every shard forget its part of the nodes that expired."""
        for shard, free_ps in enumerate(self.free_ps):
            work_ps = self.rules.gc_node_ps * nodes // self.rules.shards
            self.free_ps[shard] = max(self.clock.now, free_ps) + work_ps

    def sent(self, request: Request, server: Server) -> None:
        """Note where a request went."""
        for run in request.chain:
            self.sent_ps[run, server.index] = self.clock.now

    def believed_blocks(self, request: Request, server: Server) -> int:
        """Return the blocks of a prompt that the index believes on an instance."""
        cache = server.blocks
        if self.rules.belief == "exact" or not cache.enabled:
            return cache.visible_blocks(request.chain)
        found = 0
        for run in request.chain:
            if self.rules.belief == "lagged":
                blocks = cache.blocks_at(run, self.clock.now - self.rules.lag_ps)
            else:
                stamp = self.sent_ps.get((run, server.index))
                fresh = stamp is not None and self.clock.now < stamp + self.rules.lag_ps
                blocks = len(run.blocks) if fresh else 0
            found += blocks
            if blocks < len(run.blocks):
                break
        return found

"""HIERARCHY.md in plain objects: what is below the HBM of the instances, and its events."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from replay.kv import DISK, DRAM, Kv
from tests.twin import lifetime, movement, writes
from tests.twin.chains import Run, key_of
from tests.twin.disk import Disk
from tests.twin.dropping import Fates
from tests.twin.laws import check, check_end
from tests.twin.placement import Ring, Shards
from tests.twin.residents import Rules
from tests.twin.stores import Load, ServerWatch, Spill, Store, stores_of

if TYPE_CHECKING:
    from tests.twin.model import Twin
    from tests.twin.network import Network
    from tests.twin.plain import Request, Server


class Hierarchy:
    """The stores of a cluster, the index over them, and what moves."""

    def __init__(self, kv: Kv, rules: Rules, twin: Twin, layers: int) -> None:
        self.kv = kv
        self.rules = rules
        self.twin = twin
        self.clock = twin.clock
        self.policies = twin.policies
        self.layers = layers
        self.asks_at_eviction = twin.asks_at_eviction
        self.events: list[tuple[int, int, str, Any]] = []  # (time, sequence, kind, of what)
        self.pushed = 0
        self.spills: list[Spill] = []
        self.loads: list[Load] = []  # under way
        self.reads: dict[int, int] = {}
        self.stores = stores_of(kv, self)
        self.has_dram = any(store.tier == DRAM for store in self.stores)
        self.ring = Ring(kv.shared_nodes, kv.virtual_nodes, kv.bound)
        self.shards = Shards(kv, self.clock)
        for change in kv.changes:
            self.push(change.at_ps, "change", change)
        if kv.ttl_ps > 0 and kv.gc_ps > 0:
            self.push(kv.gc_ps, "gc", None)
        self.fates = Fates(self)
        for server in twin.prefillers:
            server.blocks.watch = ServerWatch(server, self)

    # events

    def push(self, time_ps: int, kind: str, what: Any) -> None:
        """Have something happen at a time."""
        assert time_ps >= self.clock.now
        self.events.append((time_ps, self.pushed, kind, what))
        self.pushed += 1

    def handle(self, sequence: int) -> None:
        """Handle an event."""
        event = next(event for event in self.events if event[1] == sequence)
        self.events.remove(event)
        _, _, kind, what = event
        if kind == "looked up":
            later_ps = self.shards.later_ps(what)
            if later_ps:
                self.push(self.clock.now + later_ps, "looked up", what)
            else:
                what.lookup_ps += self.clock.now
                self.twin.consider(what)
        elif kind == "loaded":
            if what.state == "under way":
                movement.ended(self, what)
        elif kind == "timeout":
            movement.timed_out(self, *what)
        elif kind == "written":
            writes.written(self, what)
        elif kind == "drained":
            lifetime.drained(self, what)
        elif kind == "deadline":
            lifetime.deadline(self, *what)
        elif kind == "change":
            lifetime.change(self, what)
        else:
            assert kind == "gc"
            lifetime.collect(self)

    @property
    def network(self) -> Network | None:
        """The fabric at work, if there is one."""
        return self.twin.network

    # places

    def homes(self, chain: list[Run]) -> list[Store]:
        """Return the shared DRAM that a path belongs to: one node, or two if it is read often."""
        key = key_of(chain, self.kv.key_blocks)
        first = self.ring.assign(key) if key is not None else None
        if key is None or first is None:
            return []
        found = [self.stores[first]]
        if 0 < self.kv.replicate_after <= self.reads.get(key, 0):
            second = self.ring.another(key, first)
            found += [self.stores[second]] if second is not None else []
        return found

    def private_dram(self, server: Server) -> Store | None:
        """Return the DRAM of an instance, there or not."""
        return self._private(server, DRAM)

    def private_disk(self, server: Server) -> Store | None:
        """Return the disk of an instance, there or not."""
        return self._private(server, DISK)

    def _private(self, server: Server, tier: int) -> Store | None:
        return next((s for s in self.stores if s.tier == tier and s.spec.server == server.index), None)

    def below(self, store: Store) -> Store | None:
        """Return the disk that a store spills to, there or not."""
        return self.stores[store.spec.below] if store.spec.below >= 0 else None

    @property
    def common_disk(self) -> Store | None:
        """Return the store that all share, there or not."""
        return next((s for s in self.stores if s.tier == DISK and not s.local), None)

    def whole_units(self, blocks: int) -> int:
        """Round blocks down to whole units."""
        bt, unit = self.twin.block_tokens, self.kv.unit_tokens
        return (blocks * bt - blocks * bt % unit) // bt if unit > 0 else blocks

    def wants_write(self, node: SimpleNamespace, evicting: int) -> bool:
        """Ask the write policy about a node."""
        return bool(self.policies["write"](node, evicting, self.clock.now))

    # steps of requests that the twin takes

    def look_up(self, request: Request) -> bool:
        """Ask the index about an arriving request, if that takes time."""
        if self.kv.index.shards == 0:
            return False
        request.lookup_ps = -self.clock.now  # until it is answered
        self.push(self.shards.look_up(request), "looked up", request)
        return True

    def dispatched(self, request: Request, server: Server) -> bool:
        """Plan a load for a request sent to an instance; True if it waits for it."""
        return self.kv.prefetch and movement.dispatched(self, request, server)

    def conclude(self, server: Server, head: Request) -> None:
        """Decide about the load of the head of a queue."""
        movement.conclude(self, server, head)

    def published(self, request: Request, server: Server) -> None:
        """Write a prompt that is complete."""
        writes.published(self, request, server)

    def settle(self) -> None:
        """Work off what was evicted during an event."""
        writes.work_off_spills(self)

    def check(self) -> None:
        """Fail if a law is broken."""
        check(self)

    def check_end(self) -> None:
        """Fail if anything is left under way."""
        check_end(self)

    def results(self) -> dict[str, Any]:
        """Return what the stores did, a list entry a store."""
        disks = [store.disk for store in self.stores]
        return {
            "resident_blocks": [s.cache.total_blocks - s.cache.free_blocks for s in self.stores],
            "evicted_blocks": [s.cache.evicted_blocks for s in self.stores],
            "inserted_blocks": [s.cache.inserted_blocks for s in self.stores],
            "read_blocks": [s.read.sent for s in self.stores],
            "written_blocks": [s.written.sent for s in self.stores],
            "dropped_writes": [s.dropped_writes for s in self.stores],
            "medium_reads": [counts(disk, "read_ops", "read_blocks") for disk in disks],
            "flush_blocks": [counts(disk, "flush_blocks") for disk in disks],
            "compaction_blocks": [counts(disk, "compact_read_blocks", "compact_write_blocks") for disk in disks],
        }


def counts(disk: Disk | None, *names: str) -> list[list[int]]:
    """Return counts of a disk, a list each medium; nothing for DRAM."""
    return [[medium.counts[name] for name in names] for medium in disk.media] if disk is not None else []

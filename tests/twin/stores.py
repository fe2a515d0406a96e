"""A store below the HBM, and what is under way from and to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replay.kv import DISK, DRAM, Kv
from replay.kv import Store as Spec
from tests.twin.chains import Run
from tests.twin.disk import Disk
from tests.twin.prefixes import BlockCache
from tests.twin.residents import Resident, Watch

if TYPE_CHECKING:
    from tests.twin.hierarchy import Hierarchy
    from tests.twin.network import Network, Transfer
    from tests.twin.plain import Request, Server

PENDING, UNDER_WAY, OVER = "pending", "under way", "over"


class Store:
    """A pool node's DRAM or a disk."""

    def __init__(self, index: int, spec: Spec, hierarchy: Hierarchy) -> None:
        self.index = index
        self.spec = spec
        self.tier = spec.tier
        self.life = 0  # counts departures: what started in an earlier life does not arrive
        self.present = True
        self.leaving = False
        self.read_free_ps = 0
        self.write_free_ps = 0
        self.read_busy_ps = 0
        self.write_busy_ps = 0
        self.write_block_fs = spec.write_block_fs
        self.writes: list[Write] = []
        self.drained_to = -1  # number of the node last looked at by a drain
        kv = hierarchy.kv
        self.disk = Disk(kv.lsm) if spec.tier == DISK else None
        watch: Watch = DramWatch(self, hierarchy) if spec.tier == DRAM else DiskWatch(self, hierarchy)
        self.cache = BlockCache(spec.blocks, hierarchy.rules, hierarchy.clock, tier=spec.tier, watch=watch)
        self.read = Moved()
        self.written = Moved()
        self.dropped_writes = 0

    @property
    def local(self) -> bool:
        """Whether it belongs to a node, and is not the one store that all share."""
        return self.spec.node >= 0

    def carry(self, now_ps: int, blocks: int) -> tuple[int, int]:
        """Send blocks over the read card; returns when that starts and when they are there."""
        start_ps = max(now_ps, self.read_free_ps)
        self.read_free_ps = start_ps + blocks * self.spec.read_block_fs // 1000
        self.read_busy_ps += self.read_free_ps - start_ps
        return start_ps, self.read_free_ps + self.spec.latency_ps


@dataclass
class Moved:
    """Blocks over one way, from the start of a move to its end."""

    sent: int = 0
    landed: int = 0
    cut: int = 0
    wasted: int = 0


class DramWatch(Watch):
    """What DRAM evicts goes to the disk below."""

    def __init__(self, store: Store, hierarchy: Hierarchy) -> None:
        self.store = store
        self.hierarchy = hierarchy

    def evicting(self, cache: BlockCache, resident: Resident) -> None:
        """Note the node for the end of the event."""
        if self.store.spec.below >= 0 and cache.alive(resident):
            flag = resident.whole and resident.complete
            self.hierarchy.spills.append(Spill(self.store, resident.run, resident.end, flag))


class DiskWatch(Watch):
    """A disk writes down what comes and marks what goes."""

    def __init__(self, store: Store, hierarchy: Hierarchy) -> None:
        self.store = store
        self.hierarchy = hierarchy
        self.clock = hierarchy.clock

    def shrunk(self, run: Run, count: int) -> None:
        """Trim the node's fragments."""
        assert self.store.disk is not None
        self.store.disk.trim(run.node, count)

    def extended(self, run: Run, first: int, count: int) -> None:
        """Append a fragment to the memtable."""
        assert self.store.disk is not None
        self.store.disk.insert(run.node, first, count)

    def inserted(self) -> None:
        """Flush a memtable that is full."""
        disk, network = self.store.disk, self.hierarchy.network
        assert disk is not None
        before = disk.moved_blocks
        disk.settle(self.clock.now, self.collect)
        blocks = disk.moved_blocks - before
        if network is None or self.store.local:
            return
        endpoint, size = len(network.twin.servers) + self.store.index, self.hierarchy.kv.block_bytes
        most = 2**61 // network.unit // size
        while blocks > 0:
            network.begin(endpoint, endpoint, min(blocks, most) * size, "compaction")
            blocks -= most

    def collect(self) -> None:
        """Free what is dead here before a merge."""
        self.store.cache.expire()


class ServerWatch(Watch):
    """What an instance evicts may be written, and what its queue wants goes last."""

    def __init__(self, server: Server, hierarchy: Hierarchy) -> None:
        self.server = server
        self.hierarchy = hierarchy

    def evicting(self, cache: BlockCache, resident: Resident) -> None:
        """Ask whether to write what goes."""
        if self.hierarchy.asks_at_eviction and self.hierarchy.wants_write(cache.seen(resident), evicting=1):
            flag = resident.whole and resident.complete
            self.hierarchy.spills.append(Spill(self.server, resident.run, resident.end, flag))

    def protected(self) -> set[Run]:
        """Return the runs of the prompts that wait."""
        if not self.hierarchy.kv.lookahead:
            return set()
        return {run for request in self.server.queue if not request.handed_off for run in request.chain}


@dataclass(frozen=True)
class Spill:
    """Blocks that were evicted: from where, and the path that they ended."""

    holder: Store | Server
    run: Run
    end: int
    whole: bool


@dataclass(eq=False)
class Write:
    """A copy of a path on its way into a store."""

    store: Store
    run: Run
    blocks: int
    base: int
    held: int
    life: int
    whole: bool
    source: Server
    wipes: int  # of its source, as it began


@dataclass(eq=False)
class Segment:
    """A part [first, end) of a path that a load takes from one store."""

    store: Store
    first: int
    end: int
    above: Store | None = None
    held: int = 0
    life: int = 0
    start_ps: int = -1
    end_ps: int = -1  # with a fabric: of its media
    transfer: Transfer | None = None
    network: Network | None = None

    @property
    def latency_ps(self) -> int:
        """Time after the last block left; a disk's is in its end."""
        return self.store.spec.latency_ps if self.store.tier == DRAM and self.network is None else 0

    def arrived(self, now_ps: int) -> int:
        """Count the blocks that are there."""
        if self.network is not None and self.transfer is not None and not self.transfer.delivered:
            carried = self.network.moved(self.transfer) // (self.network.twin.hierarchy.kv.block_bytes)
            return min(carried, self.read(now_ps))
        return self.read(now_ps)

    def there(self, now_ps: int) -> bool:
        """Whether all of it has arrived."""
        return self.end_ps <= now_ps and (self.transfer is None or self.transfer.delivered)

    def read(self, now_ps: int) -> int:
        """Count the blocks that card or media are through with."""
        blocks = self.end - self.first
        if self.end_ps <= now_ps:
            return blocks
        sent_ps = self.end_ps - self.latency_ps
        whole_ps, elapsed_ps = sent_ps - self.start_ps, max(0, min(now_ps, sent_ps) - self.start_ps)
        while whole_ps >= 1 << 40:
            whole_ps, elapsed_ps = whole_ps >> 1, elapsed_ps >> 1
        return blocks * elapsed_ps // whole_ps if whole_ps > 0 else 0


@dataclass(eq=False)
class Load:
    """A path on its way into an instance."""

    request: Request
    server: Server
    base: int
    tier: int
    segments: list[Segment]
    state: str = PENDING
    stands: bool = True
    issued_ps: int = -1
    end_ps: int = -1
    media_ps: int = -1
    shipments: int = 0  # over a fabric, under way
    landed: int = -1  # blocks of the path that it brought or counted, -1 if none
    sent: int = 0
    reach: int = -1  # of a load that was cut: the blocks that were there then
    parts: list[tuple[int, int, int]] = field(default_factory=list)  # (tier, first, end) as started

    @property
    def cur(self) -> int:
        """Blocks of the path when it is there."""
        if self.reach >= 0:
            return self.reach
        return self.segments[-1].end if self.segments else self.base

    def arrived(self, now_ps: int) -> int:
        """Return the blocks of the path that are there, the base among them."""
        found = self.base
        for segment in self.segments:
            found += segment.arrived(now_ps)
            if not segment.there(now_ps):
                break
        return found


def stores_of(kv: Kv, hierarchy: Hierarchy) -> list[Store]:
    """Make the stores of a cluster."""
    return [Store(index, spec, hierarchy) for index, spec in enumerate(kv.stores)]

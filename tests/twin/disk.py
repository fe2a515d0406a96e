"""A disk of single blocks: the plain twin of replay.engine.fragments and replay.engine.compaction.

Written from HIERARCHY.md "Disks" alone. Every block that lies on the disk is one object, dead ones too until a flush or
a merge leaves them behind. The owner of a disk keeps which blocks of a node are resident (always its first ones) and
says `insert` and `trim`; after a whole insert it says `settle`:

    disk = Disk(kv.lsm)
    disk.insert(node, first, n)            # blocks [first, first + n) of a node, for each node extended
    disk.settle(now_ps, collect)           # flush if full, then merge; `collect()` runs before each merge (gc by TTL)
    disk.trim(node, n)                     # its last n resident blocks die
    cost = disk.read_cost([(node, first, n), ...])     # root to leaf -> {medium: (operations, blocks)}
    start, done = disk.serve(medium, operations, blocks, now_ps)
    disk.wipe(now_ps)                      # it leaves the cluster; trim everything first
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from replay.kv import Lsm, Medium

COUNTS = ("read_ops", "read_blocks", "flush_ops", "flush_blocks", "compact_ops", "compact_read_blocks",
          "compact_write_blocks", "busy_ps")  # fmt: skip


@dataclass(eq=False)
class Segment:
    """Blocks in a fixed order on the medium of a level: offset k holds blocks[k], dead or alive."""

    level: int
    sequence: int
    blocks: list["Block"]

    @property
    def living(self) -> list["Block"]:
        """Its blocks that are not dead."""
        return [block for block in self.blocks if block.alive]


@dataclass(eq=False)
class Block:
    """One block of a node: in the memtable, or in a segment at an offset."""

    node: int
    position: int  # within the node
    segment: Segment | None = None
    offset: int = -1
    alive: bool = True


@dataclass(eq=False)
class MediumClock:
    """When a medium is free, and what it has done."""

    rates: Medium
    free_ps: int = 0
    background_ps: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))


class Disk:
    """A log-structured-merge store."""

    def __init__(self, lsm: Lsm) -> None:
        self.lsm = lsm
        self.media = [MediumClock(medium) for medium in lsm.media]
        self.memtable: list[Block] = []  # in order of writing, dead ones too
        self.segments: list[Segment] = []  # in order of creation
        self.alive: dict[int, list[Block]] = {}  # node -> its resident blocks, by position
        self.created = 0
        self.flushes = 0
        self.compactions = 0

    # what the owner of the disk says

    def insert(self, node: int, first: int, n: int) -> None:
        """Write blocks [first, first + n) of a node, which go on where its resident ones end."""
        resident = self.alive.setdefault(node, [])
        assert first == len(resident), "a node is extended at its end"
        new = [Block(node, first + k) for k in range(n)]
        resident += new
        self.memtable += new

    def share_out(self, servers: int, up: int) -> None:
        """Be as fast as so many of the servers that carry all of it."""
        for medium, full in zip(self.media, self.lsm.media, strict=True):
            rates = {name: getattr(full, name) * servers // up for name in ("op_ps", "read_block_fs", "write_block_fs")}
            medium.rates = replace(full, **rates)

    def trim(self, node: int, n: int) -> None:
        """Let the last n resident blocks of a node die."""
        for _ in range(n):
            self.alive[node].pop().alive = False

    def settle(self, now_ps: int, collect: Callable[[], None] = lambda: None) -> None:
        """After a whole insert: flush a full memtable, then merge while a level is over its limit."""
        if len(self.memtable) >= self.lsm.memtable_blocks:
            self.flush(now_ps)
            while (level := self.over_limit()) is not None:
                collect()
                self.merge(level, now_ps)

    def wipe(self, now_ps: int) -> None:
        """Forget all blocks, which are dead, and all work that is not done."""
        assert not any(self.alive.values()), "drop every node first"
        self.memtable, self.segments = [], []
        for medium in self.media:
            medium.free_ps = min(medium.free_ps, now_ps)
            medium.background_ps = min(medium.background_ps, now_ps)

    # flush and merge

    def medium_of(self, level: int) -> MediumClock:
        """Return what the segments of a level lie on."""
        return self.media[min(level, len(self.media) - 1)]

    def flush(self, now_ps: int) -> None:
        """Write the living blocks of the memtable as a segment of level 0."""
        living = [block for block in self.memtable if block.alive]
        self.memtable = []
        self.flushes += 1
        self.write(living, 0, now_ps, "flush_ops", "flush_blocks")

    def write(self, blocks: list[Block], level: int, now_ps: int, operations: str, counted: str) -> None:
        """Make a new segment of living blocks; of none, nothing."""
        if not blocks:
            return
        segment = Segment(level, self.created, sorted(blocks, key=lambda block: (block.node, block.position)))
        self.created += 1
        self.segments.append(segment)
        for offset, block in enumerate(segment.blocks):
            block.segment, block.offset = segment, offset
        medium = self.medium_of(level)
        medium.counts[operations] += 1
        medium.counts[counted] += len(blocks)
        self.background(medium, 1, len(blocks), medium.rates.write_block_fs, now_ps)

    def over_limit(self) -> int | None:
        """Return the lowest level that must be merged."""
        for level in range(self.lsm.levels):
            there = [segment for segment in self.segments if segment.level == level]
            if level == 0 or not self.lsm.levelled:
                over = len(there) >= self.lsm.fanout
            else:
                limit = self.lsm.memtable_blocks * self.lsm.fanout ** (level + 1)
                over = level < self.lsm.levels - 1 and sum(len(segment.blocks) for segment in there) > limit
            if over:
                return level
        return None

    def merge(self, level: int, now_ps: int) -> None:
        """Merge a level into the next one: levelled with what is there, tiered beside it."""
        target = min(level + 1, self.lsm.levels - 1)
        levels = {level, target} if self.lsm.levelled else {level}
        self.merge_segments([segment for segment in self.segments if segment.level in levels], target, now_ps)

    def merge_segments(self, sources: list[Segment], target: int, now_ps: int) -> None:
        """Read whole segments, oldest first, and write what lives in them as one segment of the target level."""
        self.compactions += 1
        living = []
        for segment in sources:
            medium = self.medium_of(segment.level)
            medium.counts["compact_ops"] += 1
            medium.counts["compact_read_blocks"] += len(segment.blocks)
            self.background(medium, 1, len(segment.blocks), medium.rates.read_block_fs, now_ps)
            living += segment.living
            self.segments.remove(segment)
        self.write(living, target, now_ps, "compact_ops", "compact_write_blocks")

    def merge_all(self, now_ps: int) -> None:
        """Flush, then merge all segments into one of the last level."""
        self.flush(now_ps)
        self.merge_segments(list(self.segments), self.lsm.levels - 1, now_ps)

    # reads, and how media share their time

    def read_cost(self, parts: Iterable[tuple[int, int, int]]) -> dict[int, tuple[int, int]]:
        """Return operations and blocks by medium for blocks [first, first + n) of nodes, root to leaf."""
        cost: dict[int, tuple[int, int]] = {}
        segment, offset = None, -1
        for node, first, n in parts:
            for block in self.alive.get(node, [])[first : first + n]:
                if block.segment is None:
                    continue
                goes_on = block.segment is segment and block.offset == offset + 1
                segment, offset = block.segment, block.offset
                medium = min(segment.level, len(self.media) - 1)
                operations, blocks = cost.get(medium, (0, 0))
                cost[medium] = operations + (not goes_on), blocks + 1
        return cost

    def serve(self, medium: int, operations: int, blocks: int, now_ps: int) -> tuple[int, int]:
        """Read for a load; returns start and end."""
        if operations == blocks == 0:
            return now_ps, now_ps
        clock, share = self.media[medium], self.lsm.share
        work = operations * clock.rates.op_ps + blocks * clock.rates.read_block_fs // 1000
        start = max(now_ps, clock.free_ps)
        shared_until = max(clock.background_ps, start)
        slow = (shared_until - start) * (1000 - share) // 1000
        if work <= slow:
            done = start + -(-work * 1000 // (1000 - share))
        else:
            done = shared_until + work - slow
        clock.free_ps = done
        clock.counts["read_ops"] += operations
        clock.counts["read_blocks"] += blocks
        clock.counts["busy_ps"] += work
        return start, done

    def background(self, medium: MediumClock, operations: int, blocks: int, block_fs: int, now_ps: int) -> None:
        """Give a medium work that has `share` of its time."""
        work = operations * medium.rates.op_ps + blocks * block_fs // 1000
        medium.background_ps = max(now_ps, medium.background_ps) + work * 1000 // self.lsm.share
        medium.counts["busy_ps"] += work

    # what is reported

    @property
    def fragments(self) -> int:
        """Stretches of living blocks of one node in one place: the rows that the kernel needs."""
        count = 0
        for blocks in self.alive.values():
            places = [block.segment for block in blocks]
            count += sum(k == 0 or places[k] is not places[k - 1] for k in range(len(places)))
        return count

    @property
    def moved_blocks(self) -> int:
        """Blocks ever flushed, and read and written by merges."""
        names = ("flush_blocks", "compact_read_blocks", "compact_write_blocks")
        return sum(medium.counts[name] for medium in self.media for name in names)

    @property
    def flushed_blocks(self) -> int:
        """Blocks ever flushed."""
        return sum(medium.counts["flush_blocks"] for medium in self.media)

    @property
    def write_amplification(self) -> float:
        """Blocks written by flushes and merges for each block flushed, 0 before the first."""
        merged = sum(medium.counts["compact_write_blocks"] for medium in self.media)
        return (self.flushed_blocks + merged) / self.flushed_blocks if self.flushed_blocks else 0.0

    @property
    def space_amplification(self) -> float:
        """Blocks of segments for each that lives in them, 0 without any."""
        living = sum(len(segment.living) for segment in self.segments)
        return sum(len(segment.blocks) for segment in self.segments) / living if living else 0.0

    def check(self) -> None:
        """Fail if a block was lost, copied or misplaced."""
        for node, blocks in self.alive.items():
            assert [block.position for block in blocks] == list(range(len(blocks))), f"node {node} has a hole"
            for block in blocks:
                assert block.alive and block.node == node
                if block.segment is None:
                    assert block in self.memtable
                else:
                    assert block.segment in self.segments and block.segment.blocks[block.offset] is block

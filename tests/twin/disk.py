"""One disk as a log-structured merge tree, in lists of fragments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from replay.kv import Lsm


@dataclass(eq=False)
class Fragment:
    """Blocks [first, end) of a node that were written together."""

    node: int
    first: int
    end: int
    offset: int = 0


@dataclass(eq=False)
class Run:
    """A segment: fragments, with the dead blocks that were written with them."""

    level: int
    written: int
    fragments: list[Fragment] = field(default_factory=list)


class Disk:
    """What a disk has, and how busy its media are."""

    def __init__(self, lsm: Lsm) -> None:
        self.lsm = lsm
        self.memtable: list[Fragment] = []
        self.in_memtable = 0  # blocks appended since the last flush
        self.runs: list[Run] = []  # oldest first
        count = len(lsm.media)
        self.free_ps = [0] * count
        self.background_ps = [0] * count
        self.flush_blocks = [0] * count
        self.compaction_read_blocks = [0] * count
        self.compaction_write_blocks = [0] * count

    def medium(self, level: int) -> int:
        """Return what a level lies on."""
        return min(level, len(self.lsm.media) - 1)

    def append(self, node: int, first: int, count: int) -> None:
        """Put new blocks of a node into the memtable."""
        self.memtable.append(Fragment(node, first, first + count))
        self.in_memtable += count

    def fragments(self, node: int) -> list[tuple[Fragment, Run | None]]:
        """List where the blocks of a node are, in order."""
        found = [(fragment, run) for run in self.runs for fragment in run.fragments if fragment.node == node]
        found += [(fragment, None) for fragment in self.memtable if fragment.node == node]
        return sorted((part for part in found if part[0].end > part[0].first), key=lambda part: part[0].first)

    def trim(self, node: int, count: int) -> None:
        """Let the last blocks of a node die."""
        for fragment, _ in reversed(self.fragments(node)):
            dead = min(count, fragment.end - fragment.first)
            fragment.end -= dead
            count -= dead
        assert count == 0, "trimmed blocks that are not there"

    def settle(self, now_ps: int, expire: Callable[[], int]) -> None:
        """Flush the memtable if it is full, and merge what is too much."""
        if self.in_memtable < self.lsm.memtable_blocks:
            return
        fragments, self.memtable, self.in_memtable = self.memtable, [], 0
        self.flush_blocks[0] += self.write(now_ps, 0, fragments)
        while (level := self.full_level()) is not None:
            self.merge(now_ps, level, expire)

    def write(self, now_ps: int, level: int, fragments: list[Fragment]) -> int:
        """Write living fragments as one segment; returns its blocks."""
        joined: list[Fragment] = []
        living = [fragment for fragment in fragments if fragment.end > fragment.first]
        for part in sorted(living, key=lambda fragment: (fragment.node, fragment.first)):
            if joined and joined[-1].node == part.node and joined[-1].end == part.first:
                joined[-1].end = part.end
            else:
                joined.append(Fragment(part.node, part.first, part.end))
        offset = 0
        for fragment in joined:
            fragment.offset = offset
            offset += fragment.end - fragment.first
        if joined:
            self.runs.append(Run(level, offset, joined))
            medium = self.medium(level)
            self.background(now_ps, medium, offset, self.lsm.media[medium].write_block_fs)
        return offset

    def full_level(self) -> int | None:
        """Return the lowest level that is over its limit."""
        for level in range(self.lsm.levels):
            runs = [run for run in self.runs if run.level == level]
            last = level == self.lsm.levels - 1
            if len(runs) >= self.lsm.fanout and (level == 0 or not self.lsm.levelled):
                return level
            limit = self.lsm.memtable_blocks * self.lsm.fanout ** (level + 1)
            if self.lsm.levelled and level and not last and sum(run.written for run in runs) > limit:
                return level
        return None

    def merge(self, now_ps: int, level: int, expire: Callable[[], int]) -> None:
        """Merge a level into one segment of the next, or of its own if it is the last."""
        expire()
        target = min(level + 1, self.lsm.levels - 1)
        levels = (level, target) if self.lsm.levelled else (level,)
        sources = [run for run in self.runs if run.level in levels]
        for run in sources:
            medium = self.medium(run.level)
            self.background(now_ps, medium, run.written, self.lsm.media[medium].read_block_fs)
            self.compaction_read_blocks[medium] += run.written
        self.runs = [run for run in self.runs if run not in sources]
        written = self.write(now_ps, target, [fragment for run in sources for fragment in run.fragments])
        self.compaction_write_blocks[self.medium(target)] += written

    def background(self, now_ps: int, medium: int, blocks: int, block_fs: int) -> None:
        """Add one operation of background work."""
        work_ps = self.lsm.media[medium].op_ps + blocks * block_fs // 1000
        begin_ps = max(now_ps, self.background_ps[medium])
        self.background_ps[medium] = begin_ps + work_ps * 1000 // self.lsm.share

    def cost(self, nodes: list[tuple[int, int, int]], first: int, end: int) -> list[tuple[int, int]]:
        """Return (operations, blocks) by medium of reading the blocks [first, end) of a path.

        nodes : (node, blocks before it, its blocks), root first
        """
        cost = [[0, 0] for _ in self.lsm.media]
        before: tuple[Run | None, int] = (None, 0)
        for node, start, _ in nodes:
            for fragment, run in self.fragments(node):
                low, high = max(fragment.first, first - start), min(fragment.end, end - start)
                if low >= high:
                    continue
                offset = fragment.offset + low - fragment.first
                if run is not None:
                    medium = self.medium(run.level)
                    cost[medium][0] += before != (run, offset)
                    cost[medium][1] += high - low
                before = (run, offset + high - low)
        return [(ops, blocks) for ops, blocks in cost]

    def serve(self, medium: int, ops: int, blocks: int, now_ps: int) -> tuple[int, int]:
        """Read from a medium, slower while it works in the background; returns start and end."""
        kind = self.lsm.media[medium]
        work_ps = ops * kind.op_ps + blocks * kind.read_block_fs // 1000
        start_ps = max(now_ps, self.free_ps[medium])
        until_ps, share = self.background_ps[medium], 1000 - self.lsm.share
        done_ps = start_ps + work_ps
        if until_ps > start_ps:
            slow_ps = (until_ps - start_ps) * share // 1000
            done_ps = until_ps + work_ps - slow_ps if work_ps > slow_ps else start_ps - (-work_ps * 1000 // share)
        self.free_ps[medium] = done_ps
        return start_ps, done_ps

    def times(self) -> list[int]:
        """Return until when each medium serves reads."""
        return list(self.free_ps)

    def set_times(self, times: list[int]) -> None:
        """Put back what `times` gave."""
        self.free_ps = list(times)

    def clear(self) -> None:
        """Forget everything but the time."""
        self.memtable, self.in_memtable, self.runs = [], 0, []

    def check(self, blocks: dict[int, int]) -> None:
        """Fail unless the fragments of every node are exactly its blocks."""
        nodes = {fragment.node for run in self.runs for fragment in run.fragments} | set(blocks)
        for node in nodes | {fragment.node for fragment in self.memtable}:
            at = 0
            for fragment, run in self.fragments(node):
                assert fragment.first == at, "a gap or an overlap between fragments"
                assert run is None or fragment.offset + fragment.end - fragment.first <= run.written
                at = fragment.end
            assert at == blocks.get(node, 0), "fragments disagree with the blocks of a node"

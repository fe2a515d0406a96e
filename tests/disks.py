"""Disks of the kernel behind the interface of their twin, and what must be the same in both."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
from numba import types as t

from replay.engine import compaction, fragments, load, schema
from replay.engine.disks import disk_figures, empty_disks
from replay.engine.hierarchy import no_hierarchy
from replay.engine.state import TYPES, state_at, table
from replay.kv import Lsm
from replay.session import Session
from tests.small import small_cluster, small_instance, small_policies, small_profile, small_trace
from tests.twin.disk import COUNTS, Disk
from traces.jit import INTERPRETED, entry, kernel

APPEND, TRIM, FLUSH, NEEDS, MERGE, COMPACT, MERGE_ALL, WIPE, BEGIN, READ, SERVE, FULL, LEFT = range(13)


@kernel
def act(hierarchy, slots, call, out):
    """Call the kernel function call[0] with call[1:] and put what it returns into `out`, in place."""
    what, a, b, c, e = call[0], call[1], call[2], call[3], call[4]
    if what == APPEND:
        fragments.append(hierarchy, slots, a, b, c, e)
    elif what == TRIM:
        fragments.trim(hierarchy, slots, a, b, c)
    elif what == FLUSH:
        compaction.flush(hierarchy, a, b)
    elif what == NEEDS:
        out[0] = compaction.needs_compaction(hierarchy, a)
    elif what == MERGE:
        compaction.merge_level(hierarchy, a, b, c)
    elif what == COMPACT:
        compaction.compact(hierarchy, a, b)
    elif what == MERGE_ALL:
        compaction.merge_all(hierarchy, a, b)
    elif what == WIPE:
        compaction.wipe(hierarchy, a, b)
    elif what == BEGIN:
        fragments.begin_read(hierarchy, a)
    elif what == READ:
        fragments.read_cost(hierarchy, slots, a, b, c, e)
    elif what == SERVE:
        out[0], out[1] = compaction.serve(hierarchy, a, b, c, e)
    elif what == FULL:
        out[0] = compaction.memtable_full(hierarchy, a)
    else:
        out[0] = fragments.rows_left(hierarchy)


def act_table(words, slots, call, out):
    """Run `act` on the state behind a table of addresses."""
    act(state_at(words), slots, call, out)


@cache
def compiled() -> Callable[..., None]:
    """Return `act_table` compiled."""
    integers = t.Array(t.int64, 1, "C")
    slots = t.Array(TYPES["slots"].dtype, 1, "C")
    return entry(t.void(integers, slots, integers, integers))(act_table)


@cache
def any_state() -> schema.State:
    """Return a state to put disks into."""
    cluster = small_cluster([small_instance("mixed", small_profile(iteration_ps=100))])
    return Session(small_trace([(0, 8, 3)], [[1]]), cluster, small_policies()).state


class KernelDisks:
    """Disks of one hierarchy; slot row d * nodes + node holds a node on disk d."""

    def __init__(self, lsm: Lsm, count: int, nodes: int, rows: int) -> None:
        self.hierarchy = no_hierarchy()._replace(**empty_disks(lsm, count, rows))
        self.slots = np.zeros(count * nodes, schema.SLOT)
        self.slots["node"] = np.tile(np.arange(nodes), count)
        self.slots["fragment"] = schema.NONE
        state = any_state()._replace(hierarchy=self.hierarchy)
        self.state = load._records(state) if INTERPRETED else state
        self.words = np.zeros(0, np.int64) if INTERPRETED else table(state)
        self.nodes = nodes

    def call(self, *numbers: int) -> tuple[int, int]:
        """Call one function of the kernel."""
        call, out = np.zeros(5, np.int64), np.zeros(2, np.int64)
        call[: len(numbers)] = numbers
        if INTERPRETED:
            act(self.state.hierarchy, self.slots.view(np.recarray), [int(number) for number in call], out)
        else:
            compiled()(self.words, self.slots, call, out)
        return int(out[0]), int(out[1])


class KernelDisk:
    """One disk, as tests.twin.disk.Disk."""

    def __init__(self, disks: KernelDisks, d: int) -> None:
        self.all, self.call, self.d = disks, disks.call, d
        self.media_first = int(disks.hierarchy.disks[d]["media"])

    def slot(self, node: int) -> int:
        """Return the row of a node."""
        return self.d * self.all.nodes + node

    def insert(self, node: int, first: int, n: int) -> None:
        """See Disk."""
        self.call(APPEND, self.d, self.slot(node), first, n)

    def trim(self, node: int, n: int) -> None:
        """See Disk."""
        self.call(TRIM, self.slot(node), self.d, n)

    def settle(self, now_ps: int, collect: Callable[[], None] | None = None) -> None:
        """See Disk; without `collect` the kernel's own loop."""
        if not self.call(FULL, self.d)[0]:
            return
        self.call(FLUSH, self.d, now_ps)
        if collect is None:
            self.call(COMPACT, self.d, now_ps)
            return
        while (level := self.call(NEEDS, self.d)[0]) >= 0:
            collect()
            self.call(MERGE, self.d, level, now_ps)

    def merge(self, level: int, now_ps: int) -> None:
        """See Disk."""
        self.call(MERGE, self.d, level, now_ps)

    def merge_all(self, now_ps: int) -> None:
        """See Disk."""
        self.call(MERGE_ALL, self.d, now_ps)

    def wipe(self, now_ps: int) -> None:
        """See Disk."""
        self.call(WIPE, self.d, now_ps)

    def read_cost(self, parts: Iterable[tuple[int, int, int]]) -> dict[int, tuple[int, int]]:
        """See Disk; parts go root to leaf and the kernel is told from the leaf up."""
        self.call(BEGIN, self.d)
        for node, first, n in reversed(list(parts)):
            self.call(READ, self.d, self.slot(node), first, n)
        count = int(self.all.hierarchy.disks[self.d]["media_count"])
        media = self.all.hierarchy.media[self.media_first : self.media_first + count]
        return {m: (int(row["part_ops"]), int(row["part_blocks"])) for m, row in enumerate(media) if row["part_blocks"]}

    def serve(self, medium: int, operations: int, blocks: int, now_ps: int) -> tuple[int, int]:
        """See Disk."""
        return self.call(SERVE, self.media_first + medium, operations, blocks, now_ps)

    def runs(self) -> list[int]:
        """Return the rows of its runs, oldest first."""
        found, k = [], int(self.all.hierarchy.disks[self.d]["runs"])
        while k >= 0:
            found.append(k)
            k = int(self.all.hierarchy.runs[k]["next"])
        return found[::-1]

    def fragments_of(self, node: int) -> list[np.void]:
        """Return the fragments of a node, lowest blocks first."""
        found, f = [], int(self.all.slots[self.slot(node)]["fragment"])
        while f >= 0:
            found.append(self.all.hierarchy.fragments[f])
            f = int(self.all.hierarchy.fragments[f]["older"])
        return found[::-1]


def check_same(found: KernelDisk, expected: Disk) -> None:
    """Check clocks, counters, runs, and the place of every living block."""
    disk, runs = found.all.hierarchy.disks[found.d], found.runs()
    for m, medium in enumerate(expected.media):
        row = found.all.hierarchy.media[found.media_first + m]
        assert (row["free_ps"], row["background_ps"]) == (medium.free_ps, medium.background_ps), m
        assert {name: int(row[name]) for name in COUNTS} == medium.counts, m
    assert (disk["flushes"], disk["compactions"]) == (expected.flushes, expected.compactions)
    assert disk["memtable_blocks"] == len(expected.memtable)
    rows = [tuple(int(found.all.hierarchy.runs[k][name]) for name in ("level", "blocks", "live_blocks")) for k in runs]
    assert rows == [(one.level, len(one.blocks), len(one.living)) for one in expected.segments]
    place = {segment: k for segment, k in zip(expected.segments, runs, strict=True)} | {None: schema.NONE}
    for node in range(found.all.nodes):
        blocks = [(place[block.segment], block.offset) for block in expected.alive.get(node, [])]
        assert [where for one in found.fragments_of(node) for where in places(one, node)] == blocks, node
    figures = disk_figures(found.all.hierarchy, found.d)
    assert figures["write_amplification"] == expected.write_amplification
    assert figures["space_amplification"] == expected.space_amplification


def places(fragment: np.void, node: int) -> list[tuple[int, int]]:
    """Return (run, offset) of each block of a fragment, (-1, -1) in the memtable."""
    assert fragment["node"] == node and fragment["blocks"] > 0
    if fragment["run"] < 0:
        return [(schema.NONE, -1)] * int(fragment["blocks"])
    return [(int(fragment["run"]), int(fragment["offset"]) + k) for k in range(fragment["blocks"])]


def check_rows(disks: list[KernelDisk]) -> None:
    """Check that lists and links fit, tiles have no gap, each row is in one list, and live + dead = written."""
    hierarchy: Any = disks[0].all.hierarchy
    used: list[int] = []
    runs: list[int] = []
    for disk in disks:
        row = hierarchy.disks[disk.d]
        for node in range(disk.all.nodes):
            ends = np.cumsum([one["blocks"] for one in disk.fragments_of(node)])
            assert [int(one["first"]) for one in disk.fragments_of(node)] == [0, *ends[:-1]][: len(ends)]
        used += listed(hierarchy.fragments, int(row["memtable"]), schema.NONE)
        living = 0
        for k in disk.runs():
            there = listed(hierarchy.fragments, int(hierarchy.runs[k]["head"]), k)
            assert hierarchy.fragments["blocks"][there].sum() == hierarchy.runs[k]["live_blocks"]
            living += int(hierarchy.runs[k]["live_blocks"])
            used += there
        assert living + row["dead_blocks"] == row["written_blocks"] == hierarchy.runs["blocks"][disk.runs()].sum()
        runs += disk.runs()
    for taken, rows, k in ((used, hierarchy.fragments, 0), (runs, hierarchy.runs, 1)):
        free, f = [], int(hierarchy.free[k])
        while f >= 0:
            free.append(f)
            f = int(rows[f]["next"])
        assert len(free) == hierarchy.free[2 + k] and sorted(free + taken) == list(range(len(rows)))


def listed(rows: np.ndarray, head: int, run: int) -> list[int]:
    """Return the fragments of a list, and check its links back and to its run."""
    found: list[int] = []
    while head >= 0:
        assert rows[head]["previous"] == (found[-1] if found else schema.NONE) and rows[head]["run"] == run
        found.append(head)
        head = int(rows[head]["next"])
    return found

"""Disks of the kernel against their twin after every step, and what theory says of log-structured merge.

Runs compiled here, and line by line from tests/test_interpreted.py.
"""

from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replay.engine.disks import disk_figures
from replay.kv import Lsm, Medium
from tests.disks import LEFT, KernelDisk, KernelDisks, check_rows, check_same
from tests.twin.disk import Disk
from traces.jit import INTERPRETED

QUICK = settings(max_examples=40 if INTERPRETED else 250, deadline=None, suppress_health_check=list(HealthCheck))
DISKS, NODES, NODE_BLOCKS, MOST_NODES = 2, 6, 12, 3
ROOMY = DISKS * NODES * NODE_BLOCKS  # a fragment a block
TIGHT = DISKS * NODES + MOST_NODES  # the least that `merge_all` makes do
KINDS = ("insert", "insert", "insert", "insert", "trim", "read", "read", "wait", "merge_level", "merge_all", "wipe")

media = st.builds(Medium, st.just("medium"), st.integers(0, 10**9), st.integers(0, 10**13), st.integers(0, 10**13),
                  st.just(0))  # fmt: skip
lsms = st.builds(
    Lsm,
    media=st.lists(media, min_size=1, max_size=3).map(tuple),
    memtable_blocks=st.integers(1, 12),
    levelled=st.booleans(),
    fanout=st.integers(2, 4),
    levels=st.integers(1, 4),
    share=st.integers(1, 999),
)
steps = st.lists(st.tuples(st.sampled_from(KINDS), *[st.integers(0, 1 << 16)] * 3), max_size=60)


@dataclass
class Pair:
    """A disk of the kernel, its twin, and what is resident on both."""

    kernel: KernelDisk
    twin: Disk
    resident: list[int]

    def both(self, name: str, *arguments: object) -> tuple[object, object]:
        """Call a method of both."""
        return getattr(self.kernel, name)(*arguments), getattr(self.twin, name)(*arguments)

    def insert(self, node: int, n: int) -> None:
        """Extend a node by n blocks, as far as it has them."""
        n = min(n, NODE_BLOCKS - self.resident[node])
        if n > 0:
            self.both("insert", node, self.resident[node], n)
            self.resident[node] += n

    def trim(self, node: int, n: int) -> None:
        """Let the last n blocks of a node die, or all."""
        n = min(n, self.resident[node])
        self.both("trim", node, n)
        self.resident[node] -= n

    def settle(self, now_ps: int, doomed: int | None) -> None:
        """Flush and merge; the first merge is preceded by the death of the doomed node, if there is one."""
        if doomed is None:
            self.kernel.settle(now_ps)
            self.twin.settle(now_ps)
            return
        dies = [0, 0]

        def of_kernel() -> None:
            dies[0] += 1
            self.kernel.trim(doomed, self.resident[doomed] if dies[0] == 1 else 0)

        def of_twin() -> None:
            dies[1] += 1
            self.twin.trim(doomed, self.resident[doomed] if dies[1] == 1 else 0)

        self.kernel.settle(now_ps, of_kernel)
        self.twin.settle(now_ps, of_twin)
        assert dies[0] == dies[1]
        if dies[0]:
            self.resident[doomed] = 0

    def read(self, parts: list[tuple[int, int, int]], now_ps: int) -> None:
        """Read from both, and let every medium serve its part."""
        found, expected = self.both("read_cost", parts)
        assert found == expected
        for medium, (operations, blocks) in self.twin.read_cost(parts).items():
            found, expected = self.both("serve", medium, operations, blocks, now_ps)
            assert found == expected


class Machine:
    """Two disks that share the rows of fragments, taken through steps."""

    def __init__(self, lsm: Lsm, rows: int) -> None:
        self.disks = KernelDisks(lsm, DISKS, NODES, rows)
        self.pairs = [Pair(KernelDisk(self.disks, d), Disk(lsm), [0] * NODES) for d in range(DISKS)]
        self.now_ps = 0

    def step(self, kind: str, a: int, b: int, c: int) -> None:
        """Do a step that the numbers describe and compare."""
        pair, node = self.pairs[a % DISKS], a // DISKS % NODES
        if kind == "insert":
            self.make_room()
            for k in range(1 + c % MOST_NODES):
                pair.insert((node + k) % NODES, 1 + (b >> 2 * k) % 4)
            pair.settle(self.now_ps, None if c % 4 else b % NODES)
        elif kind == "trim":
            pair.trim(node, 1 + b % NODE_BLOCKS)
        elif kind == "read":
            order = Random(b).sample(range(NODES), 1 + c % NODES)
            spans = [sorted((Random(b + k).randrange(NODE_BLOCKS + 1), Random(c + k).randrange(NODE_BLOCKS + 1)))
                     for k in order]  # fmt: skip
            ends = [(low, min(high, pair.resident[k])) for k, (low, high) in zip(order, spans, strict=True)]
            parts = [(k, low, high - low) for k, (low, high) in zip(order, ends, strict=True) if high > low]
            whole = [(k, 0, pair.resident[k]) for k in range(NODES)]
            pair.read(whole if b % 3 == 0 else parts, self.now_ps)
        elif kind == "wait":
            self.now_ps += (b + 1) ** (1 + c % 3)
        elif kind == "merge_all":
            pair.both("merge_all", self.now_ps)
        elif kind == "merge_level":
            pair.both("merge", c % pair.twin.lsm.levels, self.now_ps)
        elif kind == "wipe":
            for k in range(NODES):
                pair.trim(k, NODE_BLOCKS)
            pair.both("wipe", self.now_ps)
        self.compare()

    def make_room(self) -> None:
        """Apply the rule of HIERARCHY.md when rows run short."""
        for pair in self.pairs:
            if self.disks.call(LEFT)[0] < MOST_NODES:
                pair.both("merge_all", self.now_ps)
        assert self.disks.call(LEFT)[0] >= MOST_NODES

    def compare(self) -> None:
        """Check kernel against twin, and the laws of both."""
        for pair in self.pairs:
            pair.twin.check()
            check_same(pair.kernel, pair.twin)
        kernels = [pair.kernel for pair in self.pairs]
        check_rows(kernels)
        used = len(self.disks.hierarchy.fragments) - self.disks.call(LEFT)[0]
        assert used == sum(pair.twin.fragments for pair in self.pairs)


@QUICK
@given(lsms, steps, st.sampled_from([ROOMY, TIGHT]))
def test_kernel_equals_twin(lsm: Lsm, done: list[tuple[str, int, int, int]], rows: int) -> None:
    """Every clock, counter, run, and the place of every block after every step; rows and blocks are conserved."""
    machine = Machine(lsm, rows)
    for one in done:
        machine.step(*one)
    machine.compare()


@pytest.mark.parametrize("levelled", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_kernel_equals_twin_in_long_runs(levelled: bool, count: int) -> None:
    """Hundreds of inserts reach the last level and go round it."""
    random = Random(count)
    rates = [Medium("medium", 50 * k + 7, 900 * k + 1300, 2100 + k, 0) for k in range(count)]
    machine = Machine(Lsm(tuple(rates), 5, levelled, 2, 4, 300), ROOMY)
    for _ in range(600):
        kind = random.choice(["insert"] * 6 + ["trim"] * 4 + ["read", "read", "wait", "wait", "merge_level"])
        machine.step(kind, *(random.randrange(1 << 16) for _ in range(3)))
    levels = {segment.level for pair in machine.pairs for segment in pair.twin.segments}
    assert max(levels) == 3


@QUICK
@given(media, st.integers(1, 999), st.lists(st.tuples(*[st.integers(0, 10**n) for n in (3, 6, 15)]), max_size=8))
def test_media_serve_as_the_twins_do(rates: Medium, share: int, reads: list[tuple[int, int, int]]) -> None:
    """Products that do not fit 64 bits on the way are exact; background work lies under some of the reads."""
    lsm = Lsm((rates,), 4, False, 4, 2, share)
    pair = Pair(KernelDisk(KernelDisks(lsm, 1, 1, 4), 0), Disk(lsm), [0])
    now_ps = 0
    for operations, blocks, wait_ps in reads:
        now_ps += wait_ps
        pair.insert(0, 3)
        pair.settle(now_ps, None)
        for asked in ((operations, blocks), (0, 0)):
            found, expected = pair.both("serve", 0, *asked, now_ps)
            assert found == expected
        pair.trim(0, 3)
    check_same(pair.kernel, pair.twin)


def steady(levelled: bool, flushes: int, levels: int = 4) -> KernelDisk:
    """Return a disk after so many memtables of new nodes, without deaths; levels hold 2, 4, ... of them."""
    disk = KernelDisk(KernelDisks(Lsm((Medium("medium", 1, 1, 1, 0),), 4, levelled, 2, levels, 500), 1, flushes,
                                  flushes), 0)  # fmt: skip
    for node in range(flushes):
        disk.insert(node, 0, 4)
        disk.settle(node)
    return disk


@pytest.mark.parametrize("flushes", [1, 2, 3, 7, 8, 15])
def test_tiered_rewrites_a_block_once_a_level(flushes: int) -> None:
    """Until the last level is full, what left a level was written there once: theory's write amplification, exactly."""
    merged = sum(flushes // 2**level * 2**level for level in (1, 2, 3))
    figures = disk_figures(steady(False, flushes).all.hierarchy, 0)
    assert figures["write_amplification"] == (flushes + merged) / flushes <= 4
    assert figures["space_amplification"] == 1 and figures["flush_blocks"] == 4 * flushes
    assert figures["compact_read_blocks"] == figures["compact_write_blocks"] == 4 * merged


def test_levelled_rewrites_more_and_keeps_fewer_runs() -> None:
    tiered, levelled = steady(False, 15), steady(True, 15)
    more = [disk_figures(disk.all.hierarchy, 0)["write_amplification"] for disk in (tiered, levelled)]
    assert more[1] > more[0]
    assert len(levelled.runs()) < len(tiered.runs()) == 4


@pytest.mark.parametrize("levelled", [False, True])
def test_a_chain_reads_in_one_operation_after_a_full_merge(levelled: bool) -> None:
    """Grown a block at a time it lies in several runs; merged, its nodes follow one another."""
    disk = KernelDisk(KernelDisks(Lsm((Medium("medium", 1, 1, 1, 0),), 4, levelled, 3, 3, 500), 1, 3, 40), 0)
    path = [(0, 0, 11), (1, 0, 11), (2, 0, 11)]
    for first in range(11):
        for node in range(3):
            disk.insert(node, first, 1)
        disk.settle(first)
    assert disk.read_cost(path)[0][0] > 1
    disk.merge_all(100)
    assert disk.read_cost(path) == {0: (1, 33)}
    assert disk.read_cost([(0, 0, 11), (2, 0, 11)]) == {0: (2, 22)}
    disk.trim(2, 4)
    assert disk.read_cost([(1, 3, 8), (2, 0, 7)]) == {0: (1, 15)}


def test_a_merge_of_dead_blocks_leaves_no_run() -> None:
    disk = KernelDisk(KernelDisks(Lsm((Medium("medium", 10, 1000, 1000, 0),), 2, False, 2, 2, 500), 1, 2, 4), 0)
    disk.insert(0, 0, 2)
    disk.settle(0)
    disk.trim(0, 2)
    disk.insert(1, 0, 2)
    disk.settle(0, lambda: disk.trim(1, 2))
    assert not disk.runs() and not disk.fragments_of(1)
    row = disk.all.hierarchy.media[0]
    assert (row["compact_ops"], row["compact_read_blocks"], row["compact_write_blocks"]) == (2, 4, 0)
    assert row["background_ps"] == 2 * 4 * 12  # two writes and two reads of 10 + 2, each at half the rate


def test_reads_beside_background_work_by_hand() -> None:
    """Until 4 half of the medium's time is taken; at 1 its half is worth one operation and a half."""
    disk = KernelDisk(KernelDisks(Lsm((Medium("medium", 1, 1000, 0, 0),), 1, False, 3, 2, 500), 1, 2, 4), 0)
    for node in range(2):
        disk.insert(node, 0, 1)
        disk.settle(0)
    assert disk.all.hierarchy.media[0]["background_ps"] == 4
    assert disk.serve(0, 1, 0, 1) == (1, 3)
    assert disk.serve(0, 1, 1, 1) == (3, 6)  # of two, none in what is left until 4: half of 1 is rounded down
    assert disk.serve(0, 0, 2, 1) == (6, 8)

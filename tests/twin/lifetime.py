"""What expires, leaves, is drained, joins and fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from replay.kv import DISK, DRAM, Change
from tests.twin.chains import Run
from tests.twin.movement import ended
from tests.twin.stores import Store

if TYPE_CHECKING:
    from tests.twin.hierarchy import Hierarchy


@dataclass(frozen=True)
class Move:
    """A node on its way from a store that is drained to another."""

    store: Store
    run: Run
    blocks: int
    target: Store
    life: int
    target_life: int
    whole: bool


def collect(h: Hierarchy) -> None:
    """Free what is dead everywhere, and come again if anything else is to happen."""
    caches = [server.blocks for server in h.twin.servers] + [store.cache for store in h.stores]
    h.shards.sweep(sum(cache.expire() for cache in caches))
    if h.twin.goes_on():
        h.push(h.clock.now + h.kv.gc_ps, "gc", None)


def change(h: Hierarchy, entry: Change) -> None:
    """Do what the schedule says."""
    tier = DISK if entry.what.endswith("disk") else DRAM
    store = next(store for store in h.stores if store.tier == tier and store.spec.node == entry.node)
    if entry.what in ("join", "repair_disk"):
        join(h, store)
    elif entry.what == "drain":
        drain(h, store, entry.deadline_ps)
    elif store.present:
        leave(h, store)


def leave(h: Hierarchy, store: Store) -> None:
    """Take a store out with all that it holds."""
    store.present, store.leaving = False, False
    close(h, store)
    now = h.clock.now
    touched = [load for load in h.loads if any(segment.store is store for segment in load.segments)]
    for load in sorted(touched, key=lambda load: load.request.row):
        arrived = load.arrived(now)
        for segment in load.segments:
            segment.end = max(segment.first, min(segment.end, arrived))
        load.end_ps, load.reach = now, arrived
        load.request.load_ps = now - load.issued_ps
        ended(h, load)
    for copy in store.writes:
        if copy.life == store.life:
            store.written.cut += copy.blocks - copy.base
    held = store.cache.total_blocks - store.cache.free_blocks
    store.cache.drop()
    store.life += 1
    if h.fates.nodes is not None:
        h.fates.nodes.left(store, held)
    store.read_free_ps, store.write_free_ps = min(store.read_free_ps, now), min(store.write_free_ps, now)
    if store.disk is not None:
        store.disk.wipe(now)


def close(h: Hierarchy, store: Store) -> None:
    """Give a store no keys any more."""
    if store.index < h.kv.shared_nodes:
        h.ring.close(store.index)


def join(h: Hierarchy, store: Store) -> None:
    """Bring a store back, empty."""
    if store.present:
        return
    store.present = True
    if store.index < h.kv.shared_nodes:
        h.ring.join(store.index)


def drain(h: Hierarchy, store: Store, deadline_ps: int) -> None:
    """Begin to move what a store holds to where it belongs from now on."""
    if not store.present or store.leaving:
        return
    store.leaving, store.drained_to = True, -1
    close(h, store)
    h.push(max(deadline_ps, h.clock.now), "deadline", (store, store.life))
    move_next(h, store)


def deadline(h: Hierarchy, store: Store, life: int) -> None:
    """End a drain that is not done."""
    if store.life == life:
        leave(h, store)


def move_next(h: Hierarchy, store: Store) -> None:
    """Send the next node that has a place, or leave."""
    while left := [run for run in store.cache.residents if run.node > store.drained_to]:
        run = min(left, key=lambda run: run.node)
        store.drained_to = run.node
        resident = store.cache.residents[run]
        home = next(iter(h.homes(run.lineage)), None)
        if home is None or not store.cache.alive(resident):
            continue
        there = home.cache.raw_blocks(run.lineage)
        if not run.start_blocks <= there < resident.end:
            continue
        blocks = len(resident.blocks)
        whole = resident.whole and resident.complete
        move = Move(store, run, blocks, home, store.life, home.life, whole)
        if h.network is not None:
            send_move(h, move)
            return
        begin_ps = max(h.clock.now, store.read_free_ps, home.write_free_ps)
        slower_fs = max(store.spec.read_block_fs, home.spec.write_block_fs)
        store.read_free_ps = home.write_free_ps = begin_ps + blocks * slower_fs // 1000
        h.push(store.read_free_ps, "drained", move)
        return
    leave(h, store)


def send_move(h: Hierarchy, move: Move) -> None:
    """Send a node that is drained over the fabric."""
    assert h.network is not None
    first, size = len(h.twin.servers), move.blocks * h.kv.block_bytes
    came = lambda: h.push(h.clock.now, "drained", move)  # noqa: E731
    h.network.begin(first + move.store.index, first + move.target.index, size, "drain", came)


def drained(h: Hierarchy, move: Move) -> None:
    """Take a moved node in, and go on with the next."""
    if move.store.life != move.life:
        return
    if move.target.life == move.target_life:
        chain = move.run.lineage
        if move.target.cache.raw_blocks(chain) >= move.run.start_blocks:
            move.target.cache.insert(chain, move.run.start_blocks + move.blocks, move.whole)
    move_next(h, move.store)

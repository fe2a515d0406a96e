"""Copies from instances into stores, and what stores spill."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.twin.chains import Run
from tests.twin.plain import Request, Server
from tests.twin.stores import Store, Write

if TYPE_CHECKING:
    from tests.twin.hierarchy import Hierarchy


def published(h: Hierarchy, request: Request, server: Server) -> None:
    """Write a prompt that was just published, as far as the policy wants."""
    for run in reversed(request.chain):
        resident = server.blocks.residents[run]
        if h.wants_write(server.blocks.seen(resident), evicting=0):
            write_all(h, server, run, run.end_blocks, resident.whole)
            return


def write_all(h: Hierarchy, server: Server, run: Run, blocks: int, whole: bool) -> None:
    """Write the path that ends in a run to wherever it belongs."""
    if h.has_dram:
        targets = [h.private_dram(server), *h.homes(run.lineage)]
    else:
        targets = [h.private_disk(server) or h.common_disk]
    for store in targets:
        if store is not None:
            write(h, server, store, run, blocks, whole)


def write(h: Hierarchy, server: Server, store: Store, run: Run, blocks: int, whole: bool) -> None:
    """Send the blocks of a path that lack in a store, if it takes writes and has a place for one more."""
    path = store.cache.visible(run.lineage)
    base = sum(len(resident.blocks) for resident in path)
    same = any(
        other.run is run and other.blocks >= blocks and other.life == store.life for other in store.writes
    )
    if not store.present or store.leaving or base >= blocks or same:
        return
    if len(store.writes) >= h.kv.writes:
        store.dropped_writes += 1
        return
    store.cache.pin(path)
    sent = blocks - base
    copy = Write(store, run, blocks, base, len(path), store.life, whole, server, server.wipes)
    store.writes.append(copy)
    store.written.sent += sent
    if h.network is not None:
        size, target = sent * h.kv.block_bytes, len(h.twin.servers) + store.index
        h.network.begin(server.index, target, size, "write", lambda: h.push(h.clock.now, "written", copy))
        return
    begin_ps = max(h.clock.now, store.write_free_ps)
    store.write_free_ps = begin_ps + sent * store.write_block_fs // 1000
    store.write_busy_ps += store.write_free_ps - begin_ps
    h.push(store.write_free_ps + store.spec.latency_ps, "written", copy)


def written(h: Hierarchy, copy: Write) -> None:
    """Take in a copy that is all there."""
    store = copy.store
    store.writes.remove(copy)
    if copy.life != store.life:
        return
    chain = copy.run.lineage
    store.cache.release(chain, copy.held)
    if store.cache.visible_blocks(chain) >= copy.base and copy.source.wipes == copy.wipes:
        store.cache.insert(chain, copy.blocks, copy.whole)
        store.written.landed += copy.blocks - copy.base
    else:
        store.written.wasted += copy.blocks - copy.base


def work_off_spills(h: Hierarchy) -> None:
    """Handle what was evicted during an event, in order; the list may grow meanwhile."""
    while h.spills:
        spill = h.spills.pop(0)
        if isinstance(spill.holder, Server):
            write_all(h, spill.holder, spill.run, spill.end, spill.whole)
            continue
        disk = h.below(spill.holder)
        assert disk is not None
        if not disk.present:
            continue
        before = disk.cache.inserted_blocks
        disk.cache.insert(spill.run.lineage, spill.end, spill.whole)
        came, first = disk.cache.inserted_blocks - before, len(h.twin.servers)
        if h.network is not None and not disk.local and came:
            size = came * h.kv.block_bytes
            h.network.begin(first + spill.holder.index, first + disk.index, size, "write")

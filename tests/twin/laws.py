"""What must hold after every event, whatever the policies do."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.twin.chains import Run
from tests.twin.stores import UNDER_WAY, Moved, Store

if TYPE_CHECKING:
    from tests.twin.hierarchy import Hierarchy
    from tests.twin.plain import Server


def check(h: Hierarchy) -> None:
    """Fail if a block, a pin or a byte was lost or made."""
    assert not h.spills
    for server in h.twin.servers:
        check_instance(h, server)
    for store in h.stores:
        store.cache.check()
        assert store.cache.private_blocks == 0
        assert store.present or not store.cache.residents, "an absent store holds blocks"
        assert pins(store.cache.residents) == held_by_moves(h, store)
        assert len(store.writes) <= h.kv.writes
        check_moves(h, store)
        if store.disk is not None:
            store.disk.check()
            there = {node: len(blocks) for node, blocks in store.disk.alive.items() if blocks}
            assert there == {run.node: len(kept.blocks) for run, kept in store.cache.residents.items()}
    for request in h.twin.requests:
        check_belief(h, request)


def check_end(h: Hierarchy) -> None:
    """Fail if anything is held or under way when nothing is to happen any more."""
    assert not h.loads and not any(store.writes for store in h.stores)
    holders = [server.blocks for server in h.twin.servers] + [store.cache for store in h.stores]
    assert not any(resident.pins for holder in holders for resident in holder.residents.values())
    assert not any(server.pending_loads for server in h.twin.servers if h.kv.prefetch and not server.queue)


def check_instance(h: Hierarchy, server: Server) -> None:
    """Fail if an instance counts loads that are none, or pins that nobody has."""
    assert server.loads_under_way == sum(load.server is server for load in h.loads)
    if h.kv.prefetch:
        assert server.loads_under_way <= h.kv.in_flight
    held: Counter[Run] = Counter()
    sent = [delivery[1] for delivery in server.link.deliveries]
    sent += h.twin.lives.kept_on(server) if h.twin.lives is not None else []
    for request in server.running + sent:
        held.update(request.context_chain[: request.held_runs])
    assert pins(server.blocks.residents) == held
    assert not any(request.waits for request in server.queue + server.running)
    assert not any(load.stands for load in h.loads if load.request in server.running)


def pins(residents: dict) -> Counter:
    """Count the pins of every run that has some."""
    return Counter({run: resident.pins for run, resident in residents.items() if resident.pins})


def held_by_moves(h: Hierarchy, store: Store) -> Counter:
    """Count what loads and writes hold of a store."""
    held: Counter[Run] = Counter()
    for load in h.loads:
        for segment in load.segments:
            if segment.store is store:
                held.update(load.request.chain[: segment.held])
    for copy in store.writes:
        if copy.life == store.life:
            held.update(copy.run.lineage[: copy.held])
    return held


def check_moves(h: Hierarchy, store: Store) -> None:
    """Fail unless all that was sent has landed, was cut or wasted, or is under way."""
    reading = sum(
        end - first
        for load in h.loads
        if load.stands and load.state == UNDER_WAY
        for segment, (_, first, end) in zip(load.segments, load.parts, strict=True)
        if segment.store is store
    )
    writing = sum(copy.blocks - copy.base for copy in store.writes if copy.life == store.life)
    for moved, under_way in ((store.read, reading), (store.written, writing)):
        assert balance(moved) == under_way >= 0


def balance(moved: Moved) -> int:
    """Return what was sent and has no fate yet."""
    return moved.sent - moved.landed - moved.cut - moved.wasted


def check_belief(h: Hierarchy, request: object) -> None:
    """Fail if a lookup counts a block that is nowhere, or one behind a block that lacks."""
    chain = request.chain  # type: ignore[attr-defined]
    for cache in [server.blocks for server in h.twin.prefillers] + [store.cache for store in h.stores]:
        visible, there = cache.visible_blocks(chain), 0
        for run in chain if cache.enabled else []:
            blocks = len(cache.residents[run].blocks) if run in cache.residents else 0
            there += blocks
            if blocks < len(run.blocks):
                break
        assert visible <= there == cache.raw_blocks(chain)
        now = h.clock.now
        for run in chain:
            resident = cache.residents.get(run)
            assert cache.blocks_at(run, now) == (len(resident.blocks) if resident else 0), "the log is behind"

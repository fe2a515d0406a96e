"""Loads from stores into the HBM of an instance: started, landed, or cut when their request runs."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from replay.kv import DISK, DRAM
from tests.twin.chains import end_of, key_of
from tests.twin.plain import PS_PER_S, Request, Server
from tests.twin.plans import S, book, compute_s, plan, segments_for, source_of
from tests.twin.stores import OVER, PENDING, UNDER_WAY, Load, Segment
from tests.twin.traffic import load_came

if TYPE_CHECKING:
    from tests.twin.hierarchy import Hierarchy


def dispatched(h: Hierarchy, request: Request, server: Server) -> bool:
    """Plan a load for a request that was just sent to an instance; True if the request waits for it."""
    if request.load is not None and request.load.state == UNDER_WAY:
        return False  # to an instance that it left since it was lost
    load, wait_s = plan(h, request, server)
    if load is None:
        return False
    request.load = load
    if server.loads_under_way < h.kv.in_flight:
        start(h, load)
    else:
        server.pending_loads.append(load)
    if not wait_s > 0:
        return False
    request.waits = True
    if isfinite(wait_s):
        h.push(h.clock.now + round(wait_s * PS_PER_S), "timeout", (request, load))
    return True


def start(h: Hierarchy, load: Load) -> None:
    """Send the segments of a load."""
    chain, now = load.request.chain, h.clock.now
    load.state, load.issued_ps = UNDER_WAY, now
    for segment in load.segments:
        store, blocks = segment.store, segment.end - segment.first
        book(h, chain, load.server, segment)
        path = store.cache.visible(chain)
        store.cache.pin(path)
        segment.held, segment.life = len(path), store.life
        if h.network is not None:
            ship(h, load, segment)
        store.read.sent += blocks
    load.end_ps = load.media_ps = max(segment.end_ps for segment in load.segments)
    load.sent = load.cur - load.base
    load.parts = [(segment.store.tier, segment.first, segment.end) for segment in load.segments]
    load.server.loads_under_way += 1
    load.request.load_ps = load.end_ps - now
    h.loads.append(load)
    if h.network is None:
        h.push(load.end_ps, "loaded", load)
    if any(segment.store.index < h.kv.shared_nodes for segment in load.segments):
        key = key_of(chain, h.kv.key_blocks)
        assert key is not None
        h.reads[key] = h.reads.get(key, 0) + 1


def ship(h: Hierarchy, load: Load, segment: Segment) -> None:
    """Send a segment over the fabric; the load is there when all of them are and the media are through."""
    assert h.network is not None
    load.shipments += 1

    def came() -> None:
        load.shipments -= 1
        if load.shipments == 0 and load in h.loads:
            load.end_ps = max(h.clock.now, load.media_ps)
            load.request.load_ps = load.end_ps - load.issued_ps
            h.push(load.end_ps, "loaded", load)

    size = (segment.end - segment.first) * h.kv.block_bytes
    segment.transfer = h.network.begin(source_of(h, segment), load.server.index, size, "load", came)
    segment.network = h.network


def ended(h: Hierarchy, load: Load) -> None:
    """End a load that is all there, or was cut to what is: let go of its sources, land it, start the next."""
    chain = load.request.chain
    for segment in load.segments:
        dram = segment.above
        comes = h.kv.promote and segment.store.tier == DISK and segment.end > segment.first
        if comes and dram and dram.present and not dram.leaving:
            if dram.cache.raw_blocks(chain) >= segment.first:
                dram.cache.insert(chain, segment.end, segment.end == end_of(chain))
        if segment.life == segment.store.life:
            segment.store.cache.release(chain, segment.held)
    load.state = OVER
    h.loads.remove(load)
    if load.stands:
        land(h, load)
    if load.request in load.server.awaited and load.request.load is load:
        load_came(h.twin, load.server, load.request)
    load.server.loads_under_way -= 1
    start_pending(h, load.server)


def land(h: Hierarchy, load: Load) -> None:
    """Put what was loaded into the cache of the instance, and the request into its queue."""
    cache, chain = load.server.blocks, load.request.chain
    if h.whole_units(cache.visible_blocks(chain)) >= load.base:
        cache.insert(chain, load.cur, load.cur == end_of(chain))
        settle(load, load.cur, "cut")
    else:
        settle(load, -1, "wasted")
    if load.request.waits:
        stop_waiting(h, load.request, load.server)


def settle(load: Load, landed: int, rest: str) -> None:
    """Decide what becomes of a load: so many blocks of the path are used, the rest is cut or wasted."""
    load.stands = False
    load.landed = landed
    for segment, (_, first, end) in zip(load.segments, load.parts, strict=True):
        used = max(0, min(end, landed) - first)
        segment.store.read.landed += used
        left = getattr(segment.store.read, rest) + end - first - used
        setattr(segment.store.read, rest, left)


def start_pending(h: Hierarchy, server: Server) -> None:
    """Start loads that wait for a place, planned anew."""
    while server.loads_under_way < h.kv.in_flight and server.pending_loads:
        load = server.pending_loads.pop(0)
        if not load.stands:
            continue
        load.base, load.segments = segments_for(h, load.request.chain, server, load.tier)
        if load.segments:
            start(h, load)
            continue
        load.state, load.stands = OVER, False
        if load.request.waits:
            stop_waiting(h, load.request, server)


def timed_out(h: Hierarchy, request: Request, load: Load) -> None:
    """Let a request queue whose load takes too long."""
    if request.waits and request.load is load:
        assert request.load is not None
        stop_waiting(h, request, request.load.server)


def stop_waiting(h: Hierarchy, request: Request, server: Server) -> None:
    """Put a request that waited for its load into the queue."""
    request.waits = False
    if not server.queue:
        request.exposed_ps += max(0, h.clock.now - max(request.ready_ps, server.empty_since_ps))
    h.twin.enqueue(request, server)


# a load when its request comes to run


def conclude(h: Hierarchy, server: Server, head: Request) -> None:
    """Decide what the load of the head of a queue is worth to it now: `counted_blocks` and `stall_ps`."""
    head.counted_blocks = head.stall_ps = 0
    if not h.kv.prefetch:
        on_demand(h, server, head)
        return
    load = head.load
    if load is None or not load.stands:
        return
    under_way, now = load.state == UNDER_WAY, h.clock.now
    arrived = load.arrived(now) if under_way else load.base
    there = h.whole_units(server.blocks.visible_blocks(head.chain)) >= load.base
    if h.kv.overlap and under_way and there:
        a, b = server.usable(arrived, head.context), server.usable(load.cur, head.context)
        if (expected_end(load, now) - now) * S <= compute_s(server, a, b):
            count(load, now)
            return
    arrived = h.whole_units(min(arrived, end_with_room(server, head)))
    if there and arrived > load.base:
        server.blocks.insert(head.chain, arrived, arrived == end_of(head.chain))
    if under_way:
        landed = there and arrived > load.base
        settle(load, arrived if landed else -1, "cut" if there else "wasted")
    load.stands = False


def end_with_room(server: Server, head: Request) -> int:
    """Return up to which block KV may enter an instance: what extends a held run is held, and decodes need room."""
    path = server.blocks.path(head.chain)
    if not path or path[-1].complete or path[-1].pins == 0:
        return 10**9
    room = server.blocks.free_blocks + server.blocks.cached_blocks - server.growth()
    return server.blocks.raw_blocks(head.chain) + max(0, room)


def expected_end(load: Load, now_ps: int) -> int:
    """Return when a load is there, as far as can be said now."""
    ends = [s.network.expected_end(s.transfer) for s in load.segments if s.network and not s.transfer.delivered]
    return max(load.media_ps, now_ps, *ends) if load.segments[0].network else load.end_ps


def on_demand(h: Hierarchy, server: Server, head: Request) -> None:
    """Start a load for the head of a queue, which runs when it is there."""
    load = head.load
    if head.scheduled_ps >= 0 and not head.anew:
        return
    if load is None or (load.state == OVER and load.landed < 0):
        load, _ = plan(h, head, server)
        if load is None:
            return
        head.load = load
        start(h, load)
    if not load.stands:
        return
    if h.whole_units(server.blocks.visible_blocks(head.chain)) >= load.base:
        count(load, h.clock.now)
    else:
        settle(load, -1, "wasted")


def count(load: Load, now_ps: int) -> None:
    """Let a request count on a load that is still under way; once it runs, nothing is left to land."""
    load.request.counted_blocks = load.cur
    load.request.stall_ps = load.end_ps - now_ps


def admitted(server: Server, request: Request, hit: int, first: bool) -> None:
    """Close the load of a request that runs now, and say which tier its tokens came from."""
    load = request.load
    if request.counted_blocks:
        assert load is not None and load.state != PENDING
        settle(load, load.cur, "cut")
        if load.segments[0].network:
            server.awaited.append(request)
        else:
            server.stalls.append((request.stall_ps, request))
        request.counted_blocks = 0
    if not first:
        return
    tokens = {DRAM: 0, DISK: 0}
    if load is not None and load.landed >= 0:
        for tier, start_blocks, end_blocks in load.parts:
            low, high = (
                min(hit, server.usable(min(blocks, load.landed), request.context))
                for blocks in (start_blocks, end_blocks)
            )
            tokens[tier] += high - low
    request.dram_tokens, request.disk_tokens = tokens[DRAM], tokens[DISK]
    request.hbm_tokens = hit - tokens[DRAM] - tokens[DISK]

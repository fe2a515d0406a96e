"""What a load could bring an instance, from where and how soon; what a fetch policy is offered and says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from replay.kv import DISK, DRAM
from tests.twin.chains import Run
from tests.twin.plain import Request, Server
from tests.twin.stores import Load, Segment, Store

if TYPE_CHECKING:
    from tests.twin.hierarchy import Hierarchy

S = 1e-12


# where a path could come from


def candidates(h: Hierarchy, chain: list[Run], server: Server) -> list[Store]:
    """Return the stores to look at for a path, in order."""
    homes = h.homes(chain)
    private = h.private_dram(server)
    own = h.private_disk(server)
    if private is not None:
        below = h.below(private)
        own = below if below is not None and below.local else None
    under = [disk for home in homes if (disk := h.below(home)) is not None and disk.local]

    def best(stores: list[Store], cards: bool) -> Store | None:
        there = [store for store in stores if store.present]
        rank = {s: (-s.cache.visible_blocks(chain), s.read_free_ps if cards else 0, s.index) for s in there}
        return min(there, key=lambda store: rank[store], default=None)

    found = [private, best(homes, True), own, best(under, False), h.common_disk]
    return [store for store in found if store is not None and store.present]


def segments_for(h: Hierarchy, chain: list[Run], server: Server, tier: int) -> tuple[int, list[Segment]]:
    """Return the blocks usable on an instance, and what stores up to a tier can add."""
    base = cur = h.whole_units(server.blocks.visible_blocks(chain))
    found = []
    for store in candidates(h, chain, server) if chain else []:
        visible = h.whole_units(store.cache.visible_blocks(chain))
        if visible > cur:
            found.append(Segment(store, cur, visible))
            cur = visible
    return base, [segment for segment in found if segment.store.tier <= tier]


def plan(h: Hierarchy, request: Request, server: Server) -> tuple[Load | None, float]:
    """Ask whether to load what stores have of a prompt; returns the load, not started, and the time to wait for it."""
    base, segments = segments_for(h, request.chain, server, DISK)
    if not segments:
        return None, 0.0
    offer = offer_of(h, request, server, base, segments)
    tier, wait_s = h.policies["fetch"](request.seen(), server.seen(offer.hbm_tokens), offer, h.clock.now)
    kept = [segment for segment in segments if segment.store.tier <= tier]
    return (Load(request, server, base, int(tier), kept), float(wait_s)) if kept else (None, 0.0)


def offer_of(h: Hierarchy, request: Request, server: Server, base: int, segments: list[Segment]) -> SimpleNamespace:
    """Return what a fetch policy may know of a load."""
    last = {segment.store.tier: segment for segment in segments}
    dram = last[DRAM].end if DRAM in last else base
    hbm_tokens, dram_tokens, disk_tokens = (
        server.usable(blocks, request.context) for blocks in (base, dram, segments[-1].end)
    )
    ends = estimate(h, request.chain, server, segments)
    dram_ps = max((end for tier, end in ends if tier == DRAM), default=h.clock.now) - h.clock.now
    all_ps = max(end for _, end in ends) - h.clock.now
    return SimpleNamespace(
        hbm_tokens=hbm_tokens,
        dram_tokens=dram_tokens,
        disk_tokens=disk_tokens,
        dram_s=dram_ps * S,
        disk_s=all_ps * S,
        dram_compute_s=compute_s(server, hbm_tokens, dram_tokens),
        disk_compute_s=compute_s(server, hbm_tokens, disk_tokens),
    )


def compute_s(server: Server, a: int, b: int) -> float:
    """Return the time to prefill tokens [a, b) of a prompt, by the coefficients that policies see."""
    token_s, token_sq_s = server.nominal["prefill_token_s"], server.nominal["prefill_token_sq_s"]
    return token_s * (b - a) + token_sq_s * (b * b - a * a)


# time on cards and media


def estimate(h: Hierarchy, chain: list[Run], server: Server, segments: list[Segment]) -> list[tuple[int, int]]:
    """Return (tier, end) of segments as if started now, and leave everything as it was."""
    cards = [(store.read_free_ps, store.read_busy_ps) for store in h.stores]
    clocks = [clock for store in h.stores if store.disk for clock in store.disk.media]
    media = [(clock, clock.free_ps, dict(clock.counts)) for clock in clocks]
    ends = []
    for segment in segments:
        book(h, chain, server, segment)
        end_ps = segment.end_ps
        if h.network is not None:
            size = (segment.end - segment.first) * h.kv.block_bytes
            quote = h.network.quote(source_of(h, segment), server.index, size, "load")
            end_ps = max(end_ps, h.clock.now + quote)
        ends.append((segment.store.tier, end_ps))
    for store, times in zip(h.stores, cards, strict=True):
        store.read_free_ps, store.read_busy_ps = times
    for clock, free_ps, counts in media:
        clock.free_ps, clock.counts = free_ps, counts
    return ends


def book(h: Hierarchy, chain: list[Run], server: Server, segment: Segment) -> None:
    """Put a segment on the cards and media that it needs, from now on."""
    now, store, blocks = h.clock.now, segment.store, segment.end - segment.first
    if store.disk is None and h.network is not None:
        segment.start_ps = segment.end_ps = now
        return
    if store.disk is None:
        segment.start_ps, segment.end_ps = store.carry(now, blocks)
        return
    starts, ends = [], [now]
    for medium, (ops, read) in store.disk.read_cost(parts_of(chain, segment.first, segment.end)).items():
        start, done = store.disk.serve(medium, ops, read, now)
        starts.append(start)
        ends.append(done + h.kv.lsm.media[medium].latency_ps)
    segment.above = above(h, chain, server, store)
    if segment.above is not None and h.network is None:
        start, done = segment.above.carry(now, blocks)
        starts.append(start)
        ends.append(done)
    segment.start_ps, segment.end_ps = min(starts, default=now), max(ends)


def source_of(h: Hierarchy, segment: Segment) -> int:
    """Return the endpoint that sends a segment: of a local disk that of the DRAM above, if it is there."""
    own = segment.above is None or not segment.store.local
    store = segment.store if own or segment.above is None else segment.above
    return len(h.twin.servers) + store.index


def parts_of(chain: list[Run], first: int, end: int) -> list[tuple[int, int, int]]:
    """Return (node, its first block, blocks) of the blocks [first, end) of a path."""
    cuts = [(run, max(first, run.start_blocks), min(end, run.end_blocks)) for run in chain]
    return [(run.node, low - run.start_blocks, high - low) for run, low, high in cuts if low < high]


def above(h: Hierarchy, chain: list[Run], server: Server, disk: Store) -> Store | None:
    """Return the DRAM that a disk's blocks pass through, if it is there."""
    if disk.local:
        found = next((store for store in h.stores if store.spec.below == disk.index), None)
    else:
        found = next(iter(h.homes(chain)), None) or h.private_dram(server)
    return found if found is not None and found.present else None

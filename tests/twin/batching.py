"""One iteration of an instance in the twin: who runs, who is preempted, who is admitted, what they get done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.twin.chains import end_of
from tests.twin.links import hand_off
from tests.twin.movement import admitted
from tests.twin.plain import OPEN, Request, Server, ceil_div, lookup_ps
from tests.twin.traffic import send_rest, sends_parts, start_traffic

if TYPE_CHECKING:
    from tests.twin.model import Twin


def room(server: Server) -> int:
    """Return the blocks that can be had: free, or cached without a user."""
    return server.blocks.free_blocks + server.blocks.cached_blocks


def make_room(twin: Twin, server: Server) -> bool:
    """Preempt the worst until the decoding requests can grow; True if anybody had to go."""
    pressed = False
    while server.growth() > room(server):
        preempt(twin, server, server.worst)
        pressed = True
    return pressed


def preempt_by_order(twin: Twin, server: Server, left: int) -> None:
    """Let the head of the queue take the place of a running request that it outranks by more than its margin.

    At most as often as there were running requests, so that two cannot push each other out for ever.
    """
    for _ in range(len(server.running)):
        head = server.head
        if head is None:
            return
        wants = head.handed_off or left > 0
        blocked = len(server.running) >= server.max_batch or not server.fits(head)
        worst = server.worst
        if not (wants and blocked and worst is not None and head.key < worst.key - head.margin):
            return
        preempt(twin, server, worst)


def preempt(twin: Twin, server: Server, request: Request | None) -> None:
    """Send a running request back to the queue, its KV lost."""
    assert request is not None, "no request left to preempt"
    if request in server.decoding:
        server.decoding.remove(request)
        keep_output(twin, server, request)
    else:
        server.prefilling.remove(request)
    twin.release(request, server)
    request.handed_off = False
    request.preemptions += 1
    request.parts_under_way = 0
    request.prefilled = 0
    request.prefill_left = 0
    server.waiting += 1
    server.waiting_tokens += request.context
    server.queued_tokens += request.context - request.charged
    request.charged = request.context
    twin.desk.stopped(request)
    twin.wait(request, server)


def admit_waiting(twin: Twin, server: Server, tokens: int, whole: bool, pressed: bool) -> bool:
    """Share the iteration's tokens among running prefills and then waiting requests; True if one was admitted."""
    left, given = tokens, 0
    for request in server.prefilling:
        chunk = chunk_of(request.prefill_left, left, given, whole)
        if chunk == 0:
            break
        request.chunk = (request.prefilled, request.prefilled + chunk)
        left, given = max(0, left - chunk), given + chunk
    admitted = False
    seen_ps, places, less = server.seen_ps, server.max_batch - server.late_places, server.late_blocks
    if not given and not server.decoding:  # there was nothing to form a batch of before
        seen_ps, places, less = None, server.max_batch, 0
    while not pressed and (head := server.head) is not None and len(server.running) < places:
        if seen_ps is not None and head.queued_ps > seen_ps:
            break
        if not head.handed_off:
            if left <= 0:
                break
            if twin.hierarchy is not None:
                twin.hierarchy.conclude(server, head)
            length = head.context - admission_hit(head, server)
            if whole and given and length > left:
                break
        if not server.fits(head, less):
            break
        admit(twin, server, head)
        admitted = True
        if not head.handed_off:
            chunk = chunk_of(head.prefill_left, left, given, whole)
            head.chunk = (head.prefilled, head.prefilled + chunk)
            left, given = max(0, left - chunk), given + chunk
    return admitted


def chunk_of(wanted: int, left: int, given: int, whole: bool) -> int:
    """Return the tokens that a prefill gets in this iteration."""
    if whole:
        return wanted if given == 0 or wanted <= left else 0
    return min(left, wanted)


def admission_hit(request: Request, server: Server) -> int:
    """Return the tokens that a waiting request need not compute if admitted now."""
    blocks = max(server.blocks.visible_blocks(request.findable), request.counted_blocks, request.came_blocks)
    return server.usable(blocks, request.context)


def admit(twin: Twin, server: Server, request: Request) -> None:
    """Move a waiting request into the batch with its blocks."""
    server.queue.remove(request)
    if not server.queue:
        server.empty_since_ps = twin.now
    needed, _ = server.needs(request)
    hit = 0
    if request.handed_off:
        server.decoding.append(request)
    else:
        hit = admission_hit(request, server)
        path = server.path(request)
        if path:
            server.blocks.count_reuse(request.findable, server.blocks.rules.group(request.kind, request.turn))
        server.blocks.pin(path)
        request.held_runs = len(path)
        request.blocks_reused = server.path_blocks(request)
        request.prefilled = hit
        request.prefill_left = request.context - hit
        request.cached_tokens = hit
        request.anew = False
        server.prefilling.append(request)
        admitted(server, request, hit, request.scheduled_ps < 0)
        if request.losses:
            own = server.usable(request.blocks_reused, request.context)
            request.restored_tokens += max(0, server.usable(request.came_blocks, request.context) - own)
            request.recomputed_tokens += max(0, min(request.lost_kv, request.context) - hit)
            request.lost_kv = request.came_blocks = request.replica_blocks = 0
            request.sendable_ps = twin.now
    server.blocks.take(needed)
    request.private_blocks = needed
    server.waiting -= 1
    server.waiting_tokens -= request.context
    server.queued_tokens += request.prefill_left - request.charged
    request.charged = request.prefill_left
    if request.scheduled_ps < 0:
        request.scheduled_ps = twin.now
        request.hit_tokens = hit
    twin.desk.admitted(request, server, request.prefill_left > 0)
    for other in server.queue if twin.fair else []:
        twin.rank(other, server)


def start_iteration(twin: Twin, server: Server, decode: bool) -> None:
    """Begin an iteration with what was given out, unless there is nothing to do."""
    chunks = [request.chunk for request in server.prefilling if request.chunk is not None]
    tokens = sum(end - start for start, end in chunks)
    if len(server.group) == 1 and tokens == 0 and not server.decoding:
        server.end_ps = None
        return
    server.decodes_run = list(server.decoding) if decode or tokens == 0 else []
    growing = [(request, server.grows(request)) for request in server.decodes_run]
    server.blocks.take(sum(blocks for _, blocks in growing))
    for request, blocks in growing:
        request.private_blocks += blocks
        request.reserved_blocks = ceil_div(request.context + server.draft_tokens, server.block_tokens)
    quadratic = sum(end * end - start * start for start, end in chunks)
    context = sum(request.context for request in server.decodes_run)
    if len(server.group) > 1:
        server.planned, server.end_ps = (tokens, len(server.decodes_run), context, quadratic), OPEN
        if all(rank.end_ps in (None, OPEN) for rank in server.group):
            begin_together(twin, server.group)
        return
    cost_ps = server.cost_ps(tokens, len(server.decodes_run), context, quadratic)
    if server.stalls:
        cost_ps = stalled_ps(twin, server, cost_ps)
    assert cost_ps >= 1, "an iteration must last"
    server.end_ps = twin.now + cost_ps
    server.started_ps, server.cost = twin.now, cost_ps
    if twin.network is not None:
        start_traffic(twin, server, tokens)


def begin_together(twin: Twin, group: list[Server]) -> None:
    """Begin an iteration on all ranks of a group: as long as the slowest, and what they share. Idle ones join in."""
    plans = [rank.planned or (0, 0, 0, 0) for rank in group]
    tokens = [prefilled + decoding for prefilled, decoding, _, _ in plans]
    profile = group[0].profile
    shared = [(profile.captured_table, max(tokens))]
    if any(plan[0] for plan in plans):
        shared = [(profile.together_table, sum(max(1, own) for own in tokens)), (profile.fullest_table, max(tokens))]
    own_ps = [rank.cost_ps(*plan) for rank, plan in zip(group, plans, strict=True) if plan[0] + plan[1]]
    cost_ps = max(own_ps, default=0) + sum(lookup_ps(table, at) for table, at in shared if table is not None)
    for rank in group:
        rank.planned = None
        rank.end_ps = twin.now + cost_ps if any(tokens) else None
        rank.started_ps, rank.cost = twin.now, cost_ps


def stalled_ps(twin: Twin, server: Server, cost_ps: int) -> int:
    """Return the time of an iteration that waits for loads; the longest of them is exposed to its request."""
    assert twin.hierarchy is not None
    stalls, server.stalls = server.stalls, []
    stall_ps, request = max(stalls, key=lambda stall: stall[0])  # the first of the longest
    longer_ps = cost_ps + stall_ps
    if twin.hierarchy.kv.overlap:
        longer_ps = max(cost_ps, stall_ps + cost_ps // twin.hierarchy.layers)
    request.exposed_ps += longer_ps - cost_ps
    return longer_ps


def end_iteration_tokens(twin: Twin, server: Server) -> bool:
    """Hand out the tokens of the iteration that ends now; True if a request left the batch."""
    ran, server.decodes_run = server.decodes_run, []
    for request in ran:
        twin.token(request, server)
        for _ in range(min(server.accepts(request), request.output_tokens - request.generated)):
            twin.token(request, server)
            request.accepted_tokens += 1
    for request in sorted(ran, key=lambda request: request.row) if twin.stages is not None else []:
        twin.stages.got_token(request)
    done = sorted((request for request in ran if request.generated == request.output_tokens), key=lambda r: r.row)
    for request in done:
        server.decoding.remove(request)
        twin.finish(request, server)
    left = bool(done)
    for request in [request for request in server.prefilling if request.chunk is not None]:
        assert request.chunk is not None
        start, end = request.chunk
        request.chunk = None
        server.queued_tokens -= end - start
        request.charged -= end - start
        request.prefill_left -= end - start
        request.prefilled = end
        if sends_parts(twin, server):
            send_rest(twin, request, server, end - start)
        if request.prefill_left == 0:
            left |= complete_prefill(twin, server, request)
    return left


def complete_prefill(twin: Twin, server: Server, request: Request) -> bool:
    """Publish a prompt and give its next token; True if the request leaves the batch."""
    server.prefilling.remove(request)
    publish(twin, server, request)
    twin.token(request, server)
    if twin.stages is not None:
        twin.stages.got_token(request)
    if request.generated == request.output_tokens:
        twin.finish(request, server)
        return True
    if server.role == "prefill" or twin.pooled and request.decode_instance < 0:
        hand_off(twin, request, server)
        if request.decode_instance != server.index or not request.able:
            return True
    request.decode_instance = server.index
    server.decoding.append(request)
    return False


def publish(twin: Twin, server: Server, request: Request) -> None:
    """Make a prompt's blocks reusable; a copy of what another request published meanwhile becomes free."""
    if not server.blocks.enabled:
        return
    prompt_blocks = sum(len(run.blocks) for run in request.chain)
    if request.blocks_reused > prompt_blocks:
        return  # all of it was found, and some of what was generated
    copied = prompt_blocks - request.blocks_reused
    moved = server.blocks.publish(request.chain, request.held_runs)
    request.held_runs = len(request.chain)
    request.blocks_reused = prompt_blocks
    server.blocks.name_user(request.chain, server.blocks.rules.group(request.kind, request.turn))
    request.private_blocks -= copied
    server.blocks.give_back(copied - moved)
    if twin.hierarchy is not None:
        twin.hierarchy.published(request, server)


def keep_output(twin: Twin, server: Server, request: Request) -> None:
    """Make a context reusable as far as its blocks are full of KV, before the request lets go of them."""
    if not (twin.keeps_outputs and server.blocks.enabled):
        return
    end = min((request.context - 1) // server.block_tokens, end_of(request.context_chain))
    copied = end - request.blocks_reused
    if copied <= 0:
        return
    chain = [run for run in request.context_chain if run.start_blocks < end]
    moved = server.blocks.keep(chain, request.held_runs, end)
    request.held_runs, request.blocks_reused = len(chain), end
    server.blocks.name_user(chain, server.blocks.rules.group(request.kind, request.turn))
    request.private_blocks -= copied
    server.blocks.give_back(copied - moved)

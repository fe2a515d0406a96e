"""What the links of instances carry: prefixes to other instances, and prompts that go where they are decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.twin import traffic
from tests.twin.chains import end_of
from tests.twin.plain import Request, Server

if TYPE_CHECKING:
    from tests.twin.model import Twin


def fetch(twin: Twin, request: Request, server: Server, source: Server, tokens: int) -> None:
    """Send the missing part of a prefix over the link of its holder."""
    if twin.network is not None:
        traffic.fetch(twin, request, server, source, tokens)
        return
    path = source.blocks.visible(request.chain)
    source.blocks.pin(path)
    request.held_runs = len(path)
    blocks = sum(len(resident.blocks) for resident in path)
    link = source.link
    link.free_ps = max(twin.now, link.free_ps) + carry_ps(twin, source, tokens)
    link.deliveries.append((link.free_ps + link.latency_ps, request, "fetch", server.index, blocks))


def carry_ps(twin: Twin, server: Server, tokens: int) -> int:
    """Return how long the link of an instance takes for the KV of so many tokens, at its present speed."""
    usual_ps = tokens * server.link.token_fs // 1000
    return usual_ps if twin.lives is None else usual_ps * 1000 // twin.lives.permille(server)


def deliver(twin: Twin, server: Server) -> None:
    """Complete what is first on the link of an instance."""
    _, request, what, target_index, blocks = server.link.deliveries.pop(0)
    target = twin.servers[target_index]
    if twin.lives is not None and what == "handoff" and twin.lives.turns_back(request, server, target):
        return
    twin.release(request, server)
    if what == "fetch":
        target.blocks.insert(request.chain, blocks, blocks == end_of(request.chain))
    twin.enqueue(request, target)
    if server.end_ps is None and server.queue:
        twin.schedule(server)


def hand_off(twin: Twin, request: Request, server: Server) -> None:
    """Send a prefilled request to a decode instance, or fail it if it could never end there."""
    if twin.network is not None:
        traffic.hand_off(twin, request, server)
        return
    if twin.lives is not None and twin.lives.strands(request, server):
        twin.desk.stopped(request)
        return
    traffic.choose_target(twin, request, server)
    if request.able and request.decode_instance == server.index:
        request.handed_over = True
        return
    twin.desk.stopped(request)
    send_on(twin, request, server)


def send_on(twin: Twin, request: Request, server: Server) -> None:
    """Send a prefilled request over the link of its instance, or end it if it has no place to go."""
    if not request.able:
        twin.release(request, server)
        twin.end(request, "rejected" if request.decode_instance < 0 else "failed")
        return
    request.handed_off = request.handed_over = True
    link = server.link
    transfer_ps = carry_ps(twin, server, request.context - 1)
    if twin.layers is None:
        link.free_ps = max(twin.now, link.free_ps) + transfer_ps
    else:
        overlapped = max(request.scheduled_ps, request.sendable_ps, link.free_ps) + transfer_ps
        link.free_ps = max(overlapped, twin.now + transfer_ps // twin.layers)
    link.deliveries.append((link.free_ps + link.latency_ps, request, "handoff", request.decode_instance, 0))

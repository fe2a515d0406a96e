"""What instances send over a fabric: requests, prefixes, prompts as a whole or in parts, exchanges; waiting for KV."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replay.policy import REFUSE
from tests.twin.chains import end_of
from tests.twin.plain import OPEN, Request, Server, ceil_div

if TYPE_CHECKING:
    from tests.twin.model import Twin
    from tests.twin.network import Network


def network_of(twin: Twin) -> Network:
    """Return the fabric at work."""
    assert twin.network is not None
    return twin.network


def send_request(twin: Twin, request: Request, server: Server, source: Server | None) -> None:
    """Send the text of a request; what is to be done with it waits."""
    network = network_of(twin)
    gateway = len(network.fabric.endpoints) - 1
    size = request.prompt_tokens * network.fabric.request_token_bytes

    def came() -> None:
        twin.settle_down(request, server, source)

    network.begin(gateway, server.index, size, "request", came)


def fetch(twin: Twin, request: Request, server: Server, source: Server, tokens: int) -> None:
    """Send the missing part of a prefix from its holder."""
    path = source.blocks.visible(request.chain)
    source.blocks.pin(path)
    request.held_runs = len(path)
    blocks = sum(len(resident.blocks) for resident in path)
    entry = (OPEN, request, "fetch", server.index, blocks)
    source.link.deliveries.append(entry)

    def came() -> None:
        source.link.deliveries.remove(entry)
        twin.release(request, source)
        server.blocks.insert(request.chain, blocks, blocks == end_of(request.chain))
        go_on(twin, request, server, source)

    network_of(twin).begin(source.index, server.index, tokens * twin.kv_token_bytes, "fetch", came)


def go_on(twin: Twin, request: Request, server: Server, source: Server) -> None:
    """Queue a request where its KV came to; blocks were released where it came from."""
    twin.enqueue(request, server)
    if source.end_ps is None and source.queue:
        twin.schedule(source)


def choose_target(twin: Twin, request: Request, server: Server) -> None:
    """Choose the decode instance of a request, which expects it if it can hold it."""
    network = twin.network
    views = []
    offered = twin.offered(twin.decoders)
    for decoder in offered:
        view = twin.board.view(decoder, 0)
        if network is not None:
            size, live = request.prompt_tokens * twin.kv_token_bytes, network.fabric.signal_ps == 0
            view.transfer_s = network.quote(server.index, decoder.index, size, "handoff", live) * 1e-12
            network.show(view, decoder.index)
        views.append(view)
    stage = "handed" if request.handed_off else "runs"
    answer = twin.policies["decode"](twin.desk.seen(request, server, stage), views, twin.now)
    request.able = False
    if answer == REFUSE:
        return
    target = offered[answer[0] if isinstance(answer, tuple) else answer]
    request.decode_instance = target.index
    last = request.prompt_tokens + request.output_tokens - 1 + target.draft_tokens
    blocks = ceil_div(last, target.block_tokens)
    request.able = blocks <= target.blocks.total_blocks
    if request.able and target is not server:
        target.waiting += 1
        target.sent += 1
        target.waiting_tokens += request.prompt_tokens + max(1, request.generated)


def take_back(twin: Twin, request: Request) -> None:
    """Let a decode instance expect a request no more that ended with its first token."""
    if request.able and not request.handed_over:
        target = twin.servers[request.decode_instance]
        target.waiting -= 1
        target.waiting_tokens -= request.prompt_tokens + 1


def send_part(twin: Twin, request: Request, server: Server, tokens: int) -> None:
    """Send the KV of so many tokens to the decode instance."""
    if not request.able:
        return
    request.parts_under_way += 1
    epoch = request.preemptions

    def came() -> None:
        if request.preemptions != epoch:
            return
        request.parts_under_way -= 1
        if request.handed_off and request.parts_under_way == 0:
            all_came(twin, request, server)

    size = tokens * twin.kv_token_bytes
    network_of(twin).begin(server.index, request.decode_instance, size, "handoff", came)


def send_early(twin: Twin, request: Request, server: Server) -> None:
    """Send what may leave before an iteration with a chunk of a request ends."""
    assert request.chunk is not None
    tokens = request.cached_tokens
    if twin.layers is not None:
        tokens += early_tokens(twin, request.chunk[1] - request.chunk[0])
    if tokens == 0:
        return
    if request.decode_instance < 0:
        choose_target(twin, request, server)
    request.cached_tokens = 0
    send_part(twin, request, server, tokens)


def early_tokens(twin: Twin, chunk: int) -> int:
    """Return the tokens of a chunk that leave before its iteration ends."""
    return chunk * (twin.layers - 1) // twin.layers if twin.layers is not None else 0


def send_rest(twin: Twin, request: Request, server: Server, chunk: int) -> None:
    """Send what is left of a chunk that was computed."""
    if request.decode_instance < 0:
        choose_target(twin, request, server)
    send_part(twin, request, server, chunk - early_tokens(twin, chunk))


def sends_parts(twin: Twin, server: Server) -> bool:
    """Whether an instance hands over part by part."""
    return twin.network is not None and server.role == "prefill" and (twin.layers is not None or twin.chunked)


def hand_off(twin: Twin, request: Request, server: Server) -> None:
    """Hand a prefilled request over as far as it was not sent."""
    if request.decode_instance < 0:
        choose_target(twin, request, server)
    if request.able and request.decode_instance == server.index:
        request.handed_over = True
        return
    twin.desk.stopped(request)
    if not request.able:
        twin.release(request, server)
        twin.end(request, "rejected" if request.decode_instance < 0 else "failed")
        return
    request.handed_off = request.handed_over = True
    server.link.deliveries.append((OPEN, request, "handoff", request.decode_instance, 0))
    if not sends_parts(twin, server):
        send_part(twin, request, server, request.prompt_tokens)
    elif request.parts_under_way == 0:
        all_came(twin, request, server)


def all_came(twin: Twin, request: Request, server: Server) -> None:
    """Queue a request whose KV is all on its decode instance."""
    server.link.deliveries.remove(next(entry for entry in server.link.deliveries if entry[1] is request))
    twin.release(request, server)
    go_on(twin, request, twin.servers[request.decode_instance], server)


# iterations that wait


def start_traffic(twin: Twin, server: Server, tokens: int) -> None:
    """Send what leaves as an iteration begins, and keep its end open if it waits for anything."""
    network = network_of(twin)
    group = network.fabric.exchange_group
    if tokens and group > 1 and server in twin.prefillers:
        first = server.index // group * group
        for other in twin.prefillers[first : first + group]:
            if other is not server:
                server.exchanges += 1
                size = tokens * network.fabric.exchange_token_bytes // group
                network.begin(server.index, other.index, size, "exchange", lambda: exchanged(twin, server))
    if tokens and sends_parts(twin, server):
        for request in [request for request in server.prefilling if request.chunk is not None]:
            send_early(twin, request, server)
    if server.exchanges or server.awaited:
        server.longer_ps = server.cost
        server.end_ps = OPEN


def exchanged(twin: Twin, server: Server) -> None:
    """Note that a part of an exchange came."""
    server.exchanges -= 1
    if server.exchanges == 0:
        late = twin.now - server.started_ps + server.cost // (twin.layers_of_model)
        server.longer_ps = max(server.longer_ps, late)
        close(server)


def load_came(twin: Twin, server: Server, request: Request) -> None:
    """Note that a load came which an iteration waits for."""
    assert twin.hierarchy is not None
    server.awaited.remove(request)
    if server.awaited:
        return
    stall = twin.now - server.started_ps
    longer = server.cost + stall
    if twin.hierarchy.kv.overlap:
        longer = max(server.cost, stall + server.cost // twin.layers_of_model)
    request.exposed_ps += longer - server.cost
    server.longer_ps = max(server.longer_ps, longer)
    close(server)


def close(server: Server) -> None:
    """End an iteration when nothing that it waits for is missing."""
    if not server.exchanges and not server.awaited:
        server.end_ps = server.started_ps + server.longer_ps

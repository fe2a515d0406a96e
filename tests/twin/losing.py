"""What failures take, in the twin: KV with its holder only, and what was on its way to what is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.twin.dropping import forget
from tests.twin.plain import Request, Server
from tests.twin.residents import NO_CLOCK

if TYPE_CHECKING:
    from tests.twin.lives import Life, Lives


def carry_out(lives: Lives, kind: str, what: int, for_ps: int, permille: int) -> None:
    """Carry out a failure."""
    if kind == "instance":
        fail(lives, lives.lives[what], for_ps)
    elif kind == "node":
        size = lives.settings.node_instances
        for life in lives.lives[what * size : (what + 1) * size]:
            if lives.twin.hierarchy is not None:
                lives.twin.hierarchy.fates.own(life.server, "goes")
            if life.state == "off":
                life.until_ps = max(life.until_ps, lives.twin.now + for_ps)
            fail(lives, life, for_ps)
    elif kind == "link" and permille == 0:
        stop(lives, lives.lives[what], for_ps)
    elif kind == "link":
        slow = lives.lives[what].speeds
        slow.append(permille)
        lives.after(for_ps, "speed", lambda: slow.remove(permille))
    elif kind == "suspect":
        life = lives.lives[what]
        life.suspects += 1
        lives.after(for_ps, "trust", lambda: trust(life))
    elif kind == "store":
        lose_stores(lives, what, for_ps)
    elif kind == "shard":
        assert lives.twin.hierarchy is not None
        lives.twin.hierarchy.shards.stop(what, for_ps)
    else:
        lives.paused += 1
        lives.after(for_ps, "control", lambda: resume(lives))


def lose_stores(lives: Lives, node: int, for_ps: int) -> None:
    """Let a pool node, or the store for all, fail for so long."""
    assert lives.twin.hierarchy is not None and lives.nodes is not None
    fates, until_ps = lives.twin.hierarchy.fates, lives.twin.now + for_ps
    if node < lives.twin.hierarchy.kv.shared_nodes:
        lives.nodes.fail(node, for_ps)
        return
    store = fates.pool_node(node)[0]
    back_ps = fates.back_ps[store.index] = max(until_ps, fates.back_ps.get(store.index, 0))
    fates.of_stores[store.index] = "goes"

    def back() -> None:
        if fates.back_ps[store.index] == lives.twin.now:
            fates.of_stores[store.index] = "comes"

    lives.after(back_ps - lives.twin.now, "store", back)


def trust(life: Life) -> None:
    """End a wrong health check."""
    life.suspects -= 1


def resume(lives: Lives) -> None:
    """End a fail-over of the control plane."""
    lives.paused -= 1


def fail(lives: Lives, life: Life, for_ps: int) -> None:
    """Let an instance fail for so long, unless it is off."""
    now_ps = lives.twin.now
    if life.state == "off":
        return
    life.crashes += 1
    end_ps = now_ps + for_ps
    life.until_ps = end_ps if life.serves else max(life.until_ps, end_ps)
    if life.serves:
        life.notice_ps = now_ps + lives.settings.detect_ps
        lives.after(lives.settings.detect_ps, "notice", lambda: lives.notice(life))
        lose_all(lives, life)
    if life.state == "draining":
        lives.becomes(life, "off")
        return
    lives.after(life.until_ps - now_ps, "up", lambda: lives.come_up(life), life)
    if life.state != "down":
        lives.becomes(life, "down")


def stop(lives: Lives, life: Life, for_ps: int) -> None:
    """Let a card stop: what it has not sent, and what comes from a replica, is later by the time it newly stops."""
    now_ps, link = lives.twin.now, life.server.link
    end_ps = now_ps + for_ps
    later_ps = end_ps - max(now_ps, life.stopped_ps)
    if later_ps <= 0:
        return
    life.stopped_ps = end_ps
    link.deliveries = [(time_ps + later_ps * (time_ps - link.latency_ps > now_ps), *rest)
                       for time_ps, *rest in link.deliveries]  # fmt: skip
    link.free_ps = max(now_ps, link.free_ps) + later_ps
    for timer in lives.timers:
        if timer.what == "replica" and timer.subject[1] is life.server:
            timer.time_ps += later_ps


def lose(lives: Lives, request: Request, server: Server, kv_tokens: int) -> None:
    """Lose a request with an instance, and so many tokens of its KV."""
    life = lives.of(server)
    life.lost_requests += 1
    life.lost_kv_tokens += kv_tokens
    lives.counts["lost"] += 1
    request.losses += 1
    request.lost_ps = lives.twin.now
    request.notice_ps = life.notice_ps
    request.lost_kv = max(request.lost_kv, kv_tokens)
    if lives.twin.hierarchy is not None:
        forget(request)
    request.handed_off = request.handed_over = request.able = False
    request.prefilled = request.prefill_left = 0
    request.chunk = None
    life.waits.append(request)


def uncount(request: Request, server: Server) -> None:
    """Count a request no more among those that wait on an instance or are on their way there."""
    server.waiting -= 1
    server.waiting_tokens -= request.context
    server.queued_tokens -= request.charged
    request.charged = 0


def never_came(lives: Lives, request: Request, server: Server) -> None:
    """Lose a request that was on its way to an instance; it has no KV."""
    uncount(request, server)
    lose(lives, request, server, 0)


def turn_back(lives: Lives, request: Request, server: Server, target: Server) -> None:
    """Keep a prefilled request where it is until it is noticed that its decode instance failed.

    If its own instance failed too, after all was sent, its KV is nowhere.
    """
    uncount(request, target)
    if request.private_blocks == 0 and request.held_runs == 0:
        lose(lives, request, target, request.context - 1)
        return
    request.decode_instance = -1
    request.notice_ps = lives.of(target).notice_ps
    lives.kept[request] = server
    lives.of(target).waits.append(request)


def lose_all(lives: Lives, life: Life) -> None:
    """Lose everything on an instance and on its way there."""
    server = life.server
    lose_batch(lives, server)
    lose_link(lives, server)
    for request in lives.kept_on(server):
        del lives.kept[request]
        for waiting in [lives.stranded, *(other.waits for other in lives.lives)]:
            if request in waiting:
                waiting.remove(request)
        lives.twin.release(request, server)
        lose(lives, request, server, request.context - 1)
    for other in lives.twin.servers:
        lose_coming(lives, other, server)
    for timer in [timer for timer in lives.timers if timer.what == "replica" and timer.subject[1] is server]:
        lives.timers.remove(timer)
        never_came(lives, timer.subject[0], server)
    wipe(lives, life)


def lose_batch(lives: Lives, server: Server) -> None:
    """Lose what runs, in the middle of an iteration or not, and what waits."""
    twin = lives.twin
    if server.end_ps is not None:
        server.busy_ps += twin.now - server.started_ps
    server.end_ps = None
    server.decodes_run = []
    for request in server.running:
        kv_tokens = request.context - 1 if request in server.decoding else request.prefilled
        twin.release(request, server)
        server.queued_tokens -= request.charged
        request.charged = 0
        twin.desk.stopped(request)
        lose(lives, request, server, kv_tokens)
    server.prefilling, server.decoding = [], []
    for request in sorted(server.queue, key=lambda request: request.place):
        kv_tokens = request.context - 1 if request.handed_off else 0
        uncount(request, server)
        lose(lives, request, server, kv_tokens)
        twin.desk.leaves(request, server)
    server.queue = []
    server.empty_since_ps = twin.now
    for request in [request for request in twin.requests if request.waits and request.prefill_instance == server.index]:
        never_came(lives, request, server)


def lose_link(lives: Lives, server: Server) -> None:
    """Lose what a card has not sent; what it has sent will arrive."""
    twin, link = lives.twin, server.link
    arriving = []
    for delivery in link.deliveries:
        time_ps, request, what, target_index, _ = delivery
        target = twin.servers[target_index]
        twin.release(request, server)
        if time_ps - link.latency_ps <= twin.now:
            arriving.append(delivery)
        elif what == "fetch":
            request.fetching = target
            lives.again.append(request)
        else:
            uncount(request, target)
            lose(lives, request, server, request.context - 1)
    link.deliveries = arriving
    link.free_ps = max(twin.now, lives.of(server).stopped_ps)


def lose_coming(lives: Lives, source: Server, server: Server) -> None:
    """Take what goes to an instance off the card of another."""
    coming = [delivery for delivery in source.link.deliveries if delivery[3] == server.index]
    for delivery in coming:
        _, request, what, _, _ = delivery
        source.link.deliveries.remove(delivery)
        if what == "handoff":
            turn_back(lives, request, source, server)
        else:
            lives.twin.release(request, source)
            never_came(lives, request, server)


def wipe(lives: Lives, life: Life) -> None:
    """Empty the cache of an instance."""
    cache = life.server.blocks
    life.cached_lost_blocks += cache.cached_blocks
    assert cache.pinned_blocks == cache.private_blocks == 0, "somebody holds KV of an instance that fails"
    cache.drop()
    life.server.wipes += 1
    if lives.twin.hierarchy is not None:
        lives.twin.hierarchy.fates.emptied.add(life.server.index)
    cache.last_score = NO_CLOCK

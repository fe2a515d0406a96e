"""Shared DRAM nodes and the servers of the store for all, in the twin, as pools: HIERARCHY.md, *Pools of nodes*."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

from tests.twin.stores import Store

if TYPE_CHECKING:
    from tests.twin.hierarchy import Hierarchy
    from tests.twin.lives import Lives

PS = 1e-12
NODE_ROLES = ("memory", "storage")
OF_A_NODE = ("paid_ps", "up_ps", "down_ps", "crashes", "starts", "cached_lost_blocks", "cached_shrunk_blocks")


@dataclass(eq=False)
class Member:
    """What a member of a pool is doing, and did."""

    pool: int
    state: str
    since_ps: int = 0
    until_ps: int = 0  # it starts or is repaired until then; while it is off, it cannot start before
    paid_ps: int = 0
    up_ps: int = 0
    down_ps: int = 0
    crashes: int = 0
    starts: int = 0
    cached_lost_blocks: int = 0
    cached_shrunk_blocks: int = 0

    @property
    def serves(self) -> bool:
        """Whether it does its work."""
        return self.state in ("up", "draining")

    def passes(self, now_ps: int) -> None:
        """Add up what it did since it began to."""
        spent_ps = now_ps - self.since_ps
        self.paid_ps += spent_ps * (self.state != "off")
        self.up_ps += spent_ps * self.serves
        self.down_ps += spent_ps * (self.state == "down")
        self.since_ps = now_ps


class Nodes:
    """The nodes of a hierarchy: shared DRAM first, then servers."""

    def __init__(self, lives: Lives, hierarchy: Hierarchy) -> None:
        self.lives, self.h = lives, hierarchy
        self.nodes: list[Member] = []
        pools = {pool.role: (number, pool.initial) for number, pool in enumerate(lives.settings.pools)}
        for role, most in hierarchy.kv.nodes.items():
            number, initial = pools.get(role, (-1, most))
            self.nodes += [Member(number, "up" if k < initial else "off") for k in range(most)]
        self.asked: dict[int, dict[str, int]] = {}
        hierarchy.fates.nodes = self
        for k in range(hierarchy.kv.shared_nodes):
            if self.nodes[k].state == "off":
                hierarchy.ring.open[k] = False
                for store in hierarchy.fates.pool_node(k):
                    store.present = False
        self.share_out()

    @property
    def servers(self) -> list[Member]:
        """The servers of the store for all."""
        return self.nodes[self.h.kv.shared_nodes :]

    def share_out(self) -> None:
        """Let the store for all be as fast as its servers are."""
        store, up = self.h.common_disk, max(1, sum(server.state == "up" for server in self.servers))
        if store is not None and store.disk is not None:
            store.disk.share_out(len(self.servers), up)
            store.write_block_fs = store.spec.write_block_fs * len(self.servers) // up

    def becomes(self, k: int, state: str) -> None:
        """Let a node do something else from now on."""
        now_ps = self.lives.twin.now
        self.nodes[k].passes(now_ps)
        self.nodes[k].state = state
        self.lives.moments.append((now_ps, len(self.lives.lives) + k, state))
        self.share_out()

    def fate(self, k: int, fate: str, also_below: bool = True) -> None:
        """Let the DRAM of a node, and the disk below it, come or go in this event."""
        for store in self.h.fates.pool_node(k) if also_below else [self.h.stores[k]]:
            self.h.fates.of_stores[store.index] = fate

    def left(self, store: Store, blocks: int) -> None:
        """Note that a store left with so many blocks."""
        if store.index >= self.h.kv.shared_nodes:
            return
        node = self.nodes[store.index]
        node.cached_lost_blocks += blocks
        if node.state == "draining":
            node.cached_shrunk_blocks += blocks
            self.becomes(store.index, "off")
            self.fate(store.index, "goes")
            self.h.fates.of_stores.pop(store.index)

    def fail(self, k: int, for_ps: int) -> None:
        """Let a shared DRAM node fail for so long."""
        node, until_ps = self.nodes[k], self.lives.twin.now + for_ps
        before = node.state
        node.until_ps = until_ps if node.serves else max(until_ps, node.until_ps)
        if before == "off":
            return
        node.crashes += 1
        self.fate(k, "goes")
        if before == "draining":
            self.becomes(k, "off")
            return
        self.await_up(k)
        if before != "down":
            self.becomes(k, "down")

    def await_up(self, k: int) -> None:
        """Let a node come up when its start or repair is over."""
        node = self.nodes[k]

        def up() -> None:
            if node.state in ("starting", "down") and node.until_ps == self.lives.twin.now:
                self.becomes(k, "up")
                if k < self.h.kv.shared_nodes:
                    self.fate(k, "comes")

        self.lives.after(node.until_ps - self.lives.twin.now, "up", up, node)

    # pools

    def own(self, number: int, *states: str) -> list[int]:
        """List the nodes of a pool that do something."""
        return [k for k, node in enumerate(self.nodes) if node.pool == number and node.state in states]

    def stores(self, number: int, *states: str) -> list[Store]:
        """List the stores of a pool: the DRAM of nodes that do something; or the store for all."""
        if self.lives.settings.pools[number].role == "memory":
            return [self.h.stores[k] for k in self.own(number, *states)]
        common = self.h.common_disk
        return [common] if common is not None and self.own(number, *states) else []

    def tell(self, number: int) -> SimpleNamespace:
        """Return what is told of a pool, and begin to count anew."""
        pool, twin = self.lives.settings.pools[number], self.lives.twin
        up = [store.cache for store in self.stores(number, "up")]
        total = sum(cache.total_blocks for cache in up)
        used = sum(cache.total_blocks - cache.free_blocks for cache in up)
        tails = [(cache.cached_blocks, cache.first_out()) for cache in up]
        ages = [(blocks, (twin.now - first.last_used_ps) * PS) for blocks, first in tails if first is not None]
        cached = sum(blocks for blocks, _ in ages)
        one = self.h.stores[0] if pool.role == "memory" else self.h.common_disk
        assert one is not None
        return SimpleNamespace(
            role=3 + NODE_ROLES.index(pool.role), index=number,
            **{state: len(self.own(number, state)) for state in ("up", "starting", "draining", "down")},
            least=pool.least, most=pool.most, lacking=0,
            waiting=0, running=0, max_batch=0, held=len(twin.held), queued_tokens=0,
            kv_share=used / total if total else 0.0,
            tail_age_s=sum(age * blocks for blocks, age in ages) / cached if cached else 0.0,
            **self.interval(number),
            iteration_s=0.0, prefill_token_s=0.0, decode_request_s=0.0, kv_token_s=0.0, prefill_tokens_per_s=0.0,
            places=0, kv_tokens=one.cache.total_blocks * twin.block_tokens,
            start_s=self.lives.settings.node_start_ps * PS,
        )  # fmt: skip

    def interval(self, number: int) -> dict[str, float]:
        """Return how busy a pool was since it was last asked about, and what it read."""
        twin, everywhere = self.lives.twin, ("up", "starting", "draining", "down", "off")
        stores = self.stores(number, *everywhere)
        now = {"asked": twin.now, "reads": sum(store.read.sent for store in stores)}
        for way in ("read_busy_ps", "write_busy_ps"):
            now[way] = sum(getattr(store, way) for store in stores)
        now["up"] = sum(node.up_ps + (twin.now - node.since_ps) * node.serves
                        for node in self.nodes if node.pool == number)  # fmt: skip
        if self.lives.settings.pools[number].role == "storage":
            disk = stores[0].disk
            assert disk is not None
            now |= {f"medium {m}": medium.counts["busy_ps"] for m, medium in enumerate(disk.media)}
        before = self.asked.get(number, {})
        new = {name: value - before.get(name, 0) for name, value in now.items()}
        self.asked[number] = now
        if any(name.startswith("medium") for name in now):
            busiest, time_ps = max(value for name, value in new.items() if name.startswith("medium")), new["asked"]
        else:
            busiest, time_ps = max(new["read_busy_ps"], new["write_busy_ps"]), new["up"]
        return {"busy_share": busiest / time_ps if time_ps else 0.0, "read_tokens": new["reads"] * twin.block_tokens}

    def follow(self, number: int, wanted: int, told: SimpleNamespace) -> None:
        """Bring a pool towards a number of nodes that are up or start."""
        pool, lives = self.lives.settings.pools[number], self.lives
        more = min(max(wanted, pool.least), pool.most) - (told.up + told.starting)
        able = [k for k in self.own(number, "off") if self.nodes[k].until_ps <= lives.twin.now]
        for k in able[: max(0, more)]:
            self.becomes(k, "starting")
            self.nodes[k].starts += 1
            self.nodes[k].until_ps = lives.twin.now + lives.settings.node_start_ps
            self.await_up(k)
        for _ in range(-more):
            self.remove_one(number)

    def remove_one(self, number: int) -> None:
        """Take a node away: the last one that starts, else of those that hold the least the last one."""
        if starting := self.own(number, "starting"):
            node = self.nodes[starting[-1]]
            self.lives.timers = [timer for timer in self.lives.timers
                                 if not (timer.subject is node and timer.time_ps == node.until_ps)]  # fmt: skip
            self.becomes(starting[-1], "off")
        elif up := self.own(number, "up"):
            if self.lives.settings.pools[number].role == "storage":
                self.becomes(up[-1], "off")
                return
            caches = {k: self.h.stores[k].cache for k in up}
            k = min(reversed(up), key=lambda k: caches[k].total_blocks - caches[k].free_blocks)
            self.becomes(k, "draining")
            self.h.ring.close(k)
            self.fate(k, "drains", also_below=False)

    def results(self) -> dict[str, list]:
        """Return what the nodes did."""
        for node in self.nodes:
            node.passes(self.lives.twin.now)
        found: dict[str, list] = {name: [getattr(node, name) for node in self.nodes] for name in OF_A_NODE}
        return found | {"state": [node.state for node in self.nodes]}

"""What failures take of the hierarchy, in the twin: loads to an instance, and stores that go with their node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.twin import lifetime, movement
from tests.twin.plain import Request, Server
from tests.twin.stores import OVER, UNDER_WAY, Store

if TYPE_CHECKING:
    from tests.twin.hierarchy import Hierarchy
    from tests.twin.nodes import Nodes


class Fates:
    """What the event in hand has in store for stores, and the instances that it emptied."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        self.h = hierarchy
        self.emptied: set[int] = set()
        self.of_stores: dict[int, str] = {}
        self.back_ps: dict[int, int] = {}  # of the store for all, if it failed
        self.nodes: Nodes | None = None  # with lives

    def own(self, server: Server, fate: str) -> None:
        """Let the stores of an instance's host go or come back."""
        for store in self.h.stores:
            if store.spec.server == server.index:
                self.of_stores[store.index] = fate

    def pool_node(self, node: int) -> list[Store]:
        """Return the stores of a pool node, or the one that all share."""
        shared = [store for store in self.h.stores if store.spec.server < 0]
        return [store for store in shared if store.spec.node == (node if node < self.h.kv.shared_nodes else -1)]

    def carry_out(self) -> None:
        """End loads to what was emptied, then let stores go and come."""
        for index in sorted(self.emptied):
            abandon(self.h, self.h.twin.servers[index])
        for index in range(len(self.h.stores)):  # the DRAM of a node before the disk that goes with it
            store, fate = self.h.stores[index], self.of_stores.get(index)
            if fate == "comes":
                lifetime.join(self.h, store)
            elif fate == "goes" and store.present:
                lifetime.leave(self.h, store)
            elif fate == "drains":
                assert self.nodes is not None
                lifetime.drain(self.h, store, self.h.clock.now + self.nodes.lives.settings.drain_ps)
        self.emptied, self.of_stores = set(), {}


def abandon(h: Hierarchy, server: Server) -> None:
    """End all loads to an instance: nothing arrives."""
    for load in sorted((load for load in h.loads if load.server is server), key=lambda load: load.request.row):
        for segment in load.segments:
            if segment.life == segment.store.life:
                segment.store.cache.release(load.request.chain, segment.held)
        load.request.load_ps = h.clock.now - load.issued_ps
        if load.stands:
            movement.settle(load, -1, "cut")
        load.state = OVER
        h.loads.remove(load)
    server.loads_under_way = 0
    for load in server.pending_loads:
        load.state, load.stands = OVER, False
    server.pending_loads = []


def forget(request: Request) -> None:
    """Let a lost request load as if it had never been admitted; what is under way to where it was long ago stays."""
    request.anew, request.waits = True, False
    if request.load is not None and request.load.state != UNDER_WAY:
        request.load.stands, request.load.state = False, OVER
        request.load = None

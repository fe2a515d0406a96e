"""The twin's events: arrivals, deliveries and ends of iterations, taken one by one as MODEL.md orders them."""

from collections.abc import Mapping
from typing import Any

from replay.cluster import Cluster
from replay.engine.request_schema import MOVING, TENANTS
from replay.policy import HOLD, Chosen
from tests.twin.asking import Board, Desk
from tests.twin.batching import (
    admit_waiting,
    end_iteration_tokens,
    keep_output,
    make_room,
    preempt_by_order,
    room,
    start_iteration,
)
from tests.twin.hierarchy import Hierarchy
from tests.twin.links import deliver, fetch
from tests.twin.lives import Lives
from tests.twin.moves import Mover
from tests.twin.network import Network
from tests.twin.plain import OPEN, Request, Server, ceil_div
from tests.twin.reading import plain
from tests.twin.residents import Clock, Rules
from tests.twin.stages import Stages
from tests.twin.traffic import send_request, take_back

ARRIVAL, DELIVERY, ITERATION, HIERARCHY, FABRIC, MOVE, LIFE, STAGES = range(8)
FIELDS = (
    "arrival_ps", "scheduled_ps", "first_token_ps", "finish_ps", "max_itl_ps", "status", "prefill_instance",
    "decode_instance", "hit_tokens", "preemptions", "generated_tokens",
)  # fmt: skip
HIERARCHY_FIELDS = ("lookup_ps", "load_ps", "exposed_ps", "hbm_tokens", "dram_tokens", "disk_tokens")


def load_all_at_once(*_: Any) -> tuple[int, float]:
    """Fetch policy of a scenario that has none: load whatever there is, wait for nothing."""
    return 2, 0.0


def write_all(*_: Any) -> bool:
    """Write policy of a scenario that has none."""
    return True


class Twin:
    """A cluster and its clock."""

    def __init__(
        self, cluster: Cluster, requests: list[Request], policies: Mapping[str, Chosen], num_tiers: int
    ) -> None:
        defaults = {"fetch": load_all_at_once, "write": write_all}
        self.policies = defaults | {slot: plain(chosen) for slot, chosen in policies.items()}
        self.clock = Clock()
        write = policies.get("write")
        self.asks_at_eviction = write is None or "evicting" in write.policy.uses
        self.reads_hits = any("hit_tokens" in policies[slot].policy.reads for slot in ("route", "admit"))
        self.requests = requests
        kv = cluster.kv
        second_look = "examined" in policies["evict"].policy.reads
        beyond = {"ttl_ps": kv.ttl_ps, "refresh": kv.refresh, "exact": kv.index.exact} if kv else {}
        rules = Rules(self.policies["evict"], second_look, **beyond)
        unit_tokens = kv.unit_tokens if kv else 0
        self.block_tokens = cluster.block_tokens
        self.servers = [
            Server(index, instance, rules, self.clock, cluster.prefix_cache, unit_tokens, cluster.speculation)
            for index, instance in enumerate(cluster.instances)
        ]
        self.prefillers = [server for server in self.servers if server.role != "decode"]
        self.decoders = [server for server in self.servers if server.role != "prefill"]
        self.keeps_outputs = cluster.cache_outputs
        for first in range(0, len(self.servers), cluster.ranks):
            for server in self.servers[first : first + cluster.ranks]:
                server.group = self.servers[first : first + cluster.ranks]
        self.plans_ahead = cluster.plan_ahead
        self.layers = cluster.layers if cluster.layerwise else None
        self.layers_of_model, self.chunked = cluster.layers, cluster.chunked
        self.network: Network | None = None
        self.kv_token_bytes = max(instance.profile.kv_token_bytes for instance in cluster.instances)
        self.arrivals = [(request.arrival_ps, request.row) for request in requests if request.parent < 0]
        self.arrived = 0
        self.held: list[Request] = []
        self.gaps: list[list[int]] = [[] for _ in range(num_tiers)]
        self.events = 0
        self.desk = Desk(self, None, policies["order"], [])
        self.pooled = cluster.mixed_pool
        self.seer: Any = None  # tests.twin.learning.Seer, once there are predictions
        self.mover = Mover(self, cluster.migrate_ps)
        self.stages: Stages | None = None
        self.lives: Lives | None = None
        self.board = Board(self.servers, cluster.signal_lag_ps)
        order = policies["order"].policy
        self.moves = bool(order.reads & MOVING) or "now_ps" in order.uses
        self.fair = any(policies[slot].policy.reads & TENANTS for slot in ("admit", "route", "decode", "order"))
        self.admit_sees_decodes = "decodes" in policies["admit"].policy.extras
        self.hierarchy = Hierarchy(kv, rules, self, cluster.layers) if kv else None

    def goes_on(self) -> bool:
        """Say whether any request has not come to its end, and anything but what comes again is to happen."""
        busy = any(server.end_ps is not None and server.end_ps < OPEN for server in self.servers)
        sent = self.network is None and any(server.link.deliveries for server in self.servers)
        tiers = self.hierarchy is not None and any(event[2] != "gc" for event in self.hierarchy.events)
        flows = self.network is not None and self.network.busy
        staged = self.stages is not None and bool(self.stages.pending())
        lives = self.lives is not None and any(timer.what != "ask" for timer in self.lives.timers)
        going = bool(self.arrivals) or busy or sent or tiers or flows or staged or lives
        return going and any(request.status == "unfinished" for request in self.requests)

    @property
    def now(self) -> int:
        """The time of the event in hand."""
        return self.clock.now

    def pending_events(self) -> list[tuple[int, int, int]]:
        """List (time, class, index) of what is to happen."""
        events = [(time, ARRIVAL, row) for time, row in self.arrivals]
        for server in self.servers:
            if server.link.deliveries and self.network is None:
                events.append((server.link.deliveries[0][0], DELIVERY, server.index))
            if server.end_ps is not None and server.end_ps < OPEN:
                events.append((server.end_ps, ITERATION, server.index))
        if self.hierarchy is not None:
            events += [(time, HIERARCHY, sequence) for time, sequence, _, _ in self.hierarchy.events]
        if self.network is not None:
            events += [(time, FABRIC, sequence) for time, sequence in self.network.pending()]
        events += [(time, MOVE, index) for time, index in self.mover.pending()]
        events += [(time, LIFE, sequence) for time, sequence in self.lives.pending()] if self.lives is not None else []
        events += [(time, STAGES, index) for time, index in self.stages.pending()] if self.stages is not None else []
        return events

    def step(self) -> bool:
        """Handle the next event; False when there is none."""
        events = self.pending_events()
        if not events:
            return False
        time, kind, index = min(events)
        assert time >= self.now, "time ran back"
        self.board.tick(time)
        self.clock.now = time
        self.events += 1
        if kind == ARRIVAL:
            self.arrivals.remove((time, index))
            self.arrive(self.requests[index])
        elif kind == DELIVERY:
            deliver(self, self.servers[index])
        elif kind == ITERATION:
            self.end_iteration(self.servers[index])
        elif kind == FABRIC:
            assert self.network is not None
            self.network.handle(index)
        elif kind == MOVE:
            self.mover.handle(index)
        elif kind == STAGES:
            assert self.stages is not None
            self.stages.handle(index)
        elif kind == LIFE:
            assert self.lives is not None
            self.lives.handle(index)
        elif self.hierarchy is not None:
            self.hierarchy.handle(index)
        if self.lives is not None:
            self.lives.settle()
        if self.hierarchy is not None:
            self.hierarchy.settle()
        if self.stages is not None:
            self.stages.settle()
        return True

    # arrivals and routing

    def arrive(self, request: Request) -> None:
        """Take a request in, once it is predicted and the index has answered."""
        if not request.predicted:
            request.arrival_ps = self.now
            request.sequence = self.arrived
            self.arrived += 1
            request.since_ps = self.now
            if self.lives is not None:
                self.lives.pools.arrived(request)
            if self.stages is not None and self.stages.enters(request):
                return
        self.entered(request)

    def entered(self, request: Request) -> None:
        """Take a request further that is past what comes before the cluster."""
        if self.seer is not None and self.seer.takes(request):
            return
        if self.lives is None or not self.lives.shuts_out(request):
            self.meet(request)

    def meet(self, request: Request) -> None:
        """Look a request up that was predicted, and decide about it."""
        if self.seer is not None:
            self.seer.predicts(request)
        if self.hierarchy is None or not self.hierarchy.look_up(request):
            self.consider(request)

    def consider(self, request: Request) -> None:
        """Reject, hold or dispatch a request."""
        decoders = self.offered(self.decoders)
        sees_decodes = {"decodes": [self.board.view(server, 0) for server in decoders]}
        decodes = sees_decodes if self.admit_sees_decodes else {}
        seen = self.desk.seen(request, None, "arrived")
        asks = bool(decoders) and bool(self.offered(self.prefillers))
        if asks and not self.policies["admit"](seen, self.views_for(request), self.now, **decodes):
            self.end(request, "rejected")
            return
        if self.stages is not None:
            self.stages.admitted(request)
        self.place(request)

    def place(self, request: Request) -> None:
        """Route a request behind those that are held, or hold it."""
        if self.held:
            self.hold(request)
            self.drain()
        elif not self.route(request):
            self.hold(request)

    def offered(self, servers: list[Server]) -> list[Server]:
        """Return those of some instances that routers take to be there."""
        return servers if self.lives is None else [server for server in servers if self.lives.offers(server)]

    def views_for(self, request: Request) -> list:
        """Return the prefill-capable instances as a router sees them."""
        offered = self.offered(self.prefillers)
        views = [self.board.view(server, self.believed(request, server)) for server in offered]
        for view, server in zip(views, offered, strict=True):
            if self.network is not None:
                self.network.show(view, server.index)
        return views

    def believed(self, request: Request, server: Server) -> int:
        """Return the prompt tokens that the index believes on an instance."""
        if self.hierarchy is None:
            return server.hit(request)
        return server.usable(self.hierarchy.shards.believed_blocks(request, server), request.prompt_tokens)

    def rank(self, request: Request, server: Server | None, stage: str = "waits") -> None:
        """Ask the order policy where a request stands, on an instance or in the cluster queue."""
        seen = self.desk.seen(request, server, stage if server is not None else "arrived")
        key, margin = self.policies["order"](seen, self.now)
        request.key, request.margin = float(key), float(margin)

    def rank_all(self, server: Server) -> None:
        """Ask anew about every request on an instance."""
        for request in [*server.decoding, *server.prefilling]:
            self.rank(request, server, "runs")
        for request in server.queue:
            self.rank(request, server)

    def wait(self, request: Request, server: Server | None) -> None:
        """Give a request its place in a queue."""
        self.desk.joins(request, server)
        request.queued_ps = self.now
        self.rank(request, server)
        (self.held if server is None else server.queue).append(request)

    def hold(self, request: Request) -> None:
        """Put a request into the cluster queue."""
        self.wait(request, None)

    def drain(self) -> None:
        """Route held requests, best first, until one has to stay."""
        again = self.moves
        while self.held:
            for request in self.held if again else []:
                self.rank(request, None)
            again = self.fair
            head = min(self.held, key=lambda request: request.place)
            if not self.route(head):
                return

    def route(self, request: Request) -> bool:
        """Ask the router; dispatch the request and return True, or return False on HOLD."""
        offered = self.offered(self.prefillers)
        if not offered or self.lives is not None and self.lives.paused > 0:
            return False
        answer = self.policies["route"](self.desk.seen(request, None, "arrived"), self.views_for(request), self.now)
        index, source = answer if isinstance(answer, tuple) else (answer, -1)
        if index == HOLD:
            return False
        if request in self.held:
            self.held.remove(request)
            self.desk.leaves(request, None)
        self.dispatch(request, offered[index], offered[source] if source >= 0 else None)
        return True

    def dispatch(self, request: Request, server: Server, source: Server | None) -> None:
        """Send a request to an instance, its prefix ahead of it if the router asked for that."""
        most = request.context
        if server.role == "mixed" and not self.pooled:
            most = request.prompt_tokens + request.output_tokens - 1 + server.draft_tokens
        if ceil_div(most, server.block_tokens) > server.blocks.total_blocks:
            self.end(request, "failed")
            return
        own = server.hit(request)
        if request.replica_blocks:
            source = None
        best = source.hit(request) if source is not None else -1
        fetches = source is not None and source is not server and best > own
        request.prefill_instance = server.index
        holder = source if source is not None and fetches else server
        request.charged = request.context - (self.believed(request, holder) if self.reads_hits else 0)
        if self.hierarchy is not None:
            self.hierarchy.shards.sent(request, server)
        server.waiting += 1
        server.sent += 1
        server.waiting_tokens += request.context
        server.queued_tokens += request.charged
        if self.lives is not None and self.lives.receives(request, server):
            return
        if self.network is not None and self.network.fabric.request_token_bytes:
            send_request(self, request, server, source)
        else:
            self.settle_down(request, server, source)

    def settle_down(self, request: Request, server: Server, source: Server | None) -> None:
        """Fetch, load or queue a request on the instance that it was sent to."""
        own = server.hit(request)
        best = source.hit(request) if source is not None else -1
        fetches = source is not None and source is not server and best > own
        ends_ps = server.started_ps + server.cost if server.end_ps == OPEN else server.end_ps
        request.ready_ps = self.now if ends_ps is None else ends_ps
        if source is not None and fetches:
            fetch(self, request, server, source, best - own)
        elif self.hierarchy is None or not self.hierarchy.dispatched(request, server):
            self.enqueue(request, server)

    def enqueue(self, request: Request, server: Server) -> None:
        """Put a request into the queue of an instance, which starts if it was idle."""
        self.wait(request, server)
        if server.end_ps is None:
            self.schedule(server)

    def end(self, request: Request, status: str) -> None:
        """Give a request, and every turn that was to follow it, a status without result."""
        request.status = status
        for turn in self.requests:
            if turn.parent == request.row:
                self.end(turn, status)

    def release(self, request: Request, server: Server) -> None:
        """Give back every block that a request has on an instance."""
        server.blocks.release(request.context_chain, request.held_runs)
        request.held_runs = request.blocks_reused = 0
        server.blocks.give_back(request.private_blocks)
        request.private_blocks = request.reserved_blocks = 0

    # iterations

    def schedule(self, server: Server) -> bool:
        """Form the next batch of an instance; True if it admitted a request."""
        if self.moves:
            self.rank_all(server)
        pressed = make_room(self, server)
        tokens, decode, whole = self.policies["batch"](server.seen(**self.desk.pace(server)), self.now)
        if not pressed:
            preempt_by_order(self, server, int(tokens))
        admitted = admit_waiting(self, server, int(tokens), bool(whole), pressed)
        start_iteration(self, server, bool(decode))
        return admitted

    def end_iteration(self, server: Server) -> None:
        """Hand out the tokens of an iteration, and go on."""
        server.end_ps = None
        server.busy_ps += self.now - server.started_ps
        running, blocks = len(server.running), room(server)
        left = end_iteration_tokens(self, server)
        left |= self.mover.iteration_ended(server)
        if self.plans_ahead:
            server.seen_ps = server.started_ps
            server.late_places = running - len(server.running)
            server.late_blocks = max(0, room(server) - blocks)
        server.end_ps = self.now  # still busy while the cluster queue drains: step 5 forms the batch
        if left:
            self.drain()
        server.end_ps = None
        admitted = self.schedule(server)
        server.seen_ps, server.late_places, server.late_blocks = None, 0, 0
        if admitted:
            self.drain()
        for rank in server.group if len(server.group) > 1 else []:
            if rank.queue and rank.end_ps is None:
                self.schedule(rank)

    def finish(self, request: Request, server: Server) -> None:
        """Take a request that has all its tokens off an instance; it is complete unless it waits for stages."""
        take_back(self, request)
        keep_output(self, server, request)
        self.release(request, server)
        if self.lives is not None:
            self.lives.pools.finished(request)
        self.desk.accounts[None][request.tenant].outputs.append(request.output_tokens)
        if self.seer is not None:
            self.seer.learns(request)
        if self.stages is None or not self.stages.waits(request):
            self.conclude(request)

    def conclude(self, request: Request) -> None:
        """Complete a request; its turns come after their think time."""
        request.finish_ps = self.now
        request.status = "finished"
        for turn in self.requests:
            if turn.parent == request.row:
                self.arrivals.append((self.now + turn.think_ps, turn.row))

    def token(self, request: Request, server: Server) -> None:
        """Note a token of a request: its first, or one more gap."""
        request.generated += 1
        self.desk.got_token(request, server)
        if request.generated == 1:
            request.first_token_ps = self.now
            if self.lives is not None:
                self.lives.pools.began(request)
        else:
            gap_ps = self.now - request.last_token_ps
            request.max_itl_ps = max(request.max_itl_ps, gap_ps)
            self.gaps[request.tier].append(gap_ps)
        request.last_token_ps = self.now

    # results

    def check(self) -> None:
        """Fail if a request or a block is in two places or in none."""
        for server in self.servers:
            server.blocks.check()
            private = sum(request.private_blocks for request in server.running)
            private += sum(sent[1].private_blocks for sent in server.link.deliveries)
            private += sum(kept.private_blocks for kept in self.lives.kept_on(server)) if self.lives else 0
            assert private == server.blocks.private_blocks
            assert len(server.running) <= server.max_batch
        if self.hierarchy is not None:
            self.hierarchy.check()

    def check_end(self) -> None:
        """Fail if anything is held or under way when nothing is to happen any more."""
        if self.hierarchy is not None:
            self.hierarchy.check_end()
        if self.network is not None:
            self.network.check_end()
        if self.lives is not None:
            self.lives.check_end()

    def results(self) -> dict[str, Any]:
        """Return what became of every request, as lists in trace order."""
        rows = self.requests
        names = (*FIELDS, *HIERARCHY_FIELDS)
        found = {name: [getattr(row, name) for row in rows] for name in names if name != "generated_tokens"}
        return {
            **found,
            **({"first_token_ps": [self.stages.first_token_ps(row) for row in rows]} if self.stages else {}),
            "generated_tokens": [row.generated for row in rows],
            "gaps": [sorted(gaps) for gaps in self.gaps],
            "events": [self.events],
            "drafts": [(row.verifications, row.accepted_tokens) for row in rows],
            "stores": self.hierarchy.results() if self.hierarchy else {},
            "network": self.network.results() if self.network else {},
            "stages": self.stages.results() if self.stages else {},
            "lives": self.lives.results() if self.lives else {},
        }

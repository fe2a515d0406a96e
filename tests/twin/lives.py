"""The life of instances in the twin: what each is doing, what is noticed when, and how lost requests go on.

As MODEL.md says under *Instances that come and go*; what a failure takes is in `losing`, how pools change in `pools`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from replay.policy import GIVE_UP, RESTART, RESTORE
from tests.twin import losing
from tests.twin.links import carry_ps, send_on
from tests.twin.nodes import Member, Nodes
from tests.twin.plain import Request, Server
from tests.twin.pools import Pools
from tests.twin.traffic import choose_target

if TYPE_CHECKING:
    from replay.life import Life as Settings
    from tests.twin.model import Twin

OF_AN_INSTANCE = ("paid_ps", "up_ps", "down_ps", "crashes", "starts", "lost_requests", "lost_kv_tokens",
                  "cached_lost_blocks", "cached_shrunk_blocks")  # fmt: skip
OF_A_REQUEST = ("losses", "away_ps", "recomputed_tokens", "restored_tokens")


@dataclass(eq=False)
class Timer:
    """Something to come, after all that was asked for the same time before."""

    time_ps: int
    sequence: int
    what: str
    do: Callable[[], None]
    subject: Any = None


@dataclass(eq=False)
class Life(Member):
    """What an instance is doing, and did."""

    server: Server = field(kw_only=True)
    trusted: bool = False  # routers take it to be there
    suspects: int = 0  # health checks that fail although it is there
    notice_ps: int = -1  # when its last failure is known
    stopped_ps: int = 0  # its card sends nothing until then
    speeds: list[int] = field(default_factory=list)  # of failures of its card that are not over, in thousandths
    waits: list[Request] = field(default_factory=list)  # lost with it or sent to it in vain, until that is noticed
    lost_requests: int = 0
    lost_kv_tokens: int = 0


class Lives:
    """All instances that come, go and fail, and the requests that wait because of it."""

    def __init__(self, twin: Twin, settings: Settings, failures: Any, targets: tuple[float, float]) -> None:
        self.twin, self.settings, self.failures = twin, settings, failures
        self.pools = Pools(self, targets)
        self.lives = self.pools.first_lives()
        for store in twin.hierarchy.stores if twin.hierarchy is not None else []:
            if store.spec.server >= 0 and self.lives[store.spec.server].state != "up":
                store.present = False
        self.moments: list[tuple[int, int, str]] = []
        self.nodes = Nodes(self, twin.hierarchy) if twin.hierarchy is not None else None
        self.timers: list[Timer] = []
        self.asked_for = 0
        self.next_failure = 0
        self.paused = 0  # fail-overs of the control plane
        self.stranded: list[Request] = []  # prefilled, with no decode instance to go to
        self.shut: list[Request] = []  # that came, or were noticed lost, while the control plane was away
        self.again: list[Request] = []  # that go on in this event
        self.kept: dict[Request, Server] = {}  # where the KV of those is that are prefilled and on no link
        self.counts = dict.fromkeys(("lost", "retries", "restarts", "given_up", "wasted_tokens", "most_lost"), 0)
        if settings.interval_ps:
            self.after(settings.interval_ps, "ask", self.pools.ask)
        self.await_failure()

    # time

    def after(self, delay_ps: int, what: str, do: Callable[[], None], subject: Any = None) -> None:
        """Have something happen after a time; nothing but questions once every request has ended."""
        if what == "ask" or self.goes_on:
            self.timers.append(Timer(self.twin.now + delay_ps, self.asked_for, what, do, subject))
            self.asked_for += 1

    @property
    def goes_on(self) -> bool:
        """Whether any request has not ended."""
        return any(request.status == "unfinished" for request in self.twin.requests)

    def pending(self) -> list[tuple[int, int]]:
        """List (time, sequence) of what is to happen."""
        return [(timer.time_ps, timer.sequence) for timer in self.timers]

    def handle(self, sequence: int) -> None:
        """Let one thing happen, then everything that follows from it for requests."""
        timer = next(timer for timer in self.timers if timer.sequence == sequence)
        self.timers.remove(timer)
        timer.do()
        self.pools.start_lacking()
        if not self.paused:
            if self.twin.offered(self.twin.decoders):
                self.again += self.stranded
                self.stranded = []
            self.again += self.shut
            self.shut = []
        self.change_stores()
        while self.again:
            self.carry_on(self.again.pop(0))
        for life in self.lives:
            if life.serves and life.server.end_ps is None and life.server.queue:
                self.twin.schedule(life.server)
        self.twin.drain()

    def settle(self) -> None:
        """Switch off what drained and has nothing left, after every event; drop what matters no more."""
        if any(life.state == "draining" for life in self.lives):
            for life in self.lives:
                self.pools.may_vanish(life)
            self.pools.start_lacking()
        self.change_stores()
        if not self.goes_on:
            self.timers = [timer for timer in self.timers if timer.what == "ask"]

    def change_stores(self) -> None:
        """Let the hierarchy lose what the event in hand took."""
        if self.twin.hierarchy is not None:
            self.twin.hierarchy.fates.carry_out()

    def becomes(self, life: Life, state: str) -> None:
        """Let an instance do something else from now on."""
        life.passes(self.twin.now)
        life.state = state
        if self.twin.hierarchy is not None and state in ("up", "off"):
            self.twin.hierarchy.fates.own(life.server, "comes" if state == "up" else "goes")
        self.moments.append((self.twin.now, life.server.index, state))

    # what others ask

    def of(self, server: Server) -> Life:
        """Return the life of an instance."""
        return self.lives[server.index]

    def offers(self, server: Server) -> bool:
        """Whether routers take an instance to be there."""
        life = self.of(server)
        return life.trusted and life.suspects == 0 and life.state in ("up", "down")

    def permille(self, server: Server) -> int:
        """Return the speed of an instance's card now."""
        return min(self.of(server).speeds, default=1000)

    def kept_on(self, server: Server) -> list[Request]:
        """List the prefilled requests whose KV stays on an instance until they know where to go."""
        return [request for request, place in self.kept.items() if place is server]

    def shuts_out(self, request: Request) -> bool:
        """Let a request that comes wait while the control plane is away."""
        if self.paused:
            self.shut.append(request)
        return self.paused > 0

    def receives(self, request: Request, server: Server) -> bool:
        """Take a request that is routed to an instance which is not there, or whose KV comes from a replica."""
        life = self.of(server)
        if not life.serves:
            losing.never_came(self, request, server)
            return True
        if not request.replica_blocks:
            return False
        tokens = request.replica_blocks * server.block_tokens
        wait_ps = max(self.twin.now, life.stopped_ps) - self.twin.now
        delay_ps = wait_ps + carry_ps(self.twin, server, tokens) + server.link.latency_ps

        def came() -> None:
            request.came_blocks = request.replica_blocks
            self.twin.enqueue(request, server)

        self.after(delay_ps, "replica", lambda: self.again.append(came), (request, server))  # type: ignore[arg-type]
        return True

    def strands(self, request: Request, server: Server) -> bool:
        """Keep a prefilled request on its instance if no decode instance can be chosen for it."""
        if self.twin.offered(self.twin.decoders) and not self.paused:
            return False
        request.handed_off = True
        request.decode_instance = -1
        self.kept[request] = server
        self.stranded.append(request)
        return True

    def turns_back(self, request: Request, server: Server, target: Server) -> bool:
        """Keep a request whose handoff would end now on its instance, if the decode instance is not there."""
        life = self.of(target)
        if life.serves:
            return False
        losing.turn_back(self, request, server, target)
        if life.notice_ps < self.twin.now:
            self.after(0, "notice", lambda: self.notice(life))
        return True

    # how requests go on

    def notice(self, life: Life) -> None:
        """Notice the failures of an instance up to now that are due."""
        if life.state == "down" and life.notice_ps <= self.twin.now:
            life.trusted = False
        known = [request for request in life.waits if request.notice_ps <= self.twin.now]
        life.waits = [request for request in life.waits if request not in known]
        self.again += sorted(known, key=lambda request: request.row)

    def carry_on(self, request: Any) -> None:
        """Let a request go on: lost, prefilled without a place, shut out, or without the prefix that it fetched."""
        if callable(request):
            request()
        elif request.lost_ps >= 0:
            if not self.shuts_out(request):
                self.recover(request)
        elif request in self.kept:
            server = self.kept.pop(request)
            request.sendable_ps = self.twin.now
            if not self.strands(request, server):
                choose_target(self.twin, request, server)
                send_on(self.twin, request, server)
        elif request.fetching is not None:
            server, request.fetching = request.fetching, None
            if self.of(server).serves:
                self.twin.enqueue(request, server)
            else:
                losing.never_came(self, request, server)
        else:
            self.twin.meet(request)

    def recover(self, request: Request) -> None:
        """Do with a lost request what the policy says."""
        request.away_ps += self.twin.now - request.lost_ps
        request.lost_ps = -1
        seen = self.twin.desk.seen(request, None, "arrived")
        answer = self.twin.policies["recover"](seen, request.losses, self.twin.now)
        request.decode_instance = -1
        request.replica_blocks = request.came_blocks = 0
        if answer == GIVE_UP:
            self.counts["given_up"] += 1
            self.twin.end(request, "failed")
            return
        self.counts["retries"] += 1
        if answer == RESTART and request.generated:
            self.counts["restarts"] += 1
            self.counts["wasted_tokens"] += request.generated
            request.generated = 0
            request.first_token_ps = request.last_token_ps = request.max_itl_ps = -1
        every = self.settings.replica_tokens
        if answer == RESTORE and every and request.generated:
            request.replica_blocks = (request.context - 1) // every * every // self.twin.block_tokens
        self.twin.place(request)

    # failures

    def await_failure(self) -> None:
        """Wait for the next failure of the plan."""
        if self.next_failure < len(self.failures) - 1:
            at_ps = int(self.failures[self.next_failure]["at_ps"])
            self.after(at_ps - self.twin.now, "failure", self.fail)

    def fail(self) -> None:
        """Carry out the next failure."""
        failure = self.failures[self.next_failure]
        self.next_failure += 1
        self.await_failure()
        kinds = ("instance", "node", "link", "suspect", "control", "store", "shard")
        kind = kinds[failure["kind"]]
        before = self.counts["lost"]
        losing.carry_out(self, kind, int(failure["what"]), int(failure["for_ps"]), int(failure["permille"]))
        self.counts["most_lost"] = max(self.counts["most_lost"], self.counts["lost"] - before)

    def come_up(self, life: Life) -> None:
        """Let an instance serve whose start or repair is over."""
        if life.state in ("starting", "down") and life.until_ps == self.twin.now:
            self.becomes(life, "up")
            life.trusted = True

    # results

    def check_end(self) -> None:
        """Fail if a request waits for something that will not happen."""
        assert not self.again and not self.shut and not any(life.waits for life in self.lives)
        assert self.counts["lost"] == self.counts["retries"] + self.counts["given_up"]

    def results(self) -> dict[str, list]:
        """Return what instances did, and what that did to requests."""
        for life in self.lives:
            life.passes(self.twin.now)
        found: dict[str, list] = {name: [getattr(life, name) for life in self.lives] for name in OF_AN_INSTANCE}
        found |= {name: [getattr(row, name) for row in self.twin.requests] for name in OF_A_REQUEST}
        found["state"] = [life.state for life in self.lives]
        if self.nodes is not None:
            found |= {f"nodes.{name}": values for name, values in self.nodes.results().items()}
        return found | {name: [count] for name, count in self.counts.items()} | {"moments": self.moments}

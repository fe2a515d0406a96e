"""How many instances a pool has, in the twin: what scale policies are told, and how the cluster follows them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from tests.twin.losing import wipe
from tests.twin.nodes import NODE_ROLES, Nodes
from tests.twin.plain import Request

if TYPE_CHECKING:
    from tests.twin.lives import Life, Lives

PS = 1e-12
ROLES = ("prefill", "mixed", "decode")
TALLIES = ("arrivals", "arrived_tokens", "first_tokens", "ttft_ps", "finished", "output_tokens", "decode_ps",
           "decode_tokens")  # fmt: skip
NOMINAL = ("iteration_s", "prefill_token_s", "decode_request_s", "kv_token_s", "prefill_tokens_per_s")


class Pools:
    """The instances of each role, and totals of the whole cluster."""

    def __init__(self, lives: Lives, targets: tuple[float, float]) -> None:
        self.lives, self.targets = lives, targets
        self.settings = lives.settings
        self.totals = dict.fromkeys(TALLIES, 0)
        self.asked = [dict.fromkeys((*TALLIES, "busy_ps", "up_ps", "asked_ps"), 0) for _ in self.settings.pools]
        self.lacking = [0 for _ in self.settings.pools]

    def first_lives(self) -> list[Life]:
        """Return the life of every instance before the first event."""
        from tests.twin.lives import Life

        found = []
        for server in self.lives.twin.servers:
            number, pool = next((k, pool) for k, pool in enumerate(self.settings.pools) if pool.role == server.role)
            before = sum(life.pool == number for life in found)
            on = before < pool.initial
            found.append(Life(number, "up" if on else "off", server=server, trusted=on))
        return found

    def members(self, number: int, *states: str) -> list[Life]:
        """List the instances of a pool that do something."""
        return [life for life in self.lives.lives if life.pool == number and life.state in states]

    # totals

    def arrived(self, request: Request) -> None:
        """Count a request that came."""
        self.totals["arrivals"] += 1
        self.totals["arrived_tokens"] += request.prompt_tokens

    def began(self, request: Request) -> None:
        """Count a first token."""
        self.totals["first_tokens"] += 1
        self.totals["ttft_ps"] += self.lives.twin.now - request.arrival_ps

    def finished(self, request: Request) -> None:
        """Count a request that has all its tokens."""
        self.totals["finished"] += 1
        self.totals["output_tokens"] += request.output_tokens
        self.totals["decode_tokens"] += request.output_tokens - 1
        self.totals["decode_ps"] += self.lives.twin.now - request.first_token_ps

    # questions

    def ask(self) -> None:
        """Ask about every pool and follow at once; ask again later while anything goes on."""
        twin = self.lives.twin
        if twin.goes_on():
            self.lives.after(self.settings.interval_ps, "ask", self.ask)
        told = [self.tell(number) for number in range(len(self.settings.pools))]
        for number in range(len(told)):
            target = int(twin.policies["scale"](told[number], told, twin.now))
            if self.is_of_nodes(number):
                self.nodes.follow(number, target, told[number])
            else:
                self.follow(number, target, told[number])

    def is_of_nodes(self, number: int) -> bool:
        """Whether the members of a pool are not instances."""
        return self.settings.pools[number].role in NODE_ROLES

    @property
    def nodes(self) -> Nodes:
        """The nodes of the hierarchy."""
        assert self.lives.nodes is not None
        return self.lives.nodes

    def tell(self, number: int) -> SimpleNamespace:
        """Return what is told of a pool, and begin to count anew."""
        if self.is_of_nodes(number):
            return SimpleNamespace(**{**self.shared(number), **self.nodes.tell(number).__dict__})
        pool, twin = self.settings.pools[number], self.lives.twin
        up = [life.server for life in self.members(number, "up")]
        first = next(life.server for life in self.lives.lives if life.pool == number)
        blocks = sum(server.blocks.total_blocks for server in up)
        held = sum(server.blocks.private_blocks + server.blocks.pinned_blocks for server in up)
        return SimpleNamespace(
            role=ROLES.index(pool.role),
            index=number,
            up=len(up),
            starting=len(self.members(number, "starting")),
            draining=len(self.members(number, "draining")),
            down=len(self.members(number, "down")),
            least=pool.least,
            most=pool.most,
            lacking=self.lacking[number],
            waiting=sum(server.waiting for server in up),
            running=sum(len(server.running) for server in up),
            max_batch=sum(server.max_batch for server in up),
            held=len(twin.held),
            queued_tokens=sum(server.queued_tokens for server in up),
            kv_share=held / blocks if blocks else 0.0,
            **{**self.shared(number), **self.interval(number)},
            **{name: first.nominal[name] for name in NOMINAL},
            places=first.max_batch,
            kv_tokens=first.blocks.total_blocks * first.block_tokens,
            start_s=self.settings.start_ps * PS,
            read_tokens=0,
            tail_age_s=0.0,
        )

    def shared(self, number: int) -> dict[str, float]:
        """Return what is told of every pool, and count anew: what came to the cluster and what it did."""
        now = {**self.totals, "asked_ps": self.lives.twin.now}
        new = {name: value - self.asked[number].get(name, 0) for name, value in now.items()}
        self.asked[number] |= now
        return {
            "interval_s": new["asked_ps"] * PS,
            "arrivals": new["arrivals"],
            "arrived_tokens": new["arrived_tokens"],
            "first_tokens": new["first_tokens"],
            "ttft_s": mean(new["ttft_ps"], new["first_tokens"], PS),
            "finished": new["finished"],
            "mean_output_tokens": mean(new["output_tokens"], new["finished"], 1.0),
            "itl_s": mean(new["decode_ps"], new["decode_tokens"], PS),
            "ttft_target_s": self.targets[0],
            "itl_target_s": self.targets[1],
            "budget": self.settings.budget,
            "since_s": self.lives.twin.now * PS,
        }

    def interval(self, number: int) -> dict[str, float]:
        """Return how busy the instances of a pool were since it was last asked about."""
        now_ps = self.lives.twin.now
        own = [life for life in self.lives.lives if life.pool == number]
        busy_ps = up_ps = 0
        for life in own:
            server = life.server
            busy_ps += server.busy_ps + (now_ps - server.started_ps if server.end_ps is not None else 0)
            up_ps += life.up_ps + (now_ps - life.since_ps if life.serves else 0)
        before, self.asked[number] = self.asked[number], self.asked[number] | {"busy_ps": busy_ps, "up_ps": up_ps}
        return {"busy_share": mean(busy_ps - before["busy_ps"], up_ps - before["up_ps"], 1.0)}

    # following

    def follow(self, number: int, wanted: int, told: SimpleNamespace) -> None:
        """Bring a pool towards a number of instances that serve or start."""
        pool = self.settings.pools[number]
        more = min(max(wanted, pool.least), pool.most) - (told.up + told.starting)
        self.lacking[number] = 0
        if more > 0:
            self.add(number, more)
        for _ in range(-more):
            self.remove_one(number)

    def add(self, number: int, wanted: int) -> None:
        """Let more instances serve: those that drain at once, others start if the budget allows."""
        lives, now_ps = self.lives, self.lives.twin.now
        for life in self.members(number, "draining")[:wanted]:
            lives.becomes(life, "up")
            life.trusted = True
            wanted -= 1
        on = sum(life.state != "off" for life in lives.lives)
        room = self.settings.budget - on if self.settings.budget else wanted
        able = [life for life in self.members(number, "off") if life.until_ps <= now_ps]
        for life in able[: max(0, min(room, wanted))]:
            lives.becomes(life, "starting")
            life.starts += 1
            life.until_ps = now_ps + self.settings.start_ps
            lives.after(self.settings.start_ps, "up", lambda life=life: lives.come_up(life), life)
            wanted -= 1
            room -= 1
        self.lacking[number] = wanted if self.settings.budget and room <= 0 else 0

    def start_lacking(self) -> None:
        """Start what the budget had no room for."""
        for number, lacking in enumerate(self.lacking):
            if lacking:
                self.add(number, lacking)

    def remove_one(self, number: int) -> None:
        """Take an instance away: the last one that starts, else of those with the fewest requests the last one."""
        lives = self.lives
        if starting := self.members(number, "starting"):
            life = starting[-1]
            lives.timers = [timer for timer in lives.timers
                            if not (timer.what == "up" and timer.subject is life and timer.time_ps == life.until_ps)]
            lives.becomes(life, "off")
        elif up := self.members(number, "up"):
            life = min(reversed(up), key=lambda life: life.server.waiting + len(life.server.running))
            lives.becomes(life, "draining")
            life.trusted = False
            self.may_vanish(life)

    def may_vanish(self, life: Life) -> None:
        """Switch an instance off that drains and has nothing left to do."""
        server = life.server
        busy = server.waiting or server.running or server.link.deliveries or self.lives.kept_on(server)
        if life.state == "draining" and not busy:
            life.cached_shrunk_blocks += server.blocks.cached_blocks
            wipe(self.lives, life)
            self.lives.becomes(life, "off")


def mean(amount: int, count: int, factor: float) -> float:
    """Return a mean, 0 of nothing."""
    return float(amount) * factor / count if count > 0 else 0.0

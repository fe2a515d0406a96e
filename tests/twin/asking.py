"""What policies of the twin are shown of a request, the fairness between tenants, and signals with an age."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import inf
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tests.twin.plain import Request, Server

if TYPE_CHECKING:
    from replay.slo import Slo
    from tests.twin.model import Twin

PS = 1e-12
TARGETS = ("ttft_s", "tpot_s", "itl_s", "e2e_s")


@dataclass
class Account:
    """What a tenant got at a holder."""

    input_tokens: int = 0
    output_tokens: int = 0
    lift: float = 0.0
    waiting: int = 0
    outputs: list[int] = field(default_factory=list)  # of its last finished requests; of the cluster's account only


class Desk:
    """Answers for policies about requests: targets, spells, what is left to prefill, service of tenants.

    A holder is an instance or None, the cluster and its queue.
    """

    def __init__(self, twin: Twin, slo: Slo | None, order: Any, labels: list[str]) -> None:
        self.twin, self.slo, self.labels = twin, slo, labels
        self.accounts: dict[Any, dict[int, Account]] = defaultdict(lambda: defaultdict(Account))
        self.last: dict[Any, int | None] = defaultdict(lambda: None)
        self.input_weight = order.values.get("input_weight", 1.0)
        self.output_weight = order.values.get("output_weight", 2.0)

    def seen(self, request: Request, server: Server | None, stage: str) -> SimpleNamespace:
        """Return all that a policy may know of a request.

        stage : "arrived" (no instance yet), "waits" (in the queue of the server), "runs" (in its batch), "handed" (its
                KV is on the server, and goes elsewhere)
        """
        runs = stage == "runs"
        elapsed_ps = self.twin.now - request.since_ps
        tokens, seconds = self.to_prefill(request, server, stage)
        service, promised = self.service(server, request.tenant), self.promised(server, request.tenant)
        share = self.share(request.tenant)
        return request.seen(
            **self.promises(request),
            runs=int(runs),
            true_tokens=request.output_tokens,
            preemptions=request.preemptions,
            stage_s=elapsed_ps * PS,
            waited_s=request.waited_ps * PS if runs else 0.0,
            served_s=(request.served_ps + (elapsed_ps if runs else 0)) * PS,
            prefill_tokens=tokens,
            prefill_s=seconds,
            tenant_service=service,
            tenant_expected=service + self.output_weight * promised / share,
            tenant_weight=share,
            predicted_p90_tokens=request.p90_tokens,
            predicted_p99_tokens=request.p99_tokens,
            predicted_left_tokens=self.twin.seer.left(request) if self.twin.seer is not None else -1.0,
            prefix_keys=request.prefix_keys,
        )

    def promises(self, request: Request) -> dict[str, float]:
        """Return the targets of a request's tier, inf for none."""
        tier = self.slo.tiers[request.tier] if self.slo is not None else None
        found = {name: getattr(tier, name, None) for name in TARGETS}
        money = {name: getattr(tier, name, 0.0) for name in ("weight", "price_usd", "penalty_usd")}
        return {name: inf if value is None else value for name, value in found.items()} | money

    def to_prefill(self, request: Request, server: Server | None, stage: str) -> tuple[int, float]:
        """Return the tokens that a request has still to prefill, and the time of that alone."""
        context = tokens = request.context
        if stage == "runs":
            tokens = 0 if server is not None and request in server.decoding else request.prefill_left
            context = request.prefilled + request.prefill_left
        elif stage == "handed":
            tokens = 0
        elif stage == "waits" and server is not None:
            blocks = max(server.blocks.visible_blocks(request.findable), request.counted_blocks, request.came_blocks)
            tokens = 0 if request.handed_off else context - server.usable(blocks, context)
        if tokens == 0:
            return 0, 0.0
        nominal = (server or self.twin.servers[0]).nominal
        squares = float(context) * context - float(context - tokens) * (context - tokens)
        own_s = tokens * nominal["prefill_token_s"]
        return tokens, nominal["iteration_s"] + own_s + squares * nominal["prefill_token_sq_s"]

    # tenants

    def share(self, tenant: int) -> float:
        """Return a tenant's share of service, relative to others."""
        return self.slo.share(self.labels[tenant]) if self.slo is not None and tenant >= 0 else 1.0

    def service(self, holder: Server | None, tenant: int) -> float:
        """Return what a tenant got at a holder, weighed."""
        account = self.accounts[holder][tenant]
        tokens = self.input_weight * account.input_tokens + self.output_weight * account.output_tokens
        return account.lift + tokens / self.share(tenant)

    def promised(self, holder: Server | None, tenant: int) -> int:
        """Return the output tokens that a tenant's running requests are expected to get yet."""
        servers = self.twin.servers if holder is None else [holder]
        running = [request for server in servers for request in server.running if request.tenant == tenant]
        return sum(max(0, request.promised - request.generated) for request in running)

    def joins(self, request: Request, holder: Server | None) -> None:
        """Count a request among those that wait at a holder, its tenant lifted if it comes back."""
        accounts = self.accounts[holder]
        if accounts[request.tenant].waiting == 0:
            waiting = [tenant for tenant, account in accounts.items() if account.waiting > 0]
            last = self.last[holder]
            others = waiting or ([last] if last is not None else [])
            least = min((self.service(holder, tenant) for tenant in others), default=-inf)
            own = self.service(holder, request.tenant)
            if own < least:
                accounts[request.tenant].lift += least - own
        accounts[request.tenant].waiting += 1

    def leaves(self, request: Request, holder: Server | None) -> None:
        """Count a request no more among those that wait at a holder."""
        self.accounts[holder][request.tenant].waiting -= 1
        self.last[holder] = request.tenant

    def admitted(self, request: Request, server: Server, computes: bool) -> None:
        """Note that a request runs; its prompt is charged once."""
        request.waited_ps = self.twin.now - request.since_ps
        request.since_ps = self.twin.now
        self.leaves(request, server)
        if computes:
            last = self.accounts[None][request.tenant].outputs[-5:]
            request.promised = sum(last) // max(1, len(last))
            if not request.prompt_charged:
                request.prompt_charged = True
                self.accounts[server][request.tenant].input_tokens += request.prompt_tokens
                self.accounts[None][request.tenant].input_tokens += request.prompt_tokens

    def got_token(self, request: Request, server: Server) -> None:
        """Charge a token to a request's tenant."""
        self.accounts[server][request.tenant].output_tokens += 1
        self.accounts[None][request.tenant].output_tokens += 1

    def stopped(self, request: Request) -> None:
        """Note that a request runs no more."""
        request.served_ps += self.twin.now - request.since_ps
        request.since_ps = self.twin.now

    # pace of the decodes, for batch policies

    def pace(self, server: Server) -> dict[str, float]:
        """Return the least ITL target among the decoding requests, and the time until the first token is due."""
        least_s, slack_s = inf, inf
        for request in server.decoding:
            target = self.promises(request)
            least_s = min(least_s, target["itl_s"])
            due_s = target["ttft_s"] + request.generated * min(target["itl_s"], target["tpot_s"])
            slack_s = min(slack_s, due_s - (self.twin.now - request.arrival_ps) * PS)
        return {"least_itl_s": least_s, "slack_s": slack_s}


class Board:
    """What routers are told of instances: their counts at the last tick, but what routers count themselves."""

    def __init__(self, servers: list[Server], lag_ps: int) -> None:
        self.servers, self.lag_ps, self.next_ps = servers, lag_ps, 0
        self.told = [server.seen() for server in servers]

    def tick(self, time_ps: int) -> None:
        """Take the counts if a tick came since they were taken, before what happens at time_ps."""
        if self.lag_ps and time_ps >= self.next_ps:
            self.told = [server.seen() for server in self.servers]
            self.next_ps = time_ps - time_ps % self.lag_ps + self.lag_ps

    def view(self, server: Server, hit_tokens: int) -> SimpleNamespace:
        """Return an instance as a router sees it."""
        now = server.seen(hit_tokens)
        if self.lag_ps == 0:
            return now
        told = SimpleNamespace(**vars(self.told[server.index]))
        told.hit_tokens, told.sent, told.in_flight = now.hit_tokens, now.sent, now.in_flight
        return told

"""Stages beside the transformer in the twin: lists of calls, servers and links, as STAGES.md orders them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, cos, exp, floor, log, pi, sqrt
from typing import TYPE_CHECKING, Any

from replay.engine.draws import mix
from replay.stages import AFTER, BEFORE, BESIDE, FIRST_TOKEN, SEGMENT, Law, Stage
from tests.twin.plain import Request

if TYPE_CHECKING:
    from tests.twin.model import Twin
    from traces.schema import Trace

STREAM = 2**62
PS_PER_S = 1e12


@dataclass(eq=False)
class Call:
    """One call of a stage."""

    request: Request
    stage: int
    items: int
    work_ps: int
    since_ps: int = -1
    begun_ps: int = -1


@dataclass(eq=False)
class Task:
    """A stage of a request: its calls, and what came of them."""

    calls: list[Call]
    issued: int = 0
    ended: int = 0
    started: bool = False
    over: bool = False
    ready_ps: int = -1
    end_ps: int = -1
    queue_ps: int = 0
    service_ps: int = 0


@dataclass(eq=False)
class Pool:
    """Who serves a stage."""

    stage: Stage
    servers: list[tuple[int, list[Call]] | None]  # end of the batch and what is left of it
    queue: list[Call] = field(default_factory=list)
    link: list[tuple[int, Call]] = field(default_factory=list)
    link_free_ps: int = 0
    look_ps: int | None = None
    batches: int = 0

    def due_ps(self) -> int:
        """Return when a batch may begin."""
        if len(self.queue) >= self.stage.max_batch:
            return 0
        return min(call.since_ps for call in self.queue) + self.stage.wait_ps


class Stages:
    """The stages of all requests."""

    def __init__(self, twin: Twin, trace: Trace, stages: tuple[Stage, ...]) -> None:
        self.twin, self.stages = twin, stages
        self.pools = [Pool(stage, [None] * stage.servers) for stage in stages]
        self.tasks = {request: [Task(self.calls(request, s, trace)) for s in range(len(stages))]
                      for request in twin.requests}  # fmt: skip
        self.phase: dict[Request, int | None] = {}  # place that a request is in; SEGMENT while it is only waited for
        self.decoded: dict[Request, int] = {}
        self.moved = False

    # what a request has to do

    def calls(self, request: Request, s: int, trace: Trace) -> list[Call]:
        """Return the calls that a request has of a stage."""
        stage, column = self.stages[s], 0
        if self.uniform(request, s, 0, 0) >= stage.share:
            return []
        if isinstance(stage.items, str):
            column = int(trace.column(stage.items)[request.row])
            if column <= 0:
                return []
        count = ceil(request.output_tokens / stage.every_tokens) if stage.place == SEGMENT else 1
        found = []
        for k in range(count):
            items = column or max(1, round(self.draw(stage.items, request, s, k, 1)))
            if stage.items == "output_tokens" and stage.place == SEGMENT:
                items = min(stage.every_tokens, request.output_tokens - k * stage.every_tokens)
            parts = [1] * items if stage.split else [items]
            for part, items in enumerate(parts):
                item_s = self.draw(stage.item_s, request, s, k + part, 3)
                found.append(Call(request, s, items, round(item_s * items * PS_PER_S)))
        return found

    def draw(self, law: Any, request: Request, s: int, k: int, purpose: int) -> float:
        """Draw a number by inversion."""
        if not isinstance(law, Law):
            return float(law)
        u = self.uniform(request, s, k, purpose)
        if law.law == "constant":
            return law.mean
        if law.law == "exponential":
            return -law.mean * log(1 - u)
        if law.law == "geometric":
            return 1 + floor(log(1 - u) / log(1 - 1 / law.mean)) if law.mean > 1 else 1
        sigma = sqrt(log(1 + law.cv**2))
        normal = sqrt(-2 * log(1 - u)) * cos(2 * pi * self.uniform(request, s, k, purpose + 1))
        return law.mean * exp(sigma * normal - sigma**2 / 2)

    def uniform(self, request: Request, s: int, k: int, purpose: int) -> float:
        """Return a draw in [0, 1) of a request, a stage, a call and a purpose."""
        stream = STREAM + s * 2**48 + k * 8 + purpose
        return (mix(int(request.random_key) ^ mix(stream)) >> 11) * 2.0**-53

    # the way of a request

    def enters(self, request: Request) -> bool:
        """Begin what comes before; True if the request waits for it."""
        self.phase[request] = BEFORE
        return not self.goes_on(request)

    def admitted(self, request: Request) -> None:
        """Begin what goes on beside the decoder."""
        self.open(request, BESIDE)
        self.open(request, SEGMENT)

    def got_token(self, request: Request) -> None:
        """Issue the calls of segments that are due."""
        for s, stage in enumerate(self.stages):
            task = self.tasks[request][s]
            if stage.place == SEGMENT:
                while task.issued < len(task.calls) and request.generated >= min(
                    (task.issued + 1) * stage.every_tokens, request.output_tokens
                ):
                    self.issue(task)

    def waits(self, request: Request) -> bool:
        """Note that a request has all its tokens; True if it waits for stages."""
        self.decoded[request] = self.twin.now
        self.phase[request] = SEGMENT
        return not self.goes_on(request)

    def goes_on(self, request: Request) -> bool:
        """Begin what a request may begin where it is; True if it is past that: to the decoder, or at its end."""
        if self.phase[request] == BEFORE:
            self.open(request, BEFORE)
            if not self.over(request, BEFORE):
                return False
            self.phase[request] = BESIDE
            return True
        if self.phase[request] in (BESIDE, SEGMENT):
            self.open(request, BESIDE)
        if self.phase[request] == SEGMENT and self.over(request, BESIDE) and self.over(request, SEGMENT):
            self.phase[request] = AFTER
        if self.phase[request] == AFTER:
            self.open(request, AFTER)
            return self.over(request, AFTER)
        return False

    def over(self, request: Request, place: int) -> bool:
        """Say whether all stages of a place are over."""
        return all(self.tasks[request][s].over for s, stage in enumerate(self.stages) if stage.place == place)

    def open(self, request: Request, place: int) -> None:
        """Begin the stages of a place whose needs are over."""
        tasks = self.tasks[request]
        for s, stage in enumerate(self.stages):
            if stage.place == place and not tasks[s].started and all(tasks[other].over for other in stage.needs):
                tasks[s].started = True
                tasks[s].over = not tasks[s].calls
                for _ in tasks[s].calls if place != SEGMENT else []:
                    self.issue(tasks[s])

    def issue(self, task: Task) -> None:
        """Put the next call of a stage into its queue."""
        call = task.calls[task.issued]
        task.issued += 1
        task.ready_ps = self.twin.now if task.issued == 1 else task.ready_ps
        call.since_ps = self.twin.now
        self.pools[call.stage].queue.append(call)
        self.moved = True

    def ended(self, call: Call) -> None:
        """Handle the end of a call, and let its request go on or end where it was the last that it waited for."""
        task, request = self.tasks[call.request][call.stage], call.request
        task.ended += 1
        task.end_ps = self.twin.now
        if task.ended < len(task.calls):
            return
        task.over = True
        if request.status == "unfinished" and self.goes_on(request):
            if self.phase[request] == BESIDE:
                self.twin.entered(request)
            else:
                self.twin.conclude(request)

    # events

    def pending(self) -> list[tuple[int, int]]:
        """List (time, index) of what is to happen: links, servers, waits."""
        count, events, first = len(self.stages), [], len(self.stages)
        servers = sum(len(pool.servers) for pool in self.pools)
        for s, pool in enumerate(self.pools):
            if pool.link:
                events.append((pool.link[0][0], s))
            events += [(batch[0], first + b) for b, batch in enumerate(pool.servers) if batch is not None]
            first += len(pool.servers)
            if pool.look_ps is not None:
                events.append((pool.look_ps, count + servers + s))
        return events

    def handle(self, index: int) -> None:
        """Handle an event."""
        if index < len(self.stages):
            self.ended(self.pools[index].link.pop(0)[1])
            return
        index -= len(self.stages)
        for pool in self.pools:
            if index < len(pool.servers):
                self.served(pool, index)
                return
            index -= len(pool.servers)
        self.pools[index].look_ps = None
        self.moved = True

    def served(self, pool: Pool, b: int) -> None:
        """Handle the end of the first call that is left on a server."""
        batch = pool.servers[b]
        assert batch is not None
        call = batch[1].pop(0)
        self.tasks[call.request][call.stage].service_ps += batch[0] - call.begun_ps
        if not batch[1]:
            pool.servers[b] = None
            self.moved = True
        stage = pool.stage
        if stage.item_fs or stage.latency_ps:
            pool.link_free_ps = max(self.twin.now, pool.link_free_ps) + stage.item_fs * call.items // 1000
            pool.link.append((pool.link_free_ps + stage.latency_ps, call))
        else:
            self.ended(call)

    def settle(self) -> None:
        """Begin batches at the end of an event, unless more of the stages is to happen now."""
        if not self.moved or any(time == self.twin.now for time, _ in self.pending()):
            return
        self.moved = False
        for pool in self.pools:
            self.begin(pool)

    def begin(self, pool: Pool) -> None:
        """Begin the batches that can."""
        pool.look_ps = None
        stage = pool.stage
        while pool.queue and None in pool.servers:
            if pool.due_ps() > self.twin.now:
                pool.look_ps = pool.due_ps()
                return
            if stage.by_tier:
                pool.queue.sort(key=lambda call: call.request.tier)  # stable
            batch, pool.queue = pool.queue[: stage.max_batch], pool.queue[stage.max_batch :]
            end_ps = self.twin.now + stage.base_ps + sum(call.work_ps for call in batch)
            for call in batch:
                call.begun_ps = self.twin.now
                self.tasks[call.request][call.stage].queue_ps += self.twin.now - call.since_ps
            pool.servers[pool.servers.index(None)] = (end_ps, batch)
            pool.batches += 1

    # results

    def first_token_ps(self, request: Request) -> int:
        """Return when the first token reached its user."""
        first = request.first_token_ps
        for stage, task in zip(self.stages, self.tasks[request], strict=True):
            if stage.place == BESIDE and stage.gate == FIRST_TOKEN and task.calls and first >= 0:
                first = max(first, task.end_ps) if task.over else -1
        return first

    def binds(self, request: Request) -> str | None:
        """Return the longest span on the way back from the end of a request."""
        if request.finish_ps < 0:
            return None
        spans = {"decoder": 0} | {stage.name: 0 for stage in self.stages}
        entered = max([request.arrival_ps, *(self.tasks[request][s].end_ps for s, stage in enumerate(self.stages)
                                             if stage.place == BEFORE)])  # fmt: skip
        at = self.back(request, AFTER, request.finish_ps, spans)
        if at > self.decoded[request]:
            late = [s for s, stage in enumerate(self.stages)
                    if stage.place == SEGMENT and self.tasks[request][s].end_ps == at]
            if late:
                spans[self.stages[late[0]].name] = at - self.decoded[request]
                spans["decoder"] = self.decoded[request] - entered
            else:
                self.back(request, BESIDE, at, spans)
        else:
            spans["decoder"] = self.decoded[request] - entered
        self.back(request, BEFORE, entered, spans)
        return max(spans, key=lambda name: spans[name])

    def binds_first(self, request: Request) -> str | None:
        """Return the longest span on the way back from the first token."""
        first = self.first_token_ps(request)
        if first < 0:
            return None
        spans = {"decoder": 0} | {stage.name: 0 for stage in self.stages}
        entered = max([request.arrival_ps, *(self.tasks[request][s].end_ps for s, stage in enumerate(self.stages)
                                             if stage.place == BEFORE)])  # fmt: skip
        if first > request.first_token_ps:
            self.back(request, BESIDE, first, spans)
        else:
            spans["decoder"] = first - entered
        self.back(request, BEFORE, entered, spans)
        return max(spans, key=lambda name: spans[name])

    def back(self, request: Request, place: int, at: int, spans: dict[str, int]) -> int:
        """Walk back over the stages of a place from a time; returns where that leads."""
        for s in reversed(range(len(self.stages))):
            task = self.tasks[request][s]
            if self.stages[s].place == place and task.calls and task.end_ps == at:
                spans[self.stages[s].name] = at - task.ready_ps
                at = task.ready_ps
        return at

    def results(self) -> dict[str, Any]:
        """Return what became of the stages of every request, by row."""
        rows = self.twin.requests
        found: dict[str, Any] = {"binds": [self.binds(row) for row in rows]}
        found["binds_first"] = [self.binds_first(row) for row in rows]
        for s, stage in enumerate(self.stages):
            for name in ("ready_ps", "end_ps", "queue_ps", "service_ps", "ended"):
                found[f"{stage.name} {name}"] = [getattr(self.tasks[row][s], name) for row in rows]
        return found | {"batches": [pool.batches for pool in self.pools]}

"""Plain objects of the twin: a request and an instance, with what a policy may see of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from replay.cluster import Instance
from replay.engine.draws import mix
from replay.hardware.profile import nominal
from replay.speculation import Speculation
from tests.twin.chains import Run
from tests.twin.prefixes import BlockCache
from tests.twin.residents import Clock, Resident, Rules

if TYPE_CHECKING:
    from tests.twin.stores import Load

FS_PER_S = 1e15
PS_PER_S = 1e12
CHUNK = tuple[int, int]
OPEN = 10**30  # the end of an iteration that waits for KV


@dataclass(eq=False)
class Request:
    """One request: what the trace says, where it is, and what came of it."""

    row: int
    prompt_tokens: int
    output_tokens: int
    arrival_ps: int
    random_key: np.uint64
    predicted_tokens: int
    p90_tokens: int
    p99_tokens: int
    tier: int
    tenant: int
    session: int
    kind: int
    parent: int
    think_ps: int
    chain: list[Run]
    turn: int
    context_chain: list[Run] = field(default_factory=list)  # that of the prompt goes on into what is generated
    prefix_keys: list[int] = field(default_factory=list)
    sequence: int = 0
    key: float = 0.0
    margin: float = 0.0
    generated: int = 0
    prefilled: int = 0
    prefill_left: int = 0
    reserved_blocks: int = 0  # that it holds while it decodes here, with those for proposed tokens
    verifications: int = 0
    accepted_tokens: int = 0
    chunk: CHUNK | None = None
    charged: int = 0
    private_blocks: int = 0
    held_runs: int = 0
    blocks_reused: int = 0
    handed_off: bool = False
    last_token_ps: int = -1
    scheduled_ps: int = -1
    first_token_ps: int = -1
    finish_ps: int = -1
    max_itl_ps: int = -1
    status: str = "unfinished"
    prefill_instance: int = -1
    decode_instance: int = -1
    hit_tokens: int = 0
    preemptions: int = 0
    load: Load | None = None  # the latest
    waits: bool = False  # outside the queue, for its load
    ready_ps: int = -1  # when its instance could first have admitted it
    counted_blocks: int = 0  # of its path when its load is there, if it is to run with it
    stall_ps: int = 0
    anew: bool = False  # it was lost with an instance, and not admitted since
    able: bool = False  # its decode instance, chosen, can hold it
    handed_over: bool = False  # its prefill is complete
    parts_under_way: int = 0  # transfers of its handoff over a fabric
    cached_tokens: int = 0  # of its admission, still to be sent
    since_ps: int = 0  # it arrived, last ran, or was admitted
    queued_ps: int = 0  # it joined the queue where it waits
    waited_ps: int = 0  # before it came to run
    served_ps: int = 0  # in batches, up to since_ps if it runs
    promised: int = 0  # output expected of it when it was admitted
    prompt_charged: bool = False
    predicted: bool = False  # or put off until it is
    lookup_ps: int = 0
    load_ps: int = 0
    exposed_ps: int = 0
    hbm_tokens: int = 0
    dram_tokens: int = 0
    disk_tokens: int = 0
    # where instances fail
    losses: int = 0
    lost_ps: int = -1
    notice_ps: int = -1  # when it is known that it is lost, or that its decode instance is
    away_ps: int = 0
    lost_kv: int = 0  # tokens of KV that it had and has not got again
    recomputed_tokens: int = 0
    restored_tokens: int = 0
    replica_blocks: int = 0  # that are to come from a replica
    came_blocks: int = 0  # that came from one, until it runs
    fetching: Server | None = None  # where it goes on without the prefix that it fetched
    sendable_ps: int = 0  # nothing of its KV could be sent before

    @property
    def context(self) -> int:
        """Tokens of the prompt and of the answer so far."""
        return self.prompt_tokens + self.generated

    @property
    def findable(self) -> list[Run]:
        """The blocks under which its context may be found: of the prompt alone until something is generated."""
        return self.context_chain if self.generated else self.chain

    @property
    def place(self) -> tuple[float, int]:
        """Where it stands among others: the smallest goes first."""
        return (self.key, self.row)

    def seen(self, **more: Any) -> SimpleNamespace:
        """Return what a policy may know: the fields of REQUEST, and more where it is worked out."""
        return SimpleNamespace(
            id=self.row,
            arrival_ps=self.arrival_ps,
            random_key=self.random_key,
            sequence=self.sequence,
            prompt_tokens=self.prompt_tokens,
            generated_tokens=self.generated,
            predicted_tokens=self.predicted_tokens,
            tier=self.tier,
            tenant=self.tenant,
            session=self.session,
            kind=self.kind,
            turn=self.turn,
            **more,
        )


@dataclass(eq=False)
class Link:
    """The NIC of an instance: what it carries, in order of delivery."""

    token_fs: int
    latency_ps: int
    free_ps: int = 0
    deliveries: list[tuple[int, Request, str, int, int]] = field(default_factory=list)


class Server:
    """One instance: its waiting and running requests, its blocks and its link."""

    def __init__(
        self, index: int, instance: Instance, rules: Rules, clock: Clock, caches: bool, unit_tokens: int = 0,
        speculation: Speculation | None = None,
    ) -> None:
        self.speculation = speculation
        self.draft_tokens = speculation.draft_tokens if speculation is not None else 0
        self.index = index
        self.role = instance.role
        self.home = instance.home or instance.role
        self.profile = instance.profile
        self.max_batch = instance.max_batch
        self.token_budget = instance.token_budget
        self.block_tokens = instance.block_tokens
        self.blocks = BlockCache(instance.kv_blocks, rules, clock, caches and self.role != "decode")
        self.unit_tokens = unit_tokens
        self.transfer_token_s = instance.profile.kv_token_bytes / instance.nic_bytes_per_s
        self.transfer_latency_s = instance.nic_latency_s
        self.nominal = nominal(instance.profile)
        self.link = Link(round(self.transfer_token_s * FS_PER_S), round(instance.nic_latency_s * PS_PER_S))
        self.queue: list[Request] = []
        self.prefilling: list[Request] = []
        self.decoding: list[Request] = []
        self.decodes_run: list[Request] = []
        self.end_ps: int | None = None
        self.waiting = 0
        self.sent = 0
        self.queued_tokens = 0
        self.waiting_tokens = 0
        self.loads_under_way = 0
        self.pending_loads: list[Load] = []
        self.stalls: list[tuple[int, Request]] = []  # of the requests admitted to the next iteration
        self.empty_since_ps = 0
        self.busy_ps = 0  # in iterations that are over
        self.started_ps = self.cost = self.longer_ps = 0  # of the iteration in progress, with a fabric
        self.exchanges = 0  # transfers that it waits for
        self.wipes = 0  # how often its memory was emptied
        self.awaited: list[Request] = []  # requests for whose loads it waits
        self.group = [self]  # the ranks that step together
        self.planned: tuple[int, int, int, int] | None = None  # for `cost_ps`, of a rank that waits
        # with batches formed ahead, at the end of an iteration: who was queued later than this is not admitted, and
        # what came free only then is not used
        self.seen_ps: int | None = None
        self.late_places = self.late_blocks = 0

    @property
    def running(self) -> list[Request]:
        """All requests of the batch."""
        return self.prefilling + self.decoding

    @property
    def head(self) -> Request | None:
        """The waiting request that goes first."""
        return min(self.queue, key=lambda request: request.place, default=None)

    @property
    def worst(self) -> Request | None:
        """The running request that goes last."""
        return max(self.running, key=lambda request: request.place, default=None)

    def growth(self) -> int:
        """Blocks that the decoding requests need for their next iteration."""
        return sum(map(self.grows, self.decoding))

    def grows(self, request: Request) -> int:
        """Blocks that one of them needs: for its last token, and for those that it proposes."""
        held = max(request.reserved_blocks, ceil_div(request.context - 1, self.block_tokens))
        return ceil_div(request.context + self.draft_tokens, self.block_tokens) - held

    def usable(self, blocks: int, context: int) -> int:
        """Return the tokens of a prompt that so many blocks spare it: never its last, and whole units."""
        tokens = min(blocks * self.block_tokens, (context - 1) // self.block_tokens * self.block_tokens)
        return tokens - tokens % self.unit_tokens if self.unit_tokens > 0 else tokens

    def hit(self, request: Request) -> int:
        """Prompt tokens of a request that are cached here."""
        return self.usable(self.blocks.visible_blocks(request.chain), request.prompt_tokens)

    def needs(self, request: Request) -> tuple[int, int]:
        """Return the blocks that admission takes, and how many cached ones it would pin."""
        if request.handed_off:
            return ceil_div(request.context - 1, self.block_tokens), 0
        path = self.path(request)
        resident = self.path_blocks(request)
        unpinned = sum(len(part.blocks) for part in path if part.pins == 0)
        return ceil_div(request.context, self.block_tokens) - resident, unpinned

    def path(self, request: Request) -> list[Resident]:
        """Return what a waiting request finds here of its context."""
        most = request.context // self.block_tokens
        return [part for part in self.blocks.visible(request.findable) if part.run.start_blocks < most]

    def path_blocks(self, request: Request) -> int:
        """Count the blocks of that; others may have made more of a run reusable than the request has."""
        found = sum(len(part.blocks) for part in self.path(request))
        return min(found, request.context // self.block_tokens)

    def fits(self, request: Request, less: int = 0) -> bool:
        """Say whether a waiting request finds its blocks, beside the growth of those that run and `less` others."""
        needed, unpinned = self.needs(request)
        grows = self.grows(request) if request.handed_off else 0
        room = self.blocks.free_blocks + self.blocks.cached_blocks - unpinned
        return needed + grows + self.growth() <= room - less

    def seen(self, hit_tokens: int = 0, least_itl_s: float = inf, slack_s: float = inf) -> SimpleNamespace:
        """Return what a policy may know: the fields of VIEW."""
        return SimpleNamespace(
            role=("prefill", "mixed", "decode").index(self.role),
            waiting=self.waiting,
            running=len(self.prefilling) + len(self.decoding),
            decoding=len(self.decoding),
            max_batch=self.max_batch,
            token_budget=self.token_budget,
            block_tokens=self.block_tokens,
            total_blocks=self.blocks.total_blocks,
            free_blocks=self.blocks.free_blocks,
            cached_blocks=self.blocks.cached_blocks,
            hit_tokens=hit_tokens,
            sent=self.sent,
            queued_tokens=self.queued_tokens,
            waiting_tokens=self.waiting_tokens,
            transfer_token_s=self.transfer_token_s,
            transfer_latency_s=self.transfer_latency_s,
            transfer_s=0.0,
            link_flows=0,
            link_utilisation=0.0,
            in_flight=self.waiting + len(self.running),
            home=("prefill", "mixed", "decode").index(self.home),
            kv_tokens=sum(request.context for request in self.decoding),
            least_itl_s=least_itl_s,
            slack_s=slack_s,
            **self.nominal,
        )

    def cost_ps(self, prefilled: int, decoding: int, context: int, quadratic: int) -> int:
        """Return the time of an iteration, from the formula at the top of replay/hardware/profile.py."""
        profile = self.profile
        mixed = profile.mixed_kv_table
        captured = prefilled == 0 and profile.decode_table is not None
        drafted = self.draft_tokens * decoding
        return (
            lookup_ps(profile.decode_table if captured else profile.token_table, prefilled + decoding + drafted)
            + profile.prefill_token_ps * (prefilled + drafted)
            + profile.decode_request_ps * decoding
            + (profile.mixed_request_ps * decoding if prefilled else 0)
            + profile.prefill_token_sq_fs * quadratic // 1000
            + lookup_ps(mixed if prefilled and mixed is not None else profile.kv_table, context)
            + self.drafting_ps(decoding, context)
        )

    def drafting_ps(self, decoding: int, context: int) -> int:
        """Return what proposing takes: for each proposed token a part of its own, and a share of a plain iteration."""
        if self.speculation is None or decoding == 0:
            return 0
        table = self.profile.token_table if self.profile.decode_table is None else self.profile.decode_table
        plain_ps = lookup_ps(table, decoding) + self.profile.decode_request_ps * decoding
        plain_ps += lookup_ps(self.profile.kv_table, context)
        own_ps = self.speculation.draft_ps + self.speculation.draft_request_ps * decoding
        return self.draft_tokens * (own_ps + plain_ps * self.speculation.share_ppm // 10**6)

    def accepts(self, request: Request) -> int:
        """Draw how many proposed tokens the next verification of a request accepts: those before the first refused.

        One draw says how far: position k is reached if it is below the product of the probabilities up to k.
        """
        if self.speculation is None:
            return 0
        draw = (mix(int(request.random_key) ^ mix((1 << 61) + request.verifications)) >> 11) * 2.0**-53
        accepted, reach = 0, 1.0
        for probability in self.speculation.acceptance.tolist():
            reach *= probability
            if draw >= reach:
                break
            accepted += 1
        request.verifications += 1
        return accepted


def lookup_ps(table: np.ndarray, tokens: int) -> int:
    """Return a piecewise-affine table's value: the last segment that starts at or before `tokens`."""
    start, base_ps, slope_ps = [segment for segment in table.tolist() if segment[0] <= tokens][-1]
    return base_ps + slope_ps * (tokens - start)


def ceil_div(tokens: int, size: int) -> int:
    """Divide, rounding up."""
    return -(-tokens // size)

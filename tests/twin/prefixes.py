"""A prefix cache of single blocks: the plain twin of the kernel's cache on the compressed trie.

Nothing here uses `traces.trie`. A chain is the list of a prompt's block ids, each cut into cluster blocks; consecutive
blocks that the same set of requests uses form a *run*. What MODEL.md says of a node holds for the resident blocks of a
run: blocks with the same users are pinned, released and published together, so one record a run loses nothing against
one record a block, and evicting single blocks by (score, place in the queue, -position) takes the same blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from types import SimpleNamespace

from traces.schema import Trace

Block = tuple[int, int]  # (id in the trace, cluster block within it)
Evict = Callable[[SimpleNamespace, int], float]


@dataclass(eq=False)
class Run:
    """Blocks that always come together, and where they stand in any chain that has them."""

    node: int
    start_blocks: int
    blocks: list[Block] = field(default_factory=list)


def chains(trace: Trace, block_tokens: int) -> list[list[Run]]:
    """Return the cacheable prefix of every request as its list of runs, root first.

    block_tokens : tokens of a cluster block, a divisor of the trace's
    """
    if "prefix_blocks" not in trace:
        return [[] for _ in range(len(trace))]
    assert trace.block_tokens is not None
    offsets, ids = trace.prefix()
    prompts = trace.column("prompt_tokens")
    full = [
        [int(block) for block in ids[offsets[row] : offsets[row + 1]]][: int(prompts[row]) // trace.block_tokens]
        for row in range(len(trace))
    ]
    users: dict[int, set[int]] = {}
    for row, blocks in enumerate(full):
        for block in blocks:
            users.setdefault(block, set()).add(row)
    split = trace.block_tokens // block_tokens
    runs: dict[frozenset[int], Run] = {}
    return [_runs_of(blocks, users, runs, split) for blocks in full]


def _runs_of(ids: list[int], users: dict[int, set[int]], runs: dict[frozenset[int], Run], split: int) -> list[Run]:
    chain: list[Run] = []
    for place, block in enumerate(ids):
        key = frozenset(users[block])
        run = runs.setdefault(key, Run(len(runs), place * split))
        pieces = [(block, piece) for piece in range(split)]
        if pieces[0] not in run.blocks:
            run.blocks += pieces
        if not chain or chain[-1] is not run:
            chain.append(run)
    return chain


@dataclass(eq=False)
class Resident:
    """The blocks of one run that an instance holds: its first ones, and how they were used."""

    run: Run
    first_used_ps: int
    last_used_ps: int
    blocks: list[Block] = field(default_factory=list)
    pins: int = 0
    uses: int = 0
    score: float = 0.0
    floor: float = -inf
    queued: int = 0  # when it joined the queue of unpinned runs, as a running number

    def seen(self) -> SimpleNamespace:
        """Return what an evict policy may know."""
        return SimpleNamespace(
            node=self.run.node,
            blocks=len(self.blocks),
            start_blocks=self.run.start_blocks,
            uses=self.uses,
            pins=self.pins,
            last_used_ps=self.last_used_ps,
            first_used_ps=self.first_used_ps,
            score=self.score,
            floor=self.floor,
        )


class BlockCache:
    """The KV blocks of one instance: free, private, pinned and cached ones."""

    def __init__(self, total_blocks: int, evict: Evict, enabled: bool) -> None:
        self.total_blocks = total_blocks
        self.free_blocks = total_blocks
        self.private_blocks = 0
        self.evict = evict
        self.enabled = enabled
        self.residents: dict[Run, Resident] = {}
        self.releases = 0
        self.evicted_blocks = 0

    @property
    def cached_blocks(self) -> int:
        """Blocks of a prefix that nobody uses."""
        return sum(len(resident.blocks) for resident in self.residents.values() if resident.pins == 0)

    @property
    def pinned_blocks(self) -> int:
        """Blocks of a prefix in use."""
        return sum(len(resident.blocks) for resident in self.residents.values() if resident.pins > 0)

    def path(self, chain: list[Run]) -> list[Resident]:
        """Return the resident part of a chain: whole runs while resident, the last possibly in part."""
        found: list[Resident] = []
        for run in chain if self.enabled else []:
            if run not in self.residents:
                break
            found.append(self.residents[run])
            if len(found[-1].blocks) < len(run.blocks):
                break
        return found

    def pin(self, path: list[Resident]) -> None:
        """Hold every run of a path."""
        for resident in path:
            resident.pins += 1

    def release(self, chain: list[Run], held: int, now_ps: int) -> None:
        """Let the first `held` runs of a chain go, from the deepest up."""
        for place in reversed(range(held)):
            resident = self.residents[chain[place]]
            assert resident.pins > 0, "released a run that nobody holds"
            resident.pins -= 1
            if resident.pins:
                continue
            resident.last_used_ps = now_ps
            resident.uses += 1
            resident.score = max(float(self.evict(resident.seen(), now_ps)), resident.floor)
            self.releases += 1
            resident.queued = self.releases
            if place > 0:
                parent = self.residents[chain[place - 1]]
                parent.floor = max(parent.floor, resident.score)

    def take(self, count: int) -> None:
        """Turn `count` blocks private: free ones first, then the tail of the cached run that is worth least."""
        for _ in range(count):
            if self.free_blocks > 0:
                self.free_blocks -= 1
            else:
                self._evict_one()
            self.private_blocks += 1

    def _evict_one(self) -> None:
        unpinned = [resident for resident in self.residents.values() if resident.pins == 0]
        victim = min(unpinned, key=lambda resident: (resident.score, resident.queued))
        victim.blocks.pop()
        self.evicted_blocks += 1
        if not victim.blocks:
            del self.residents[victim.run]

    def give_back(self, count: int) -> None:
        """Free `count` private blocks."""
        assert count <= self.private_blocks, "freed a block that is not private"
        self.private_blocks -= count
        self.free_blocks += count

    def publish(self, chain: list[Run], held: int, now_ps: int) -> int:
        """Complete and pin every run of a chain whose first `held` runs the caller pinned.

        returns : blocks that lacked and went from the caller's private ones to pinned
        """
        moved = 0
        for place, run in enumerate(chain):
            resident = self.residents.setdefault(run, Resident(run, now_ps, now_ps))
            moved += len(run.blocks) - len(resident.blocks)
            resident.blocks = list(run.blocks)
            if place >= held:
                resident.pins += 1
        assert moved <= self.private_blocks, "published blocks that were never private"
        self.private_blocks -= moved
        return moved

    def insert(self, chain: list[Run], blocks: int, now_ps: int) -> None:
        """Take in a copy of the first `blocks` blocks of a chain, as far as there is room."""
        path = self.path(chain)
        have = sum(len(resident.blocks) for resident in path)
        if have >= blocks:
            return
        self.pin(path)
        taken = min(blocks - have, self.free_blocks + self.cached_blocks)
        self.take(taken)
        self.private_blocks -= taken
        place = max(0, len(path) - 1)
        held = len(path)
        while taken:
            resident = self.residents.setdefault(chain[place], Resident(chain[place], now_ps, now_ps))
            if place >= held:
                resident.pins += 1
                held += 1
            more = min(taken, len(chain[place].blocks) - len(resident.blocks))
            resident.blocks += chain[place].blocks[len(resident.blocks) : len(resident.blocks) + more]
            taken -= more
            place += 1
        self.release(chain, held, now_ps)

    def check(self) -> None:
        """Fail if a block was lost, made, or left the front of its run."""
        parts = (self.free_blocks, self.private_blocks, self.pinned_blocks, self.cached_blocks)
        assert min(parts) >= 0 and sum(parts) == self.total_blocks, f"blocks are not conserved: {parts}"
        for run, resident in self.residents.items():
            assert resident.blocks == run.blocks[: len(resident.blocks)], "a run must keep its first blocks"
            assert resident.blocks and len(resident.blocks) <= len(run.blocks)

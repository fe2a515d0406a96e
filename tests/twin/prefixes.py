"""A prefix cache of single blocks: what one holder keeps, the plain twin of the kernel's cache on the compressed trie.

Blocks with the same users are pinned, released and published together, so one record a run loses nothing against one
record a block, and evicting blocks by (score, place in the queue, -position) takes the same blocks.
"""

from types import SimpleNamespace

from tests.twin.chains import Run, end_of
from tests.twin.residents import NO_CLOCK, Clock, Group, Resident, Rules, Watch


class BlockCache:
    """The KV blocks of one holder: free, private, pinned and cached ones."""

    def __init__(
        self,
        total_blocks: int,
        rules: Rules,
        clock: Clock,
        enabled: bool = True,
        tier: int = 0,
        watch: Watch | None = None,
    ) -> None:
        self.total_blocks = total_blocks
        self.free_blocks = total_blocks
        self.private_blocks = 0
        self.rules = rules
        self.clock = clock
        self.enabled = enabled
        self.tier = tier
        self.watch = watch or Watch()
        self.residents: dict[Run, Resident] = {}
        self.releases = 0
        self.inserted_blocks = 0
        self.evicted_blocks = 0
        self.last_score = NO_CLOCK
        self.history: dict[Run, list[tuple[int, int]]] = {}

    @property
    def cached_blocks(self) -> int:
        """Blocks of a prefix that nobody uses."""
        return sum(len(resident.blocks) for resident in self.residents.values() if resident.pins == 0)

    @property
    def pinned_blocks(self) -> int:
        """Blocks of a prefix in use."""
        return sum(len(resident.blocks) for resident in self.residents.values() if resident.pins > 0)

    def seen(self, resident: Resident, examined: int = 0) -> SimpleNamespace:
        """Return what an evict or write policy may know."""
        return SimpleNamespace(
            node=resident.run.node,
            blocks=len(resident.blocks),
            start_blocks=resident.run.start_blocks,
            uses=resident.uses,
            pins=resident.pins,
            last_used_ps=resident.last_used_ps,
            first_used_ps=resident.first_used_ps,
            score=resident.score,
            floor=resident.floor,
            tier=self.tier,
            examined=examined,
            uses_since=max(0, resident.uses - resident.mark),
            clock=self.last_score,
            total_blocks=self.total_blocks,
            inserted_blocks=self.inserted_blocks,
            evicted_blocks=self.evicted_blocks,
            group_share=(resident.group.reuses + 1.0) / (resident.group.uses + 2.0),
            group_reuse_s=(resident.group.reuse_s + 60.0) / (resident.group.reuses + 1.0),
        )

    # what is here

    def path(self, chain: list[Run]) -> list[Resident]:
        """Return the resident part of a chain: whole runs while resident, the last possibly in part."""
        found: list[Resident] = []
        for run in chain if self.enabled else []:
            if run not in self.residents:
                break
            found.append(self.residents[run])
            if not found[-1].complete:
                break
        return found

    def alive(self, resident: Resident) -> bool:
        """Say whether a node may still be used."""
        if self.rules.ttl_ps == 0 or resident.pins > 0:
            return True
        stamp = resident.last_used_ps if self.rules.refresh else resident.first_used_ps
        return self.clock.now < stamp + self.rules.ttl_ps

    def visible(self, chain: list[Run]) -> list[Resident]:
        """Return the part of a chain that a lookup may use."""
        found = []
        for resident in self.path(chain):
            if not self.alive(resident):
                break
            found.append(resident)
        if self.rules.exact and not (found and len(found) == len(chain) and found[-1].complete and found[-1].whole):
            return []
        return found

    def raw_blocks(self, chain: list[Run]) -> int:
        """Count the resident blocks of a chain."""
        return sum(len(resident.blocks) for resident in self.path(chain))

    def visible_blocks(self, chain: list[Run]) -> int:
        """Count the blocks of a chain that a lookup may use."""
        return sum(len(resident.blocks) for resident in self.visible(chain))

    def blocks_at(self, run: Run, time_ps: int) -> int:
        """Count the blocks of a run that were here at a time, after everything that happened then."""
        return ([0] + [blocks for stamp, blocks in self.history.get(run, []) if stamp <= time_ps])[-1]

    def _note(self, run: Run) -> None:
        blocks = len(self.residents[run].blocks) if run in self.residents else 0
        self.history.setdefault(run, []).append((self.clock.now, blocks))

    def count_reuse(self, chain: list[Run], group: Group) -> None:
        """Note that a request of a class, about to hold what is here of its chain, uses that again."""
        for resident in reversed(self.path(chain)):
            if resident.pins == 0 and resident.uses > 0:
                resident.group.reuses += 1
                resident.group.reuse_s += (self.clock.now - resident.last_used_ps) * 1e-12
            resident.group = group
            group.uses += 1

    def name_user(self, chain: list[Run], group: Group) -> None:
        """Note that a request of a class published its chain; a first use counts."""
        for run in chain:
            self.residents[run].group = group
            group.uses += self.residents[run].uses == 0

    # pins

    def pin(self, path: list[Resident]) -> None:
        """Hold every run of a path."""
        for resident in path:
            resident.pins += 1

    def release(self, chain: list[Run], held: int) -> None:
        """Let the first `held` runs of a chain go, from the deepest up."""
        for place in reversed(range(held)):
            resident = self.residents[chain[place]]
            assert resident.pins > 0, "released a run that nobody holds"
            resident.pins -= 1
            if resident.pins:
                continue
            resident.last_used_ps = self.clock.now
            resident.uses += 1
            answer = float(self.rules.evict(self.seen(resident), self.clock.now))
            self._queue(resident, max(answer, resident.floor))
            if place > 0:
                parent = self.residents[chain[place - 1]]
                parent.floor = max(parent.floor, resident.score)

    def _queue(self, resident: Resident, score: float) -> None:
        resident.score = score
        self.releases += 1
        resident.queued = self.releases

    # eviction

    def take(self, count: int) -> None:
        """Turn `count` blocks private: free ones first, then the ends of the cached runs that are worth least."""
        free = min(count, self.free_blocks)
        self.free_blocks -= free
        self.private_blocks += count
        lacking, asked = count - free, set[Run]()
        while lacking:
            victim = self._victim(asked)
            taken = min(lacking, len(victim.blocks))
            self.watch.evicting(self, victim)
            self.last_score = victim.score
            self.evicted_blocks += taken
            self._shrink(victim, taken)
            lacking -= taken

    def first_out(self) -> Resident | None:
        """Return what would leave next, without a second look."""
        unpinned = [resident for resident in self.residents.values() if resident.pins == 0]
        protected = self.watch.protected()
        return min(unpinned, key=lambda one: (one.run in protected, one.score, one.queued), default=None)

    def _victim(self, asked: set[Run]) -> Resident:
        """Return the node to evict from; with a second look, ask once a pass about each that comes up."""
        while True:
            protected = self.watch.protected()
            unpinned = [resident for resident in self.residents.values() if resident.pins == 0]
            victim = min(unpinned, key=lambda resident: (resident.run in protected, resident.score, resident.queued))
            if not self.rules.second_look or victim.run in asked:
                return victim
            asked.add(victim.run)
            answer = float(self.rules.evict(self.seen(victim, examined=1), self.clock.now))
            if answer <= victim.score:
                return victim
            self._raise(victim, answer)

    def _raise(self, resident: Resident, score: float) -> None:
        """Queue a node anew with a higher score, and whatever must not go before it."""
        self._queue(resident, score)
        resident.mark = resident.uses
        run = resident.run.parent
        while run is not None:
            above = self.residents[run]
            above.floor = max(above.floor, score)
            if above.pins == 0 and above.score <= score:
                self._queue(above, score)
            run = run.parent

    def _shrink(self, resident: Resident, count: int) -> None:
        del resident.blocks[len(resident.blocks) - count :]
        if not resident.blocks:
            del self.residents[resident.run]
        self._note(resident.run)
        self.watch.shrunk(resident.run, count)

    def expire(self) -> int:
        """Free every dead node and all below it; returns how many nodes."""
        dead = {run for run, resident in self.residents.items() if not self.alive(resident)}
        gone = [resident for run, resident in self.residents.items() if dead.intersection(run.lineage)]
        assert all(resident.pins == 0 for resident in gone), "a pinned node below a dead one"
        self._free(gone)
        return len(gone)

    def drop(self) -> None:
        """Free every node, whoever holds it."""
        self._free(list(self.residents.values()))

    def _free(self, gone: list[Resident]) -> None:
        for resident in gone:
            self.free_blocks += len(resident.blocks)
            self._shrink(resident, len(resident.blocks))

    # ways in

    def give_back(self, count: int) -> None:
        """Free `count` private blocks."""
        assert 0 <= count <= self.private_blocks, "freed a block that is not private"
        self.private_blocks -= count
        self.free_blocks += count

    def _renew(self, resident: Resident) -> None:
        if not self.alive(resident):
            resident.first_used_ps = resident.last_used_ps = self.clock.now

    def _record(self, run: Run) -> Resident:
        return self.residents.setdefault(run, Resident(run, self.clock.now, self.clock.now))

    def publish(self, chain: list[Run], held: int) -> int:
        """Complete and pin every run of a chain whose first `held` runs the caller pinned.

        returns : blocks that lacked and went from the caller's private ones to pinned
        """
        moved = self.keep(chain, held, end_of(chain))
        if chain:
            self.residents[chain[-1]].whole = True
        return moved

    def keep(self, chain: list[Run], held: int, end: int) -> int:
        """Pin every run of a chain, likewise, and fill them up to block `end`; returns as `publish`."""
        moved = 0
        for place, run in enumerate(chain):
            resident = self._record(run)
            self._renew(resident)
            there = len(resident.blocks)
            resident.blocks = run.blocks[: max(there, min(len(run.blocks), end - run.start_blocks))]
            moved += len(resident.blocks) - there
            resident.pins += place >= held
            self._note(run)
        assert moved <= self.private_blocks, "published blocks that were never private"
        self.private_blocks -= moved
        self.inserted_blocks += moved
        return moved

    def insert(self, chain: list[Run], blocks: int, whole: bool = False) -> None:
        """Take in a copy of the first `blocks` blocks of a chain, as far as there is room.

        whole : the copy was published as a whole prompt
        """
        if not self.enabled:
            return
        path = self.path(chain)
        for resident in path:
            if resident.run.start_blocks < blocks:
                self._renew(resident)
        have = sum(len(resident.blocks) for resident in path)
        if have < blocks:
            self._extend(chain, path, blocks - have)
        if whole and blocks == end_of(chain) and self.raw_blocks(chain) == blocks:
            self.residents[chain[-1]].whole = True
        if have < blocks:
            self.watch.inserted()

    def _extend(self, chain: list[Run], path: list[Resident], lacking: int) -> None:
        self.pin(path)
        taken = min(lacking, self.free_blocks + self.cached_blocks)
        self.take(taken)
        self.private_blocks -= taken
        self.inserted_blocks += taken
        place, held = max(0, len(path) - 1), len(path)
        while taken:
            run = chain[place]
            resident = self._record(run)
            if place >= held:
                resident.pins += 1
                held += 1
            first = len(resident.blocks)
            more = min(taken, len(run.blocks) - first)
            resident.blocks += run.blocks[first : first + more]
            if more:
                self._note(run)
                self.watch.extended(run, first, more)
            taken -= more
            place += 1
        self.release(chain, held)

    def check(self) -> None:
        """Fail if a block was lost, made, or left the front of its run, or a run its prefix."""
        parts = (self.free_blocks, self.private_blocks, self.pinned_blocks, self.cached_blocks)
        assert min(parts) >= 0 and sum(parts) == self.total_blocks, f"blocks are not conserved: {parts}"
        for run, resident in self.residents.items():
            assert resident.blocks == run.blocks[: len(resident.blocks)], "a run must keep its first blocks"
            assert resident.blocks and resident.pins >= 0
            if run.parent is not None:
                above = self.residents.get(run.parent)
                assert above is not None and above.complete, "a run without its prefix"
                assert above.pins >= resident.pins, "pinned below what is not"

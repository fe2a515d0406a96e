"""Plain caches of single blocks, as their papers describe them: each tells of every reference whether it hit.

A miss on a full cache first evicts one block, then the new block comes in, as the engine makes room at admission and
publishes at the end of the prefill. Nothing else is running, so that no other block is pinned.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

import numpy as np

GDSF_COST = 1.0 + 0.0001 * 0.5  # of the policy's default: a block at position 0 that is 1 block long
S3_SMALL, S3_MOST = 0.1, 3


def lru(blocks: Sequence[int], capacity: int) -> list[bool]:
    """Least recently used.

    source : Mattson et al., Evaluation techniques for storage hierarchies, IBM Systems Journal 1970
    """
    return _listed(blocks, capacity, moves=True)


def fifo(blocks: Sequence[int], capacity: int) -> list[bool]:
    """First in, first out."""
    return _listed(blocks, capacity, moves=False)


def _listed(blocks: Sequence[int], capacity: int, moves: bool) -> list[bool]:
    held: OrderedDict[int, None] = OrderedDict()
    hits = []
    for block in blocks:
        hits.append(block in held)
        if block not in held and len(held) == capacity:
            held.popitem(last=False)
        if moves:
            held.pop(block, None)
        held.setdefault(block, None)
    return hits


def _scored(
    blocks: Sequence[int], capacity: int, score: Callable[[int, int, float], float | tuple[float, ...]]
) -> list[bool]:
    """Evict the lowest score, of equal ones the one whose score was given first; O(capacity) a miss.

    score : of (uses since it came, row, score evicted last), asked at every use
    """
    held: dict[int, tuple[float | tuple[float, ...], int]] = {}
    uses: dict[int, int] = {}
    clock: float = 0.0
    hits = []
    for row, block in enumerate(blocks):
        hits.append(block in held)
        if block not in held:
            if len(held) == capacity:
                victim = min(held, key=held.__getitem__)
                last = held.pop(victim)[0]
                clock = last if isinstance(last, float) else clock
            uses[block] = 0
        uses[block] += 1
        held[block] = (score(uses[block], row, clock), row)
    return hits


def lfu(blocks: Sequence[int], capacity: int) -> list[bool]:
    """Least frequently used since it came; of equal ones the one used longest ago.

    source : in-cache LFU, e.g. Breslau et al., INFOCOM 1999; ties as in Mooncake's LFUCache
    """
    return _scored(blocks, capacity, lambda uses, row, clock: (uses, row))


def length_aware(blocks: Sequence[int], capacity: int) -> list[bool]:
    """Least frequently used; of equal ones the latest in its prompt (all are first here), then the oldest use.

    source : Mooncake's LengthAwareCache
    """
    return _scored(blocks, capacity, lambda uses, row, clock: (uses, 0, row))


def gdsf(blocks: Sequence[int], capacity: int) -> list[bool]:
    """GreedyDual-Size-Frequency: clock + uses x cost / size; the clock is the value evicted last.

    source : Cherkasova, HP Labs report 98-69, 1998
    """
    return _scored(blocks, capacity, lambda uses, row, clock: clock + uses * GDSF_COST)


def oracle_belady(blocks: Sequence[int], capacity: int) -> list[bool]:
    """Evict what is used again last; a new block always comes in.

    source : Belady 1966
    """
    following: dict[int, int] = {}
    next_use = [0] * len(blocks)
    for row in range(len(blocks) - 1, -1, -1):
        next_use[row] = following.get(blocks[row], 10**18)
        following[blocks[row]] = row
    return _scored(blocks, capacity, lambda uses, row, clock: (-next_use[row],))


def sieve(blocks: Sequence[int], capacity: int) -> list[bool]:
    """A queue with visited bits; a hand moves from the oldest to the newest, clears bits, evicts the first without one.

    The hand stays where it is between evictions; having evicted the newest it starts over at the oldest.

    source : Zhang et al., SIEVE is simpler than LRU, NSDI 2024, algorithm 1
    """
    newer: dict[int, int | None] = {}
    older: dict[int, int | None] = {}
    visited: dict[int, bool] = {}
    tail: int | None = None
    head: int | None = None
    hand: int | None = None
    hits = []
    for block in blocks:
        hits.append(block in visited)
        if block in visited:
            visited[block] = True
            continue
        if len(visited) == capacity:
            place = tail if hand is None else hand
            while place is not None and visited[place]:
                visited[place] = False
                place = newer[place] if newer[place] is not None else tail
            assert place is not None
            hand = newer[place]
            before, after = older.pop(place), newer.pop(place)
            del visited[place]
            if before is None:
                tail = after
            else:
                newer[before] = after
            if after is None:
                head = before
            else:
                older[after] = before
        older[block], newer[block], visited[block] = head, None, False
        if head is not None:
            newer[head] = block
        head = block
        tail = block if tail is None else tail
    return hits


def s3_fifo(blocks: Sequence[int], capacity: int) -> list[bool]:
    """Three queues: a small one of a tenth, a main one, and the ghosts of what left the small one unused.

    source : Yang et al., FIFO queues are all you need for cache eviction, SOSP 2023, algorithm 1
    """
    small: deque[int] = deque()
    main: deque[int] = deque()
    ghosts: OrderedDict[int, None] = OrderedDict()
    uses: dict[int, int] = {}
    small_size = max(1, round(S3_SMALL * capacity))

    def evict_small() -> bool:
        while small:
            block = small.popleft()
            if uses[block] > 1:
                main.append(block)
                uses[block] = 0
                if len(main) > capacity - small_size:
                    return evict_main()
                continue
            del uses[block]
            ghosts[block] = None
            if len(ghosts) > capacity - small_size:
                ghosts.popitem(last=False)
            return True
        return False

    def evict_main() -> bool:
        while main:
            block = main.popleft()
            if uses[block] > 0:
                uses[block] -= 1
                main.append(block)
                continue
            del uses[block]
            return True
        return False

    hits = []
    for block in blocks:
        hits.append(block in uses)
        if block in uses:
            uses[block] = min(S3_MOST, uses[block] + 1)
            continue
        if len(uses) == capacity:
            removed = evict_small() if len(small) >= small_size or not main else evict_main()
            assert removed or evict_main()
        if block in ghosts:
            del ghosts[block]
            main.append(block)
        else:
            small.append(block)
        uses[block] = 0
    return hits


def zipf(items: int, count: int, exponent: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (popularity (items,), ids (count,)) of independent references."""
    popularity = np.arange(1, items + 1) ** -exponent
    popularity /= popularity.sum()
    return popularity, np.random.default_rng(seed).choice(items, count, p=popularity)

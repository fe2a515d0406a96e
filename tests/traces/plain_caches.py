"""The plain caches once more, with simple data structures and no regard for time: twins of `traces.reuse`."""

from collections import OrderedDict, deque
from functools import cache

Chains = list[list[int]]
Hits = list[tuple[int, int]]  # a request: found as a contiguous prefix, found anywhere


class Count:
    """Count the hits of one request, told block by block."""

    def __init__(self) -> None:
        self.prefix = self.anywhere = 0
        self.whole = True

    def add(self, held: bool) -> None:
        """Take note of the next block."""
        self.whole = self.whole and held
        self.prefix += self.whole
        self.anywhere += held

    def both(self) -> tuple[int, int]:
        """Return the two counts."""
        return self.prefix, self.anywhere


def lru(chains: Chains, capacity: int) -> Hits:
    """Evict the block touched longest ago."""
    held: OrderedDict[int, None] = OrderedDict()
    hits = []
    for chain in chains:
        count = Count()
        for block in chain:
            count.add(block in held)
            held[block] = None
            held.move_to_end(block)
            if len(held) > capacity:
                held.popitem(last=False)
        hits.append(count.both())
    return hits


def fifo(chains: Chains, capacity: int) -> Hits:
    """Evict the block inserted longest ago."""
    queue: deque[int] = deque()
    hits = []
    for chain in chains:
        count = Count()
        for block in chain:
            count.add(block in queue)
            if block not in queue:
                if len(queue) == capacity:
                    queue.popleft()
                queue.append(block)
        hits.append(count.both())
    return hits


def lfu(chains: Chains, capacity: int) -> Hits:
    """Evict the block with the fewest touches since it came, of those the one touched longest ago."""
    touches: dict[int, list[int]] = {}
    hits, clock = [], 0
    for chain in chains:
        count = Count()
        for block in chain:
            clock += 1
            count.add(block in touches)
            if block not in touches and len(touches) == capacity:
                del touches[min(touches, key=lambda other: (len(touches[other]), touches[other][-1]))]
            touches.setdefault(block, []).append(clock)
        hits.append(count.both())
    return hits


def belady(chains: Chains, capacity: int) -> Hits:
    """Drop, of the blocks held and the new one, the one used again last, looked up in what is to come."""
    stream = [block for chain in chains for block in chain]
    held: set[int] = set()
    hits, now = [], 0
    for chain in chains:
        count = Count()
        for block in chain:
            now += 1
            count.add(block in held)
            held.add(block)
            if len(held) > capacity:
                rest = stream[now:]
                held.remove(max(held, key=lambda other: rest.index(other) if other in rest else len(rest)))
        hits.append(count.both())
    return hits


TWINS = {"lru": lru, "fifo": fifo, "lfu": lfu, "belady": belady}


def most_hits(stream: tuple[int, ...], capacity: int) -> int:
    """Return the most hits that any cache can have which may keep or drop what it likes, by trying all of it."""

    @cache
    def best(now: int, held: frozenset[int]) -> int:
        if now == len(stream):
            return 0
        block = stream[now]
        if block in held:
            return 1 + best(now + 1, held)
        full = held | {block}
        kept = [full] if len(full) <= capacity else [full - {other} for other in full]
        return max(best(now + 1, one) for one in kept)

    return best(0, frozenset())


def lru_tokens(chains: list[list[tuple[int, int]]], capacity: int) -> list[tuple[int, int]]:
    """Run a strict LRU cache that holds at most so many tokens; a block is (id, its tokens).

    returns : a request's (blocks, tokens) found as a contiguous prefix
    """
    held: OrderedDict[int, int] = OrderedDict()
    hits = []
    for chain in chains:
        blocks = tokens = 0
        whole = True
        for block, size in chain:
            whole = whole and block in held
            blocks += whole
            tokens += size if whole else 0
            held[block] = size
            held.move_to_end(block)
            while sum(held.values()) > capacity:
                held.popitem(last=False)
        hits.append((blocks, tokens))
    return hits


def corrected(found: tuple[int, int], prompt: int, first_block_tokens: int, partial_tokens: int) -> int:
    """Correct a request's hit tokens as the published figure needs it."""
    blocks, tokens = found
    if blocks == 0 or tokens == prompt:
        return tokens
    if blocks == 1:
        return max(tokens, min(first_block_tokens, prompt))
    return min(tokens + partial_tokens, prompt)

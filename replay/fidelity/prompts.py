"""Synthetic prompts of a wanted number of tokens, which share prefixes as a trace's block ids say."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from traces.schema import Trace

Count = Callable[[str], Awaitable[int]]

# Common words, one token each in most vocabularies; letters serve those that know no words.
WORDS = tuple(f" {word}" for word in (
    "the of and to in is was for on are as with they be at one have this from by not word but what some we can out "
    "other were all there when up use your how said an each she which do their time if will way about many then "
    "them write would like so these her long make thing see him two has look more day could go come").split())
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
FEW, MANY = 8, 16  # units whose tokens are counted to see what one more of them costs
LEAST_UNITS = 4
ASKED = 8  # candidates where each count is a request
LARGEST_OVERHEAD = 16  # tokens that a server may put before a prompt
GOLDEN, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@dataclass(frozen=True)
class Vocabulary:
    """Pieces of text of one token each.

    overhead_tokens : tokens that the server adds to a prompt of its own, such as one that begins a text
    exact           : whether the server's tokenizer said so; else a word is taken for a token
    """

    units: tuple[str, ...]
    overhead_tokens: int = 0
    exact: bool = False


async def vocabulary(count: Count | None, charged: Count | None = None) -> Vocabulary:
    """Find pieces that cost one token each by asking a server.

    count   : text -> tokens by its tokenizer; None where it has none
    charged : text -> prompt tokens that an answer states, by a request of its own; None where answers do not
    """
    candidates_of = (WORDS, LETTERS) if count else (WORDS[:ASKED], LETTERS[:ASKED])
    count = count or charged
    if count is None:
        return Vocabulary(WORDS)
    for candidates in candidates_of:
        kept = [unit for unit in candidates if await count(unit * MANY) - await count(unit * FEW) == MANY - FEW]
        if len(kept) < LEAST_UNITS:
            continue
        mixed = pick(kept, np.array([1]), 4 * MANY)
        half, whole = await count("".join(mixed[: 2 * MANY])), await count("".join(mixed))
        added = (await charged("".join(mixed)) if charged else whole) - len(mixed)
        if whole - half == 2 * MANY and 0 <= added <= LARGEST_OVERHEAD:
            return Vocabulary(tuple(kept), added, True)
    return Vocabulary(WORDS)


def salted(trace: Trace, salt: int) -> int:
    """Return what sets the text of a trace apart from that of others, or of itself under another salt.

    Without it the cache of a server would still know the prompts of the run before.
    """
    return (int(trace.digest()[:15], 16) ^ (salt * GOLDEN)) & (2**63 - 1)


def prompt(trace: Trace, row: int, words: Vocabulary, key: int = 0) -> str:
    """Write the prompt of a request: its blocks by their ids, then text of its own; equal ids give equal text.

    What the server adds at the front is left out of the first block, so that all prompts stay aligned.

    key : as `salted` returns
    """
    wanted = int(trace.column("prompt_tokens")[row])
    units: list[str] = []
    if "prefix_blocks" in trace and trace.block_tokens:
        offsets, ids = trace.prefix()
        own = ids[offsets[row] : offsets[row + 1]][: wanted // trace.block_tokens]
        units = pick(words.units, own ^ key, trace.block_tokens)
    units += pick(words.units, np.array([-1 - row]) ^ key, max(0, wanted - len(units)))
    return "".join(units[min(words.overhead_tokens, wanted - 1) :])


def pick(units: Sequence[str], keys: np.ndarray, each: int) -> list[str]:
    """Draw `each` units for every key, the same ones for the same key.

    keys : int64 (n,)        returns : n * each units
    """
    with np.errstate(over="ignore"):
        state = keys.astype(np.int64).astype(np.uint64)[:, None] * np.uint64(MIX_1)
        state = state + (np.arange(1, each + 1, dtype=np.uint64) * np.uint64(GOLDEN))[None, :]
        state = (state ^ (state >> np.uint64(30))) * np.uint64(MIX_1)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(MIX_2)
        drawn = (state ^ (state >> np.uint64(31))) % np.uint64(len(units))
    return [units[place] for place in drawn.ravel().tolist()]

"""The prefixes of a trace as runs of blocks, without `traces.trie`.

A chain is the list of a prompt's block ids, each cut into cluster blocks; consecutive blocks that the same set of
requests uses form a *run*. What the specification says of a node holds for the resident blocks of a run.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from traces.schema import Trace

Block = tuple[int, int]  # (id in the trace, cluster block within it)


@dataclass(eq=False)
class Run:
    """Blocks that always come together, and where they stand in any chain that has them.

    node : number in trie order: a branch is finished before the next, branches in the order of their appearance
    """

    node: int
    start_blocks: int
    parent: Run | None = None
    blocks: list[Block] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    @property
    def end_blocks(self) -> int:
        """Blocks of a chain up to the end of the run."""
        return self.start_blocks + len(self.blocks)

    @property
    def lineage(self) -> list[Run]:
        """The chain that ends with this run, root first."""
        return [*(self.parent.lineage if self.parent else []), self]


def chains(trace: Trace, block_tokens: int, outputs: bool = False) -> list[list[Run]]:
    """Return the cacheable prefix of every request as its list of runs, root first.

    block_tokens : tokens of a cluster block, a divisor of the trace's
    outputs      : then likewise of every request its prompt and output without the last token, after all prompts
    """
    if "prefix_blocks" not in trace:
        return [[] for _ in range(len(trace) * (1 + outputs))]
    assert trace.block_tokens is not None
    offsets, ids = trace.prefix()
    prompts = trace.column("prompt_tokens")
    full = [
        [int(block) for block in ids[offsets[row] : offsets[row + 1]]][: int(prompts[row]) // trace.block_tokens]
        for row in range(len(trace))
    ]
    if outputs:
        full += [context_of(trace, full, row) for row in range(len(trace))]
    users: dict[int, set[int]] = {}
    for row, blocks in enumerate(full):
        for block in blocks:
            users.setdefault(block, set()).add(row)
    split = trace.block_tokens // block_tokens
    runs: dict[frozenset[int], Run] = {}
    found = [_runs_of(blocks, users, runs, split) for blocks in full]
    _number(list(runs.values()))
    return found


def context_of(trace: Trace, full: list[list[int]], row: int) -> list[int]:
    """Return the ids of the full blocks of a request's prompt and output, without the last token."""
    prompts, outputs = trace.column("prompt_tokens").tolist(), trace.column("output_tokens").tolist()
    size = trace.block_tokens or 1
    own = full[row]
    if len(own) < prompts[row] // size:
        return own
    wanted = (prompts[row] + outputs[row] - 1) // size
    for turn in later_turns(trace, row):
        goes_on = prompts[turn] >= prompts[row] + outputs[row] and full[turn][: len(own)] == own
        if goes_on:
            own = full[turn][:wanted]
            break
    return own + [-1 - row * 10**6 - place for place in range(len(own), wanted)]


def later_turns(trace: Trace, row: int) -> list[int]:
    """Return the requests that follow a request: those that wait for it, or the next of its session."""
    if "parent" in trace:
        return [turn for turn, parent in enumerate(trace.column("parent").tolist()) if parent == row]
    if "session" not in trace:
        return []
    sessions = trace.codes("session").tolist()
    later = [turn for turn in range(row + 1, len(trace)) if sessions[turn] == sessions[row] >= 0]
    return later[:1]


def _runs_of(ids: list[int], users: dict[int, set[int]], runs: dict[frozenset[int], Run], split: int) -> list[Run]:
    chain: list[Run] = []
    for place, block in enumerate(ids):
        key = frozenset(users[block])
        if not chain or runs.get(key) is not chain[-1]:
            run = runs.setdefault(key, Run(-1, place * split, chain[-1] if chain else None))
            assert run not in chain, "a chain comes back to a run"
            chain.append(run)
        pieces = [(block, piece) for piece in range(split)]
        if pieces[0] not in chain[-1].blocks:
            chain[-1].blocks += pieces
            chain[-1].ids.append(block)
    return chain


def _number(runs: list[Run]) -> None:
    """Number runs that are listed as they appear: depth first, children as listed."""
    todo = [run for run in reversed(runs) if run.parent is None]
    number = 0
    while todo:
        run = todo.pop()
        run.node = number
        number += 1
        todo += [child for child in reversed(runs) if child.parent is run]


def key_of(chain: list[Run], key_blocks: int) -> int | None:
    """Return what stands for the first `key_blocks` trace blocks of a chain: the id of the last of them."""
    ids = [block for run in chain for block in run.ids]
    return ids[min(key_blocks, len(ids)) - 1] if ids else None


def end_of(chain: list[Run]) -> int:
    """Return the blocks of a chain."""
    return chain[-1].end_blocks if chain else 0

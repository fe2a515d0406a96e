"""Multi-turn sessions whose prompts share prefixes: system prompts, growing histories, branches."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from traces.errors import TraceError
from traces.jit import entry
from traces.params import accept, number, stream, whole
from traces.synthetic.arrivals import draw_arrivals
from traces.synthetic.lengths import draw, draw_tokens, zipf_shares

MOST_TURNS = 100_000
MOST_PROMPTS = 10_000_000


@dataclass(frozen=True)
class Shape:
    """How sessions look; each field but the last four is a config node of `lengths.draw` or `arrivals.draw_arrivals`.

    arrivals          : starts of sessions
    turns             : requests a session
    user_tokens       : new tokens a turn, after the history
    output_tokens     : answer, which becomes history
    think_s           : wait between an answer and the next turn
    system            : the system prompts, a node for `SystemPrompts`
    branching         : chance that a turn after the second continues from any earlier turn instead of the last
    answer_token_s    : seconds an output token is taken to last in nominal arrival times
    block_tokens      : tokens a block
    max_prompt_tokens : a session ends before the turn whose prompt would be longer
    """

    arrivals: Any
    turns: Any
    user_tokens: Any
    output_tokens: Any
    think_s: Any
    system: Any
    branching: float
    answer_token_s: float
    block_tokens: int
    max_prompt_tokens: int


@dataclass(frozen=True)
class SystemPrompts:
    """The system prompts that sessions choose from.

    blocks : (prompts,) int64, their lengths in full blocks
    shares : (prompts,) float64, how often each is chosen
    """

    blocks: np.ndarray
    shares: np.ndarray

    def choose(self, seed: int, count: int) -> np.ndarray:
        """Choose a prompt for each of `count` sessions, (count,) int64."""
        draws = stream(seed, "system.choice").random(count)
        chosen = np.searchsorted(np.cumsum(self.shares), draws, side="right")
        return np.minimum(chosen, len(self.shares) - 1)


@dataclass(frozen=True)
class Turns:
    """All turns of all sessions, session by session; every array is (turns,).

    arrival_s   : nominal arrival, non-decreasing in a session
    session     : int64, number of the session
    before      : int64, the turn whose prompt and answer this one continues, -1 for the system prompt only
    think_s     : wait after the turn before it in time, 0 for the first
    prompt      : int64 [tokens]
    output      : int32 [tokens]
    first_block : int64, blocks shared with `before` (or with the system prompt)
    base        : int64, id of the turn's first own block; its own blocks have consecutive ids
    """

    arrival_s: np.ndarray
    session: np.ndarray
    before: np.ndarray
    think_s: np.ndarray
    prompt: np.ndarray
    output: np.ndarray
    first_block: np.ndarray
    base: np.ndarray


def system_prompts(node: Any, seed: int, shape: Shape) -> SystemPrompts:
    """Draw the system prompts by a node {prompts: 64, tokens: 768, zipf: 1.0}; zipf is the exponent of popularity."""
    if not isinstance(node, Mapping):
        raise TraceError(f"'system' must be a node like {{prompts: 64, tokens: 768, zipf: 1.0}}, but got {node!r}.")

    def parameters(prompts: int, tokens: Any, zipf: float = 1.0) -> SystemPrompts:
        shares = zipf_shares(
            whole("system.prompts", prompts, high=MOST_PROMPTS), number("system.zipf", zipf, 0.0, 100.0)
        )
        lengths = draw(tokens, seed, "system.tokens", len(shares)).astype(np.int64)
        most = (shape.max_prompt_tokens - 1) // shape.block_tokens
        return SystemPrompts(np.minimum(lengths // shape.block_tokens, most), shares)

    return parameters(**accept("'system'", node, parameters, skip=0))


def sessions(shape: Shape, seed: int, requests: int, closed_loop: bool) -> dict[str, Any]:
    """Draw the columns of a session workload: the first `requests` turns by nominal arrival.

    closed_loop : add `parent` and `think_s`; arrivals are then lower bounds: a turn comes think_s after its parent
                  arrived. Open loop: it comes think_s after the answer took answer_token_s a token.
    returns     : columns for `traces.schema.build`, rows sorted by arrival
    """
    prompts = system_prompts(shape.system, seed, shape)
    turns, chosen = _enough_turns(shape, seed, requests, prompts, 0.0 if closed_loop else shape.answer_token_s)
    order = np.argsort(turns.arrival_s, kind="stable")[:requests]
    counts = turns.prompt[order] // shape.block_tokens
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    if offsets[-1] >= 2**31:
        raise TraceError(
            f"a trace holds at most 2^31 - 1 prefix blocks, but {requests} requests would list {offsets[-1]}. "
            "Ask for fewer requests or larger block_tokens."
        )
    ids = np.empty(offsets[-1], np.int64)
    system_base = np.cumsum(prompts.blocks) - prompts.blocks
    own = (turns.before, turns.first_block, turns.base, system_base[chosen][turns.session])
    _write_ids(order, offsets, own, ids)
    columns: dict[str, Any] = {
        "arrival_s": turns.arrival_s[order],
        "prompt_tokens": turns.prompt[order].astype(np.int32),
        "output_tokens": turns.output[order],
        "prefix_blocks": (offsets, ids),
        "session": _labels(turns.session[order]),
    }
    if closed_loop:
        row = np.full(len(turns.session) + 1, -1, np.int64)
        row[order] = np.arange(len(order))
        continues = np.concatenate([[False], turns.session[1:] == turns.session[:-1]])
        columns["parent"] = np.where(continues[order], row[order - 1], -1)
        columns["think_s"] = turns.think_s[order]
    return columns


def _enough_turns(
    shape: Shape, seed: int, requests: int, prompts: SystemPrompts, answer_token_s: float
) -> tuple[Turns, np.ndarray]:
    """Draw sessions until no later session could start before the `requests`-th turn.

    Each stream is read from its start, so more sessions leave the earlier ones as they are.
    """
    per_session = np.minimum(draw_tokens(shape.turns, seed, "turns", requests), MOST_TURNS).astype(np.int64)
    starts = draw_arrivals(shape.arrivals, seed, requests)
    chosen = prompts.choose(seed, requests)
    reach = int(np.searchsorted(np.cumsum(per_session), requests)) + 1
    while True:
        reach = min(reach + reach // 8 + 64, requests)
        system = (prompts.blocks[chosen[:reach]], int(prompts.blocks.sum()))
        turns = _draw_turns(shape, seed, per_session[:reach], starts[:reach], (*system, answer_token_s))
        if reach == requests or np.count_nonzero(turns.arrival_s < starts[reach - 1]) >= requests:
            return turns, chosen[:reach]
        reach += reach // 2


def _draw_turns(
    shape: Shape, seed: int, per_session: np.ndarray, starts: np.ndarray, system: tuple[np.ndarray, int, float]
) -> Turns:
    """Draw every turn of the given sessions; `system` is (blocks by session, blocks in all, answer_token_s)."""
    system_blocks, first_free_id, answer_token_s = system
    total = int(per_session.sum())
    session = np.repeat(np.arange(len(per_session)), per_session)
    first = np.repeat(np.cumsum(per_session) - per_session, per_session)
    user = draw_tokens(shape.user_tokens, seed, "user_tokens", total)
    output = draw_tokens(shape.output_tokens, seed, "output_tokens", total)
    think = draw(shape.think_s, seed, "think_s", total)
    index = np.arange(total)
    place = index - first
    think[place == 0] = 0.0
    gap = think.copy()
    gap[1:] += np.where(place[1:] > 0, output[:-1] * answer_token_s, 0.0)
    elapsed = np.cumsum(gap)
    branches = stream(seed, "branching").random(total) < shape.branching
    target = first + (stream(seed, "branching/target").random(total) * place).astype(np.int64)
    before = np.where(place == 0, -1, np.where(branches, target, index - 1))
    limits = (shape.block_tokens, shape.max_prompt_tokens, first_free_id)
    prompt, first_block, base, kept = _grow(before, place, user, output, system_blocks[session], limits)
    turns = Turns(
        starts[session] + (elapsed - elapsed[first]), session, before, think, prompt, output, first_block, base
    )
    return turns if kept.all() else _drop(turns, kept)


def _drop(turns: Turns, kept: np.ndarray) -> Turns:
    """Return the turns that are kept, with `before` renumbered; a kept turn continues a kept one."""
    number_of = np.concatenate([np.cumsum(kept) - 1, [-1]])
    parts = {name: getattr(turns, name)[kept] for name in turns.__dataclass_fields__}
    parts["before"] = number_of[parts["before"]]
    return Turns(**parts)


@entry()
def _grow(before, place, user, output, system_blocks, limits):  # type: ignore[no-untyped-def]
    """Grow each turn's prompt from the one it continues and give its own blocks consecutive ids."""
    block_tokens, max_prompt, next_id = limits
    total = len(before)
    prompt = np.empty(total, np.int64)
    context = np.empty(total, np.int64)
    first_block = np.empty(total, np.int64)
    base = np.empty(total, np.int64)
    kept = np.ones(total, np.bool_)
    ended = False
    for t in range(total):
        if place[t] == 0:
            ended = False
            start = system_blocks[t] * block_tokens
            prompt[t] = min(start + user[t], max_prompt)
        else:
            start = context[before[t]]
            prompt[t] = start + user[t]
            ended = ended or prompt[t] > max_prompt
        kept[t] = not ended
        context[t] = prompt[t] + output[t]
        first_block[t] = start // block_tokens
        base[t] = next_id
        next_id += context[t] // block_tokens - first_block[t]
    return prompt, first_block, base, kept


@entry()
def _write_ids(order, offsets, own, ids):  # type: ignore[no-untyped-def]
    """Write each row's block ids from its own blocks back to the system prompt; `ids` is modified in place.

    own : before, first_block and base of each turn as in `Turns`, and the first id of its system prompt
    """
    before, first_block, base, system_base = own
    for row in range(len(order)):
        turn = order[row]
        system = system_base[turn]
        end = offsets[row + 1] - offsets[row]
        while turn >= 0:
            low = first_block[turn]
            for k in range(low, end):
                ids[offsets[row] + k] = base[turn] + k - low
            end = min(end, low)
            turn = before[turn]
        for k in range(end):
            ids[offsets[row] + k] = system + k


def _labels(session: np.ndarray) -> Any:
    used, codes = np.unique(session, return_inverse=True)
    names = pa.array([f"s{number}" for number in used.tolist()], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), names)

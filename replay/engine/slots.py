"""What a slot of the decoding batch says of its request: tokens so far, when it is looked at; the blocks of tokens."""

from replay.engine.jit import inlined
from replay.engine.schema import FINISH_AT, RUNNING


@inlined
def blocks_for(tokens, block_tokens):
    """Return the KV blocks that hold so many tokens."""
    return (tokens + block_tokens - 1) // block_tokens


@inlined
def whole_blocks(state, tokens):
    """Return the KV blocks that hold so many tokens; without a division where a block is a power of two."""
    shift = state.cluster[0].block_shift
    if shift >= 0:
        return (tokens + (1 << shift) - 1) >> shift
    return blocks_for(tokens, state.growth.shape[1])


@inlined
def block_part(state, tokens):
    """Return tokens modulo the tokens of a block; without a division where these are a power of two."""
    shift = state.cluster[0].block_shift
    if shift >= 0:
        return tokens & ((1 << shift) - 1)
    return tokens % state.growth.shape[1]


@inlined
def generated_now(state, i, slot):
    """Return the output tokens that the request in a slot of instance i has, as far as the instance is settled."""
    left = state.batch[i, FINISH_AT, slot] - state.instances[i].iteration
    return state.jobs[state.batch[i, RUNNING, slot]].output_tokens - left


@inlined
def due_at(state, r, finish_at):
    """Return the iteration after which decoding request r is looked at: its last, or when a segment of it is full."""
    if not state.cluster[0].staged:
        return finish_at
    return finish_at - max(0, state.jobs[r].output_tokens - state.pipeline.journeys[r].next_tokens)

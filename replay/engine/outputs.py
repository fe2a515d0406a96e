"""What a request generated stays findable: its context goes on from its prompt along nodes of the trie of its own.

A next turn whose prompt contains it has the same nodes. MODEL.md, *Cache*, says when blocks are kept.
"""

from replay.engine.jit import inlined, kernel
from replay.engine.kvcache import publish_path
from replay.engine.schema import DECODE


@inlined
def leaf_of(state, r):
    """Return the deepest trie node that the context of request r can have: of its prompt, or of all it generates."""
    if state.cluster[0].outputs and state.requests[r].generated_tokens > 0:
        return state.cache.tails[r]
    return state.jobs[r].leaf


@kernel
def own_part(state, node, resident, most_blocks):
    """Return what of a resident path that ends in `node` lies in a context: (deepest node, blocks). O(path).

    A path of generated tokens may be there beyond what the request at hand has generated, for another had the same.
    """
    while node >= 0 and state.cache.nodes[node].start_blocks >= most_blocks:
        node = state.cache.nodes[node].parent
    return node, min(resident, most_blocks)


@kernel
def keep_output(state, i, r):
    """Make the context of request r, about to let go of its blocks on instance i, reusable there. Modified in place.

    The blocks that are full of KV, which its last token does not have, come out of its private ones; of those that
    another request made reusable meanwhile, its copies are freed.
    """
    cache = state.cache
    view = state.views[i]
    job = state.jobs[r]
    node = cache.tails[r]
    if view.role == DECODE or node < 0:
        return
    context = state.requests[r].prompt_tokens + state.requests[r].generated_tokens
    end = min((context - 1) // view.block_tokens, cache.nodes[node].start_blocks + cache.nodes[node].blocks)
    if end <= job.pinned_blocks:
        return
    while cache.nodes[node].start_blocks >= end:
        node = cache.nodes[node].parent
    publish_path(state, i, r, node, end)

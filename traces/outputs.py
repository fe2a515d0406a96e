"""The trie of a trace in which what requests generate stays findable, by themselves and by the turns after them."""

import numpy as np

from traces.schema import Trace
from traces.trie import Trie, compress, full_blocks, nodes_of

ROOM = 1 << 62  # ids above are numbered anew, so that there is room for those of generated blocks


def with_outputs(trace: Trace) -> Trie:
    """Build the trie of a trace whose requests go on from their prompts into what they generate.

    trace   : as for `traces.trie.compress`
    returns : Trie whose `leaf` are those of the prompts and whose `tails` are the last nodes of prompt and output,
              without the last token, in full blocks. The output has the blocks that the prompt of the next turn
              (`following`) has there, and beyond that prompt, or without one, blocks that no other request has
    raises  : TraceError as `compress`
    cost    : about twice that of `compress`, and 8 bytes a block of all contexts
    """
    if "prefix_blocks" not in trace or len(trace) == 0:
        return compress(trace)._replace(tails=np.full(len(trace), -1, np.int32))
    offsets, ids = trace.prefix()
    size = int(trace.block_tokens or 1)
    prompt, output = (trace.column(name).astype(np.int64) for name in ("prompt_tokens", "output_tokens"))
    known = full_blocks(trace).astype(np.int64)
    # a prompt of which not every block has an id ends where they do: what comes after does not go on from there
    whole = known == prompt // size
    counts = np.where(whole, (prompt + output - 1) // size, known)
    ids = np.unique(ids, return_inverse=True)[1].astype(np.int64) if int(ids.max(initial=0)) >= ROOM else ids
    after = following(trace, offsets, known, ids)
    row = np.repeat(np.arange(len(trace)), counts)
    first = np.cumsum(counts) - counts
    place = np.arange(len(row)) - first[row]
    one = after[row]
    own, next_has = place < known[row], (one >= 0) & (place < known[one])
    fresh = int(ids.max(initial=-1)) + 1 + np.arange(len(row))
    there = np.where(own, offsets[row] + place, np.where(next_has, offsets[one] + place, 0))
    contexts = np.where(own | next_has, ids[there] if len(ids) else fresh, fresh)
    starts = np.concatenate((offsets, offsets[-1] + first[1:], [offsets[-1] + len(row)]))
    nodes = nodes_of(starts, np.concatenate((known, counts)), np.concatenate((ids, contexts)), trace.name)
    leaves = nodes[3]
    return Trie(*nodes[:3], leaves[: len(trace)].copy(), size, leaves[len(trace) :].copy())


def following(trace: Trace, offsets: np.ndarray, known: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the first later turn whose prompt goes on from a request's prompt and output, int64 (requests,), -1: none.

    A later turn: a child by `parent`, or without that column the next request of the same `session`. Its prompt goes
    on if it is at least as long as prompt and output together and begins with all full blocks of the prompt.
    """
    rows = np.arange(len(trace))
    before = np.full(len(trace), -1, np.int64)
    if "parent" in trace:
        before = trace.column("parent").astype(np.int64)
    elif "session" in trace:
        codes = trace.codes("session")
        order = np.lexsort((rows, codes))
        same = (codes[order[1:]] == codes[order[:-1]]) & (codes[order[1:]] >= 0)
        before[order[1:][same]] = order[:-1][same]
    turns = rows[before >= 0]
    one = before[turns]
    prompt, output = trace.column("prompt_tokens").astype(np.int64), trace.column("output_tokens")
    goes_on = (prompt[turns] >= prompt[one] + output[one]) & (known[turns] >= known[one])
    turns, one = turns[goes_on], one[goes_on]
    some = known[one] > 0
    last = np.maximum(known[one] - 1, 0)
    alike = ~some
    alike[some] = ids[(offsets[turns] + last)[some]] == ids[(offsets[one] + last)[some]]
    found = np.full(len(trace), -1, np.int64)
    found[one[alike][::-1]] = turns[alike][::-1]
    return found

"""What costs most to compute again for its size stays."""

from replay.policy import Span, policy


@policy("evict")
def gdsf(node, now_ps, attention: Span(0.0, 1.0, log=False) = 0.0001):
    """Evict the prefix of lowest clock + uses x recompute cost a block; the clock is the score evicted last.

    A block at position p costs 1 + `attention` p: linear work, and attention over all that stands before it.

    source : Cherkasova, GreedyDual-Size-Frequency, HP Labs 1998; cost of a prefix as in RAGCache (Jin et al., 2024)
    """
    cost = 1.0 + attention * (node.start_blocks + 0.5 * node.blocks)
    return max(node.clock, 0.0) + node.uses * cost

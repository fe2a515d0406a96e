"""First in, first out."""

from replay.policy import policy


@policy("evict")
def fifo(node, now_ps):
    """Evict the prefix that came first, however often it was used since.

    source : own; the baseline of every cache study
    """
    return node.first_used_ps * 1e-12

"""Write when it must go."""

from replay.policy import policy


@policy("write")
def back(node, evicting, now_ps):
    """Write a prefix to the stores below when the HBM evicts it.

    source : SGLang HiCache, write-back; CachedAttention (Gao et al., ATC 2024)
    """
    return evicting

"""Least frequently used."""

from replay.policy import policy

LONGEST_S = 9.0e6  # longer than any replay: one use more outweighs any difference of age


@policy("evict")
def lfu(node, now_ps):
    """Evict the prefix used least often since it came; of equal ones the one used longest ago.

    source : own; Mooncake's LFUCache (Qin et al., FAST 2025, table 1 of its technical report) breaks ties the same way
    """
    return node.uses * LONGEST_S + node.last_used_ps * 1e-12

"""Short prefixes stay."""

from replay.policy import policy

LONGEST_S = 9.0e6


@policy("evict")
def length_aware(node, now_ps):
    """Evict the prefix used least often; of equal ones the one that stands latest in its prompt.

    source : Mooncake's LengthAwareCache (technical report, arXiv 2407.00079v3, section 4)
    """
    return node.uses - node.start_blocks * 1e-9

"""A hand that sweeps from the oldest to the newest."""

import math

from replay.policy import policy

ROUND_S = 1.0e7  # longer than any replay: the round of the hand outweighs the age


@policy("evict")
def sieve(node, now_ps):
    """Evict in order of arrival what was not used since the hand came by; the others stay where they are for a round.

    source : SIEVE (Zhang et al., NSDI 2024); the round of the hand is in the score
    """
    hand = math.floor(max(node.clock, 0.0) / ROUND_S)
    came_s = node.first_used_ps * 1e-12
    if node.examined:
        return (hand + 1.0) * ROUND_S + came_s if node.uses_since > 0 else node.score
    return node.score if node.uses > 1 else hand * ROUND_S + came_s

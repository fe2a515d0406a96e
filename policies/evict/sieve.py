"""A hand that sweeps from the oldest to the newest."""

import math

from replay.policy import policy

ROUND = 1.0e10  # blocks, more than ever come in: the round of the hand outweighs the place in the queue


@policy("evict")
def sieve(node, now_ps):
    """Evict in order of arrival what was not used since the hand came by; the others stay where they are for a round.

    What comes in stands behind all others, in the round of the hand. If the hand has just evicted the newest it starts
    over at the oldest, so that what comes then is a round later.

    source : SIEVE (Zhang et al., NSDI 2024); the round of the hand is in the score, places count blocks that came in
    """
    if node.examined:
        return node.score + ROUND if node.uses_since > 0 else node.score
    if node.uses > 1:
        return node.score
    hand = math.floor(max(node.clock, 0.0) / ROUND) * ROUND
    came = node.inserted_blocks - node.start_blocks - node.blocks  # before its path did
    if node.evicted_blocks > 0 and node.clock - hand >= came:
        hand += ROUND
    return hand + node.inserted_blocks

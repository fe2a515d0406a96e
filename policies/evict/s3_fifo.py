"""Three queues for what is used once, more than once, and was thrown out too early."""

from replay.policy import Span, policy


@policy("evict")
def s3_fifo(node, now_ps, probation: Span(0.01, 1.0) = 0.1):
    """Evict in order of arrival: what was never used again after `probation` of a full life, the rest after all of it.

    Time is counted in blocks that came in: a full life is as many as the holder has. A new prefix is queued as if most
    of its life were over; if it was used meanwhile it starts a full life when its turn comes, and again for as long as
    it is used.

    source : S3-FIFO (Yang et al., SOSP 2023) as one queue, without its ghosts: approximate
    """
    full = node.inserted_blocks + 0.0
    if node.examined:
        return full if node.uses_since > 0 else node.score
    if node.uses > 1:
        return node.score
    return full - (1.0 - probation) * node.total_blocks

"""What its kind of request seldom uses again goes first."""

import math

from replay.policy import Span, policy


@policy("evict")
def workload_aware(node, now_ps, life_s: Span(1.0, 86400.0, log=True) = 600.0):
    """Evict the prefix least likely to be used again within `life_s`, judged by the class of its last user.

    A class is a kind of request and a turn; its share of uses that were followed by another, and the mean time to that,
    are counted as the replay goes; times to reuse are taken as exponential. Of equal ones the later position in the
    prompt, then the older use, goes.

    source : KVCache in the Wild (Wang et al., USENIX ATC 2025)
    """
    within = 1.0 - math.exp(-life_s / node.group_reuse_s)
    return node.group_share * within - 1e-9 * node.start_blocks + 1e-16 * node.last_used_ps * 1e-12

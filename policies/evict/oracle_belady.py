"""The bound that no policy passes."""

from replay.policy import policy


@policy("evict")
def oracle_belady(node, now_ps):
    """Evict the prefix whose next use in the trace is farthest away. Sees the future: a bound, not a policy.

    source : Belady, A study of replacement algorithms, IBM Systems Journal 1966
    """
    return -1.0 * node.next_use if node.next_use >= 0 else -1.0e18

"""What has the least time left."""

from replay.policy import Span, policy


@policy("evict")
def ttl(node, now_ps, disk_s: Span(0.0, 8640000.0) = 86400.0, memory_s: Span(0.0, 8640000.0) = 600.0):
    """Evict what would expire first if memory kept a prefix for `memory_s` after its last use and a disk for `disk_s`.

    Each tier keeps what was used last, but a prefix that was used n times is kept n times as long in memory.

    source : own; lifetimes as in context-caching services, in place of one recency for all
    """
    life_s = disk_s if node.tier == 2 else memory_s * node.uses
    return node.last_used_ps * 1e-12 + life_s

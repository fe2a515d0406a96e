"""Take what arrives in time."""

from replay.policy import policy


@policy("fetch")
def best_effort(request, instance, offer, now_ps):
    """Load from every tier while the request queues; at admission what has arrived counts, the rest is computed.

    source : SGLang HiCache, prefetch policy best_effort
    """
    return 2, 0.0

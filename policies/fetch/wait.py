"""Wait for all of it."""

from replay.policy import NEVER, policy


@policy("fetch")
def wait(request, instance, offer, now_ps):
    """Load from every tier and let the request wait until all has arrived.

    source : SGLang HiCache, prefetch policy wait_complete
    """
    return 2, NEVER

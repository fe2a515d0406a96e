from replay.policy import Span, policy


@policy("admit")
def queue_limit(request, instances, now_ps, limit: Span(0, 1_000_000) = 64):
    """Reject a request while `limit` requests or more wait per instance, on average.

    source : own; the bounded queue of any server (M/M/c/K)
    """
    waiting = 0
    for i in range(len(instances)):
        waiting += instances[i].waiting
    return waiting < limit * len(instances)

from replay.policy import policy


@policy("route")
def round_robin(request, instances, now_ps):
    """Send the k-th request to instance k modulo their number.

    source : own; the baseline of every router
    """
    return request.sequence % len(instances)

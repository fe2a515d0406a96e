from replay.policy import HOLD, Span, policy


@policy("route")
def central_queue(request, instances, now_ps, ahead: Span(0, 4096) = 0):
    """Hold requests in the cluster queue until an instance has room in its batch, then send to the emptiest.

    ahead  : requests that may wait at an instance beyond a full batch
    source : own; with one request a batch this is the M/G/c queue
    """
    best, lowest = HOLD, 1e300
    for i in range(len(instances)):
        load = instances[i].waiting + instances[i].running
        if load < instances[i].max_batch + ahead and load < lowest:
            best, lowest = i, load
    return best

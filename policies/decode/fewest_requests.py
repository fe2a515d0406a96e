from replay.policy import policy


@policy("decode")
def fewest_requests(request, instances, now_ps):
    """Send a prefilled request to the decode instance with the fewest requests; ties to the lowest instance.

    source : join the shortest queue
    """
    best = 0
    for i in range(len(instances)):
        load = instances[i].running + instances[i].waiting
        if load < instances[best].running + instances[best].waiting:
            best = i
    return best

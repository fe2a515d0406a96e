from replay.policy import Span, policy


@policy("route")
def least_loaded(request, instances, now_ps, waiting_weight: Span(0.0, 16.0) = 1.0):
    """Send a request where the fewest are running or waiting; ties to the lowest instance.

    waiting_weight : how many running requests a waiting one counts for; 4 is what vLLM's data-parallel router uses
    source         : join the shortest queue; vLLM data-parallel load balancer (4 waiting + running)
    """
    best, lowest = 0, 1e300
    for i in range(len(instances)):
        load = waiting_weight * instances[i].waiting + instances[i].running
        if load < lowest:
            best, lowest = i, load
    return best

from replay.policy import policy


@policy("route")
def least_tokens(request, instances, now_ps):
    """Send a request where the fewest prompt tokens wait to be prefilled; ties to the lowest instance.

    source : Splitwise (Patel et al., ISCA 2024): join the shortest queue, counted in pending tokens
    """
    best = 0
    for i in range(len(instances)):
        if instances[i].queued_tokens < instances[best].queued_tokens:
            best = i
    return best

from replay.policy import policy


@policy("route")
def lmetric(request, instances, now_ps):
    """Send a request where tokens still to prefill, its own included, times requests there plus one are fewest.

    source : LMetric as in the llm-d and Dynamo routers; without its guard against hot prefixes
    """
    best, lowest = 0, 1e300
    for i in range(len(instances)):
        new_tokens = float(instances[i].queued_tokens) + request.prompt_tokens - instances[i].hit_tokens
        product = new_tokens * (1.0 + instances[i].running + instances[i].waiting)
        if product < lowest:
            best, lowest = i, product
    return best

from replay.policy import DECODE, Span, policy


@policy("route")
def splitwise(request, instances, now_ps, most_tokens: Span(0, 10_000_000) = 8192):
    """Send a request to the prefill instance with the fewest pending tokens, or over `most_tokens` to a decode one.

    In a mixed pool (cluster.mixed_pool=true) decode instances help out while prompts queue, and return when that is
    done; elsewhere there is none to ask. Of these, too, the one with the fewest pending tokens is taken.

    source : Splitwise (Patel et al., ISCA 2024), cluster-level scheduling with its mixed pool
    """
    best, fewest = -1, 1e300
    helper, least = -1, 1e300
    for i in range(len(instances)):
        pending = instances[i].queued_tokens
        if instances[i].home != DECODE:
            if pending < fewest:
                best, fewest = i, pending
        elif pending < least:
            helper, least = i, pending
    if helper >= 0 and (best < 0 or (fewest > most_tokens and least < fewest)):
        return helper
    return best

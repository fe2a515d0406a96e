from replay.engine.draws import uniform
from replay.policy import Span, policy


@policy("route")
def rendezvous(request, instances, now_ps, depth: Span(0, 7) = 1, fan_out: Span(1, 64) = 2):
    """Rank instances by a hash of (prefix, instance); of the first `fan_out` take the one with fewest queued tokens.

    The prefix is the first 2^`depth` trace blocks.

    source : Thaler and Ravishankar 1998 (highest random weight), with the fan-out of hash routers for hot prefixes
    """
    best, fewest = 0, 1e300
    last = 2.0
    for _ in range(min(fan_out, len(instances))):
        chosen, highest = 0, -1.0
        for i in range(len(instances)):
            weight = uniform(request.prefix_keys[depth], i)
            if highest < weight < last:
                chosen, highest = i, weight
        last = highest
        if instances[chosen].queued_tokens < fewest:
            best, fewest = chosen, instances[chosen].queued_tokens
    return best

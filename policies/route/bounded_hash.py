import math

from replay.engine.draws import clockwise
from replay.policy import Span, policy


@policy("route")
def bounded_hash(request, instances, now_ps, depth: Span(0, 7) = 1, cap: Span(1.0, 16.0) = 1.25,
                 points: Span(1, 512) = 100):
    """Send a request clockwise from its prefix on a hash ring to the first instance that is not full.

    The prefix is the first 2^`depth` trace blocks, an instance has `points` places on the ring, and is full with `cap`
    times the mean of requests, this one included, rounded up.

    source : Mirrokni et al., Consistent hashing with bounded loads, SODA 2018; KubeAI's PrefixHash, with its defaults
    """
    total = 0
    for i in range(len(instances)):
        total += instances[i].waiting + instances[i].running
    most = math.ceil(cap * (total + 1) / len(instances))
    best, nearest = 0, 2.0
    for i in range(len(instances)):
        if instances[i].waiting + instances[i].running < most:
            for k in range(points):
                distance = clockwise(request.prefix_keys[depth], i, k)
                if distance < nearest:
                    best, nearest = i, distance
    return best

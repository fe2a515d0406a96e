from policies.expected import decode_load
from replay.policy import policy


@policy("decode")
def fullest_feasible(request, instances, now_ps):
    """Send a prefilled request to the most loaded decode instance that still meets its target; else the least loaded.

    source : PolyServe (Zhu et al., 2025), decode side: instances that it leaves empty can be given back
    """
    best, most = -1, -1.0
    spare, least = 0, 1e300
    for j in range(len(instances)):
        load = decode_load(request, instances[j], 1.0, 0.0)
        if load <= 1.0 and load > most:
            best, most = j, load
        if load < least:
            spare, least = j, load
    return best if best >= 0 else spare

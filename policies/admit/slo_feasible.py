from policies.expected import decode_load, first_token_s
from replay.policy import Span, policy


@policy("admit")
def slo_feasible(request, instances, now_ps, decodes, slack: Span(0.1, 10.0, log=True) = 1.0):
    """Reject a request that no instance can serve within `slack` times its tier's TTFT and ITL targets, as predicted.

    source : deadline admission as in SLO-aware serving (SLOs-Serve, 2025), with the engine's coefficients
    """
    soonest_s = 1e300
    for i in range(len(instances)):
        soonest_s = min(soonest_s, first_token_s(request, instances[i]))
    least = 1e300
    for j in range(len(decodes)):
        least = min(least, decode_load(request, decodes[j], 1.0, 0.0))
    return soonest_s <= slack * request.ttft_s and least <= slack

from policies.expected import decode_load
from replay.policy import REFUSE, Span, policy


@policy("decode")
def refuse_overload(request, instances, now_ps, threshold: Span(0.01, 100.0, log=True) = 1.0):
    """Send a prefilled request to the least loaded decode instance; refuse it, prefill wasted, above `threshold`.

    source : Mooncake (Qin et al., FAST 2025), the baseline of early rejection: decode load is looked at after prefill
    """
    best, least = 0, 1e300
    for j in range(len(instances)):
        load = decode_load(request, instances[j], 1.0, 0.0)
        if load < least:
            best, least = j, load
    return best if least <= threshold else REFUSE

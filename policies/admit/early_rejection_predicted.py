from policies.expected import decode_load, first_token_s
from replay.policy import Span, policy


@policy("admit")
def early_rejection_predicted(request, instances, now_ps, decodes, threshold: Span(0.01, 100.0, log=True) = 1.0,
                              decode_s: Span(0.01, 3600.0, log=True) = 10.0):
    """Reject at arrival by the prefill load now and the decode load expected when the prefill will be done.

    By then, TTFT later, a share TTFT / `decode_s` of those that decode will have gone, and all that are prefilled or
    wait for it will have come, evenly over the decode instances. More than `threshold` rejects.

    source : Mooncake (Qin et al., FAST 2025), early rejection based on prediction, with one decode time for all
    """
    soonest_s, coming = 1e300, 0.0
    for i in range(len(instances)):
        soonest_s = min(soonest_s, first_token_s(request, instances[i]))
        coming += instances[i].waiting + (instances[i].running - instances[i].decoding)
    stays = max(0.0, 1.0 - soonest_s / decode_s)
    decode = 1e300
    for j in range(len(decodes)):
        decode = min(decode, decode_load(request, decodes[j], stays, coming / len(decodes)))
    return max(soonest_s / request.ttft_s, decode) <= threshold

from policies.expected import decode_load, first_token_s
from replay.policy import Span, policy


@policy("admit")
def early_rejection(request, instances, now_ps, decodes, threshold: Span(0.01, 100.0, log=True) = 1.0):
    """Reject at arrival what prefill or decode could not serve as promised, judged by the load of both now.

    Load is the predicted TTFT, or time between tokens, over its target, on the instance where that is least; a decode
    instance without room counts as loaded too. More than `threshold` rejects.

    source : Mooncake (Qin et al., FAST 2025), early rejection; targets of the request's tier
    """
    prefill, decode = 1e300, 1e300
    for i in range(len(instances)):
        prefill = min(prefill, first_token_s(request, instances[i]) / request.ttft_s)
    for j in range(len(decodes)):
        decode = min(decode, decode_load(request, decodes[j], 1.0, 0.0))
    return max(prefill, decode) <= threshold

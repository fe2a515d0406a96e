from replay.policy import Span, policy


@policy("route")
def linear_score(request, instances, now_ps, hit_weight: Span(0.0, 1.0) = 0.5):
    """Send a request where `hit_weight` * missed share + (1 - `hit_weight`) * load is least.

    The load is that of the fullest instance as 1, missed the share of the prompt that is not cached there.

    source : the linear combination used at Alibaba Bailian (KVCache in the Wild, Wang et al., USENIX ATC 2025)
    """
    most = 1
    for i in range(len(instances)):
        most = max(most, instances[i].running + instances[i].waiting)
    best, lowest = 0, 1e300
    for i in range(len(instances)):
        missed = 1.0 - instances[i].hit_tokens / request.prompt_tokens
        load = (instances[i].running + instances[i].waiting) / most
        score = hit_weight * missed + (1.0 - hit_weight) * load
        if score < lowest:
            best, lowest = i, score
    return best

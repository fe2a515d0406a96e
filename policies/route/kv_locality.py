from replay.policy import Span, policy


@policy("route")
def kv_locality(request, instances, now_ps, balancing_threshold: Span(1.0, 64.0, log=True) = 2.0):
    """Send a request where its first token is expected soonest, fetching a prefix from its best holder if that pays.

    An instance whose own prefix is within `balancing_threshold` of the best one computes the rest itself; any other
    fetches the missing part over the holder's network card first. Expected time = transfer + queue + prefill.

    source : Qin et al., Mooncake, FAST 2025, Algorithm 1, without its rejection step
    """
    holder, longest = 0, 0
    for i in range(len(instances)):
        if instances[i].hit_tokens > longest:
            holder, longest = i, instances[i].hit_tokens
    best, source, lowest = 0, -1, 1e300
    for i in range(len(instances)):
        own = instances[i].hit_tokens
        fetch = longest > balancing_threshold * own and longest > own
        hit = longest if fetch else own
        transfer_s = 0.0
        if fetch:
            transfer_s = (longest - own) * instances[holder].transfer_token_s + instances[holder].transfer_latency_s
        queue_s = instances[i].queued_tokens / instances[i].prefill_tokens_per_s
        squares = float(request.prompt_tokens) * request.prompt_tokens - float(hit) * hit
        prefill_s = (
            instances[i].iteration_s
            + (request.prompt_tokens - hit) * instances[i].prefill_token_s
            + squares * instances[i].prefill_token_sq_s
        )
        expected_s = transfer_s + queue_s + prefill_s
        if expected_s < lowest:
            best, source, lowest = i, holder if fetch else -1, expected_s
    return best, source

from replay.policy import Span, policy


@policy("admit")
def early_rejection(request, instances, now_ps, ttft_s: Span(0.001, 3600.0, log=True) = 30.0):
    """Reject a request whose first token is expected later than `ttft_s` on every instance, before it costs anything.

    source : Mooncake (Qin et al., FAST 2025), early rejection by prefill load; without the load of the decode side
    """
    for i in range(len(instances)):
        view = instances[i]
        squares = float(request.prompt_tokens) * request.prompt_tokens - float(view.hit_tokens) * view.hit_tokens
        own_s = (request.prompt_tokens - view.hit_tokens) * view.prefill_token_s + squares * view.prefill_token_sq_s
        if view.iteration_s + view.queued_tokens / view.prefill_tokens_per_s + own_s <= ttft_s:
            return True
    return False

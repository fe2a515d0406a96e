from replay.policy import policy


@policy("route")
def expected_ttft(request, instances, now_ps):
    """Send a request where its first token is expected soonest: the queue, then what its prompt lacks; no fetches.

    source : llm-d's latency-predicting scorer, with the engine's own coefficients in place of a learned model
    """
    best, lowest = 0, 1e300
    for i in range(len(instances)):
        view = instances[i]
        squares = float(request.prompt_tokens) * request.prompt_tokens - float(view.hit_tokens) * view.hit_tokens
        own_s = (request.prompt_tokens - view.hit_tokens) * view.prefill_token_s + squares * view.prefill_token_sq_s
        expected_s = view.iteration_s + view.queued_tokens / view.prefill_tokens_per_s + own_s
        if expected_s < lowest:
            best, lowest = i, expected_s
    return best

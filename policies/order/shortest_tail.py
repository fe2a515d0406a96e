from replay.policy import NEVER, Span, policy


@policy("order")
def shortest_tail(request, now_ps, risk: Span(0.0, 1.0) = 0.5, output_weight: Span(0.0, 256.0) = 16.0):
    """Serve the least work first, its output taken `risk` of the way from the predicted middle to the 90 % quantile.

    Work is prompt tokens plus `output_weight` times that. Of two requests with the same middle, the one that may turn
    out long waits. Never preempts.

    source : tail-inflated lengths as in uncertainty-aware LLM schedulers (TIE), with a quantile for their tail
    """
    middle, late = max(0, request.predicted_tokens), max(0, request.predicted_p90_tokens)
    return request.prompt_tokens + output_weight * (middle + risk * max(0, late - middle)), NEVER

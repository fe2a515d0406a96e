from replay.policy import Span, policy

UNKNOWN, SAFE = 1e12, -1.0  # keys of a request without prediction, and of one that may not be preempted any more


@policy("order")
def trail(request, now_ps, limit: Span(0.0, 1.0) = 0.8):
    """Serve the fewest predicted tokens left first; preempt only what has less than `limit` of its prediction.

    With 0 nothing is preempted (SJF by prediction), with 1 a request is safe once it has all that was predicted.

    source : TRAIL (Shahout et al., Don't stop me now, 2024), looking again every predictor.refresh_tokens
    """
    if request.predicted_tokens < 0:
        return UNKNOWN, 0.0
    if request.runs and request.generated_tokens >= limit * request.predicted_tokens:
        return SAFE, 0.0
    return request.predicted_left_tokens, 0.0

from replay.policy import Span, policy


@policy("order")
def oracle_srpt(request, now_ps, output_weight: Span(0.0, 256.0) = 16.0):
    """Serve, and keep serving, the least true work left: prefill tokens plus weighted output tokens. Sees the future.

    An output token is worth `output_weight` prefill tokens. What was preempted has its tokens to compute again.

    source : Schrage and Miller 1966 (SRPT), a bound for policies that predict
    """
    left = request.prefill_tokens + output_weight * (request.true_tokens - request.generated_tokens)
    return left, 0.0

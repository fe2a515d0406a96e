from replay.policy import NEVER, Span, policy


@policy("order")
def oracle_sjf(request, now_ps, output_weight: Span(0.0, 256.0) = 16.0):
    """Serve the least true work first: prompt tokens plus `output_weight` times output tokens. Sees the future.

    source : SJF (Phipps 1956), a bound for policies that predict
    """
    return request.prompt_tokens + output_weight * request.true_tokens, NEVER

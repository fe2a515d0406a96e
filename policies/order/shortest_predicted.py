from replay.policy import NEVER, Span, policy


@policy("order")
def shortest_predicted(request, now_ps, output_weight: Span(0.0, 256.0) = 16.0):
    """Serve the least expected work first: prompt tokens plus `output_weight` times the predicted output tokens.

    A request without a prediction counts with its prompt alone. Never preempts.

    source : SJF with predictions (Mitzenmacher, Scheduling with predictions and the price of misprediction, ITCS 2020)
    """
    return request.prompt_tokens + output_weight * max(0, request.predicted_tokens), NEVER

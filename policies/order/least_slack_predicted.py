from replay.policy import NEVER, Span, policy

LATE, MOST_S = 1e13, 1e12  # added to what is late; slack where a tier promises nothing


@policy("order")
def least_slack_predicted(
    request, now_ps, token_s: Span(0.0001, 10.0, log=True) = 0.03, grace_s: Span(0.0, 3600.0) = 0.0
):
    """Serve the least slack to the E2E target first: time left, less the prefill and `token_s` a predicted token.

    A request later than `grace_s` cannot be saved: it goes behind all that can. Asked anew for every batch.

    source : least laxity first (Mok 1983), with predicted lengths as in deadline-aware LLM schedulers
    """
    left_s = request.e2e_s - (now_ps - request.arrival_ps) * 1e-12
    slack_s = min(left_s - request.prefill_s - token_s * max(0.0, request.predicted_left_tokens), MOST_S)
    return slack_s if slack_s >= -grace_s else LATE + slack_s, NEVER

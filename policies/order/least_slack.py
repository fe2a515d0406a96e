from replay.policy import NEVER, Span, policy

LATE, MOST_S = 1e13, 1e12  # added to what is late; slack where a tier promises nothing


@policy("order")
def least_slack(request, now_ps, grace_s: Span(0.0, 3600.0) = 0.0):
    """Serve the least slack first: time until the next token is due, less the time of the prefill still to do.

    A request later than `grace_s` cannot be saved: it goes behind all that can. Asked anew for every batch.

    source : least laxity first (Mok 1983); the demotion of lost requests as in SLO-aware LLM schedulers
    """
    waited_s = (now_ps - request.arrival_ps) * 1e-12
    due_s = request.ttft_s
    if request.generated_tokens > 0:
        due_s += request.generated_tokens * min(request.itl_s, request.tpot_s)
    slack_s = min(due_s - waited_s - request.prefill_s, MOST_S)
    return slack_s if slack_s >= -grace_s else LATE + slack_s, NEVER

from replay.policy import NEVER, Choice, policy

LATEST_S = 1e12  # due time where a tier promises nothing


@policy("order")
def edf(request, now_ps, preemptive: Choice(False, True) = False):
    """Serve the request first whose next token is due first: arrival + TTFT target + one ITL or TPOT target a token.

    preemptive : whether a request may take the place of a running one that is due later
    source     : Liu and Layland 1973 (earliest deadline first); deadlines of tokens as in SLO-aware serving
    """
    due_s = request.arrival_ps * 1e-12 + request.ttft_s
    if request.generated_tokens > 0:
        due_s += request.generated_tokens * min(request.itl_s, request.tpot_s)
    return min(due_s, LATEST_S), 0.0 if preemptive else NEVER

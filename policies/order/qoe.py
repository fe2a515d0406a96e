from replay.policy import Span, policy

MOST_S = 1e9


@policy("order")
def qoe(request, now_ps, horizon_s: Span(0.1, 600.0, log=True) = 10.0, margin: Span(0.0, 1.0) = 0.1):
    """Serve first who gains the most experience for the memory held: (served - waiting quality) by context tokens.

    Quality is the share of tokens that the targets (TTFT, then one ITL or TPOT) make due in `horizon_s` that will be
    there: those so far, and if served those of the horizon at the promised pace. A running request gives way to one
    that gains more by `margin` a thousand tokens.

    source : Andes (Liu et al., 2024), with token counts in place of the area under its delivery curve
    """
    pace_s = min(request.itl_s, request.tpot_s, MOST_S)
    elapsed_s = (now_ps - request.arrival_ps) * 1e-12
    due = max(1.0, 1.0 + (elapsed_s + horizon_s - min(request.ttft_s, MOST_S)) / pace_s)
    more = 1.0 + max(0.0, horizon_s - request.prefill_s) / pace_s
    waiting = min(1.0, request.generated_tokens / due)
    served = min(1.0, (request.generated_tokens + more) / due)
    context = request.prompt_tokens + request.generated_tokens
    return -1000.0 * (served - waiting) / context, margin

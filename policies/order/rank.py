from replay.policy import NEVER, Choice, Span, policy

UNKNOWN, PROMOTED = 1e12, -1.0


@policy("order")
def rank(request, now_ps, starvation_s: Span(0.001, 86400.0, log=True) = 30.0,
         quantum_s: Span(0.001, 86400.0, log=True) = 5.0, preemptive: Choice(False, True) = True):
    """Serve the lowest predicted rank first; what waited `starvation_s` goes before all, and keeps that for a quantum.

    Only the order of predictions matters, not their scale. Promotion ends after `quantum_s` in a batch.

    preemptive : whether a request may take the place of a running one of a higher rank

    source : Fu et al., Efficient LLM scheduling by learning to rank, NeurIPS 2024; its guard counts steps, ours seconds
    """
    waits_long = not request.runs and request.stage_s >= starvation_s
    just_served = request.runs and request.waited_s >= starvation_s and request.stage_s < quantum_s
    key = request.predicted_tokens * 1.0 if request.predicted_tokens >= 0 else UNKNOWN
    if waits_long or just_served:
        key = PROMOTED
    return key, 0.0 if preemptive else NEVER

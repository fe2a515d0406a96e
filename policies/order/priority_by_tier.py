from replay.policy import NEVER, Choice, Span, policy


@policy("order")
def priority_by_tier(request, now_ps, aging_s: Span(0.0, 86400.0) = 0.0, preemptive: Choice(False, True) = False):
    """Serve the most urgent tier first, each tier in order of arrival.

    aging_s    : waiting time worth one tier, 0 for none (with it, every request is served in the end)
    preemptive : whether a request may take the place of a running one of a less urgent tier
    source     : Cobham 1954 (the queue); vLLM's priority scheduling; aging as in every operating system
    """
    if aging_s > 0.0:
        return request.tier + request.arrival_ps * 1e-12 / aging_s, 1.0 if preemptive else NEVER
    return request.tier + request.arrival_ps * 1e-20, 0.5 if preemptive else NEVER

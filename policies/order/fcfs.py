from replay.policy import NEVER, policy


@policy("order")
def fcfs(request, now_ps):
    """Serve in order of arrival at the cluster.

    source : own; the default of vLLM and SGLang
    """
    return request.arrival_ps * 1e-12, NEVER

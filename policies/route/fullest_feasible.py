from policies.expected import first_token_s, step_s
from replay.policy import policy


@policy("route")
def fullest_feasible(request, instances, now_ps):
    """Send a request to the most loaded instance expected to meet its TTFT and ITL, else to the soonest first token.

    source : PolyServe (Zhu et al., 2025): instances that it leaves empty can be given back
    """
    best, most_s = -1, -1.0
    spare, soonest_s = 0, 1e300
    for i in range(len(instances)):
        view = instances[i]
        expected_s = first_token_s(request, view)
        requests, tokens = 1.0 + view.running + view.waiting, float(request.prompt_tokens) + view.kv_tokens
        in_time = expected_s <= request.ttft_s
        if in_time and step_s(view, requests, tokens) <= min(request.itl_s, request.tpot_s) and expected_s > most_s:
            best, most_s = i, expected_s
        if expected_s < soonest_s:
            spare, soonest_s = i, expected_s
    return best if best >= 0 else spare

from policies.expected import first_token_s
from replay.policy import policy


@policy("route")
def expected_ttft(request, instances, now_ps):
    """Send a request where its first token is expected soonest: the queue, then what its prompt lacks; no fetches.

    source : llm-d's latency-predicting scorer, with the engine's own coefficients in place of a learned model
    """
    best, lowest = 0, 1e300
    for i in range(len(instances)):
        expected_s = first_token_s(request, instances[i])
        if expected_s < lowest:
            best, lowest = i, expected_s
    return best

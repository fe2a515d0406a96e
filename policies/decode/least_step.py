from policies.expected import step_s
from replay.policy import policy


@policy("decode")
def least_step(request, instances, now_ps):
    """Send a prefilled request where the next iteration with it, and all that is there or on its way, is shortest.

    source : least time per output token, as in PolyServe's and llm-d's predictors, with the engine's coefficients
    """
    best, lowest = 0, 1e300
    for j in range(len(instances)):
        view = instances[j]
        tokens = float(request.prompt_tokens) + view.kv_tokens + view.waiting_tokens
        expected_s = step_s(view, 1.0 + view.running + view.waiting, tokens)
        if expected_s < lowest:
            best, lowest = j, expected_s
    return best

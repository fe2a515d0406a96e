from replay.policy import NEVER, policy


@policy("order")
def shortest_prompt(request, now_ps):
    """Serve the shortest prompt first; ties to the earlier row.

    source : SJF (Phipps 1956) on what is known at arrival
    """
    return float(request.prompt_tokens), NEVER

from replay.policy import policy


@policy("batch")
def chunked(instance, now_ps):
    """Run every decode and fill the rest of the token budget with prefill, cut into chunks.

    source : Agrawal et al., Sarathi-Serve, OSDI 2024; vLLM V1's default
    """
    return max(0, instance.token_budget - instance.decoding), True, False

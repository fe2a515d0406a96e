from replay.policy import policy


@policy("batch")
def prefill_first(instance, now_ps):
    """Pause decodes while prompts can be prefilled, whole prompts only, as many as the token budget takes.

    source : vLLM V0's default schedule; Orca (Yu et al., OSDI 2022) without mixing
    """
    return instance.token_budget, False, True

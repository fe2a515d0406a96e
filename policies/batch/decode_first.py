from replay.policy import policy


@policy("batch")
def decode_first(instance, now_ps):
    """Take new prompts only when no decode is left: a batch is formed, then run to its end.

    source : request-level batching of FasterTransformer, as named in Sarathi-Serve (OSDI 2024), section 3
    """
    return instance.token_budget if instance.decoding == 0 else 0, True, True

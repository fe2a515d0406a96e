from replay.policy import Span, policy


@policy("batch")
def splitwise(instance, now_ps, most_tokens: Span(1, 65536) = 2048):
    """Batch whole prompts in order up to `most_tokens`, one longer alone, beside every decode.

    source : Splitwise (Patel et al., ISCA 2024): prompt batches up to 2,048 tokens, token batches as large as they get
    """
    return min(most_tokens, instance.token_budget), True, True

import math

from policies.expected import step_s
from replay.policy import Span, policy


@policy("batch")
def slack_chunk(instance, now_ps, least: Span(1, 8192) = 64, share: Span(0.05, 1.0) = 0.9):
    """Let prefill take what the decodes can spare: `share` of the time until the first of them is due its next token.

    Never more than the token budget, and never less than `least` tokens. Tokens are due as in order `edf`.

    source : dynamic chunking by slack (Niyama, Goel et al., 2025), with the engine's coefficients
    """
    most = max(0, instance.token_budget - instance.decoding)
    if math.isinf(instance.slack_s) or instance.prefill_token_s <= 0.0:
        return most, True, False
    left_s = share * instance.slack_s - step_s(instance, instance.decoding, instance.kv_tokens)
    tokens = int(min(max(left_s / instance.prefill_token_s, 0.0), 1e9))
    return min(most, max(tokens, least)), True, False

import math

from policies.expected import step_s
from replay.policy import Span, policy


@policy("batch")
def slo_budget(instance, now_ps, share: Span(0.05, 1.0) = 0.9, least: Span(1, 8192) = 64, tile: Span(1, 1024) = 64):
    """Fill an iteration with prefill up to `share` of the least ITL target among its decodes, in whole tiles.

    Never more than the token budget, and never less than `least` tokens, so that prompts get on in any case.

    source : Agrawal et al., Sarathi-Serve, OSDI 2024: the token budget from the target of time between tokens
    """
    most = max(0, instance.token_budget - instance.decoding)
    if instance.decoding == 0 or math.isinf(instance.least_itl_s) or instance.prefill_token_s <= 0.0:
        return most, True, False
    left_s = share * instance.least_itl_s - step_s(instance, instance.decoding, instance.kv_tokens)
    tokens = int(min(max(left_s / instance.prefill_token_s, 0.0), 1e9)) // tile * tile
    return min(most, max(tokens, least)), True, False

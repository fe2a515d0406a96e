"""Wait for a while."""

from replay.policy import Span, policy


@policy("fetch")
def timeout(request, instance, offer, now_ps,
            base_s: Span(0.0, 60.0) = 0.5, thousand_tokens_s: Span(0.0, 10.0) = 0.05):
    """Load from every tier and let the request wait, at most `base_s` and `thousand_tokens_s` for each 1,000 tokens.

    source : SGLang HiCache, prefetch policy timeout (a base and a time for each thousand tokens)
    """
    return 2, base_s + thousand_tokens_s * (offer.disk_tokens - offer.hbm_tokens) / 1000.0

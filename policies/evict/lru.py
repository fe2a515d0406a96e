from replay.policy import policy


@policy("evict")
def lru(node, now_ps):
    """Evict the prefix that was used longest ago, from its end.

    source : vLLM automatic prefix caching (freed blocks in reverse order); SGLang RadixAttention
    """
    return node.last_used_ps * 1e-12

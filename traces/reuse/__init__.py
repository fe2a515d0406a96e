"""How often prompts repeat: exact caches over a trace's prefix blocks, offline, beside any cluster.

plain     : one plain cache of blocks, under lru, fifo, lfu or belady, at one capacity
curve     : the LRU hits of every capacity from one pass, in blocks or in tokens
published : hit rates that somebody published, against the LRU of the same trace
report    : tables, files and the picture
"""

from traces.reuse.curve import Curve, lru_curve, lru_token_curve
from traces.reuse.plain import POLICIES, dense_ids, first_hits, hit_rates, hit_tokens, lru_hit_rate, plain_hits

__all__ = [
    "POLICIES",
    "Curve",
    "dense_ids",
    "first_hits",
    "hit_rates",
    "hit_tokens",
    "lru_curve",
    "lru_hit_rate",
    "lru_token_curve",
    "plain_hits",
]

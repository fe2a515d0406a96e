"""Load what is cheaper to load than to compute."""

from replay.policy import NEVER, Span, policy


@policy("fetch")
def cheaper(request, instance, offer, now_ps, worth: Span(0.0, 16.0) = 1.0):
    """Load from disk, or else from DRAM, if that takes less than `worth` times what computing it would; wait for it.

    source : own; Mooncake (FAST 2025) and CachedAttention (ATC 2024) compare loading with recomputing
    """
    more_s = offer.disk_compute_s - offer.dram_compute_s
    if offer.disk_tokens > offer.dram_tokens and offer.disk_s - offer.dram_s <= worth * more_s:
        if offer.disk_s <= worth * offer.disk_compute_s:
            return 2, NEVER
    if offer.dram_tokens > offer.hbm_tokens and offer.dram_s <= worth * offer.dram_compute_s:
        return 1, NEVER
    return 0, 0.0

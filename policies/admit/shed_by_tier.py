from replay.policy import Span, policy


@policy("admit")
def shed_by_tier(request, instances, now_ps, least_tier: Span(0, 16) = 1, queue_depth: Span(1, 4096) = 5,
                 memory_share: Span(0.01, 1.0) = 0.8):
    """Reject tiers from `least_tier` on while the cluster is saturated; more urgent ones are always taken.

    Saturation is the mean over instances of the greater of waiting / `queue_depth` and used KV share / `memory_share`;
    from 1 on the cluster sheds.

    source : Gateway API Inference Extension, saturation detector and sheddable requests, with its defaults
    """
    if request.tier < least_tier:
        return True
    total = 0.0
    for i in range(len(instances)):
        view = instances[i]
        used = 1.0 - (float(view.free_blocks) + view.cached_blocks) / view.total_blocks
        total += max(view.waiting / queue_depth, used / memory_share)
    return total / len(instances) < 1.0

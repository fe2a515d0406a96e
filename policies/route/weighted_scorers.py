from replay.policy import Span, policy


@policy("route")
def weighted_scorers(request, instances, now_ps, prefix_weight: Span(0.0, 8.0) = 2.0,
                     queue_weight: Span(0.0, 8.0) = 1.0, memory_weight: Span(0.0, 8.0) = 1.0):
    """Send a request where `prefix_weight` * hit + `queue_weight` * queue + `memory_weight` * memory scores highest.

    Each score lies in [0, 1]: the share of the prompt cached, how short the queue is among the instances (1 for the
    shortest, 0 for the longest), and the share of KV blocks that nobody holds.

    source : llm-d inference scheduler, weighted scorers with its default weights
    """
    shortest, longest = 1 << 60, 0
    for i in range(len(instances)):
        shortest = min(shortest, instances[i].waiting)
        longest = max(longest, instances[i].waiting)
    best, highest = 0, -1.0
    for i in range(len(instances)):
        view = instances[i]
        queue = (longest - view.waiting) / (longest - shortest) if longest > shortest else 1.0
        memory = (float(view.free_blocks) + view.cached_blocks) / view.total_blocks
        hit = view.hit_tokens / request.prompt_tokens
        score = prefix_weight * hit + queue_weight * queue + memory_weight * memory
        if score > highest:
            best, highest = i, score
    return best

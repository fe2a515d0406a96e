from replay.policy import Span, policy


@policy("route")
def cache_aware(request, instances, now_ps, least_match: Span(0.0, 1.0) = 0.3, most_apart: Span(0, 4096) = 64,
                most_times: Span(1.0, 64.0) = 1.5):
    """Balance where loads are far apart; else follow a match of `least_match` of the prompt, else the emptiest cache.

    Far apart: the fullest has over `most_apart` requests more than the emptiest and over `most_times` as many.

    source : SGLang's cache-aware router, with its defaults; the engine's index in place of its approximate tree
    """
    emptiest, fullest, longest, roomiest = 0, 0, 0, 0
    for i in range(len(instances)):
        load = instances[i].running + instances[i].waiting
        if load < instances[emptiest].running + instances[emptiest].waiting:
            emptiest = i
        if load > instances[fullest].running + instances[fullest].waiting:
            fullest = i
        if instances[i].hit_tokens > instances[longest].hit_tokens:
            longest = i
        if instances[i].free_blocks > instances[roomiest].free_blocks:
            roomiest = i
    least = instances[emptiest].running + instances[emptiest].waiting
    most = instances[fullest].running + instances[fullest].waiting
    if most - least > most_apart and most > most_times * least:
        return emptiest
    return longest if instances[longest].hit_tokens > least_match * request.prompt_tokens else roomiest

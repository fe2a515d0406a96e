from replay.policy import Span, policy


@policy("migrate")
def llumnix(instances, now_ps, least_gap: Span(0.0, 100_000.0) = 32.0, enough: Span(0.0, 1_000_000_000.0) = 64.0):
    """Move from the instance with the least freeness to the one with the most, if these are `least_gap` apart.

    Freeness is the blocks free, or cached without a user, less what waits for blocks, for each running request: how
    many iterations its batch can go on. Nothing moves while the least is `enough` or more.

    source : Llumnix (Sun et al., OSDI 2024), virtual usage without headroom for priorities
    """
    source, target, least, most = -1, -1, 1e300, -1e300
    for i in range(len(instances)):
        view = instances[i]
        waiting_blocks = view.waiting_tokens / view.block_tokens
        free = (float(view.free_blocks) + view.cached_blocks - waiting_blocks) / max(1, view.running)
        if view.decoding > 0 and free < least:
            source, least = i, free
        if free > most:
            target, most = i, free
    if source < 0 or source == target or least >= enough or most - least < least_gap:
        return -1, -1
    return source, target

from replay.policy import PREFILL, policy


@policy("decode")
def splitwise(request, instances, now_ps):
    """Send a prefilled request to the decode instance with the least KV; in a mixed pool, if all are full, elsewhere.

    source : Splitwise (Patel et al., ISCA 2024): least memory in the token pool, then in the others
    """
    best, lowest = 0, 1e300
    for j in range(len(instances)):
        view = instances[j]
        used_blocks = float(view.total_blocks) - view.free_blocks - view.cached_blocks
        held_tokens = used_blocks * view.block_tokens + view.waiting_tokens
        room_tokens = float(view.total_blocks) * view.block_tokens
        share = (held_tokens + request.prompt_tokens) / room_tokens
        if share > 1.0:
            share += 4.0  # no room: after all that have some
        if view.home == PREFILL:
            share += 2.0
        if share < lowest:
            best, lowest = j, share
    return best

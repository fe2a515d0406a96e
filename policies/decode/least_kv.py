from replay.policy import policy


@policy("decode")
def least_kv(request, instances, now_ps):
    """Send a prefilled request to the decode instance with the smallest share of its KV memory spoken for.

    source : after Splitwise (Patel et al., ISCA 2024): least memory in the token pool
    """
    best, lowest = 0, 1e300
    for i in range(len(instances)):
        used = instances[i].total_blocks - instances[i].free_blocks - instances[i].cached_blocks
        coming = instances[i].waiting_tokens / instances[i].block_tokens
        share = (used + coming) / instances[i].total_blocks
        if share < lowest:
            best, lowest = i, share
    return best

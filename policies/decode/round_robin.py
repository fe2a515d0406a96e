from replay.policy import policy


@policy("decode")
def round_robin(request, instances, now_ps, memory):
    """Send the k-th prefilled request to decode instance k modulo their number; the memory counts them.

    source : own; the baseline of every router
    """
    k = int(memory[0])
    memory[0] = (k + 1) % len(instances)
    return k % len(instances)

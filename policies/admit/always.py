from replay.policy import policy


@policy("admit")
def always(request, instances, now_ps):
    """Take every request.

    source : own; the open-loop baseline
    """
    return True

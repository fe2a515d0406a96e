from replay.policy import GIVE_UP, policy


@policy("recover")
def give_up(request, losses, now_ps):
    """End a lost request as failed. The baseline without any recovery.

    source : own
    """
    return GIVE_UP

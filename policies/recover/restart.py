from replay.policy import RESTART, policy


@policy("recover")
def restart(request, losses, now_ps):
    """Begin a lost request from scratch: what it had generated is generated anew, its first token comes again.

    source : own; what a client or a gateway does that sends a request again
    """
    return RESTART

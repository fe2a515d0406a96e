"""Write at once."""

from replay.policy import policy


@policy("write")
def through(node, evicting, now_ps):
    """Write a prompt to the stores below as soon as it is published.

    source : SGLang HiCache, write-through
    """
    return True

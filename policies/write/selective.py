"""Write what is used again."""

from replay.policy import Span, policy


@policy("write")
def selective(node, evicting, now_ps, hits: Span(1, 64) = 1):
    """Write a prefix to the stores below when it is published after `hits` uses by others.

    source : SGLang HiCache, write-through-selective (its threshold is 2 hits)
    """
    return node.uses >= hits

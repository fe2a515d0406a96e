"""Compute everything."""

from replay.policy import policy


@policy("fetch")
def never(request, instance, offer, now_ps):
    """Load nothing: what the HBM lacks is computed. The baseline of every hierarchy.

    source : own
    """
    return 0, 0.0

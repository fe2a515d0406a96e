"""The next event of every link and instance, in a tree of minima: leaves [links | instances], ties to the left."""

from replay.engine.schema import NEVER_PS
from replay.engine.jit import inlined, kernel


@kernel
def set_event(tree, leaf, time_ps):
    """Set the time of one leaf, modified in place. O(log leaves)."""
    node = len(tree) // 2 + leaf
    tree[node] = time_ps
    node >>= 1
    while node > 0:
        left = tree[2 * node]
        right = tree[2 * node + 1]
        lower = left if left <= right else right
        if tree[node] == lower:
            return
        tree[node] = lower
        node >>= 1


@inlined
def first_event(tree):
    """Return (time_ps, leaf) of the next event; NEVER_PS when there is none."""
    time_ps = tree[1]
    half = len(tree) // 2
    if time_ps == NEVER_PS:
        return time_ps, -1
    node = 1
    while node < half:
        node = 2 * node
        if tree[node] != time_ps:
            node += 1
    return time_ps, node - half

"""The next event of every link and instance, in a tree of winners: leaves [links | instances], ties to the left.

The first half of the array holds the earliest time below each node, the second half the leaf it belongs to.
"""

import numpy as np

from replay.engine.jit import inlined, kernel
from replay.engine.schema import NEVER_PS


def plain_set_event(tree, leaf, time_ps):
    """Set the time of one leaf, modified in place. O(log leaves)."""
    half = len(tree) // 2
    node = half // 2 + leaf
    tree[node] = time_ps
    while node > 1:
        other = node ^ 1
        other_ps = tree[other]
        wins = 1 if other_ps - (node & 1) < time_ps else 0  # a left sibling wins ties
        time_ps += wins * (other_ps - time_ps)  # no branch: which one wins cannot be guessed
        leaf += wins * (tree[half + other] - leaf)
        node >>= 1
        tree[node] = time_ps
        tree[half + node] = leaf


set_event = kernel(plain_set_event)


@inlined
def first_event(tree):
    """Return (time_ps, leaf) of the next event; NEVER_PS when there is none."""
    return tree[1], tree[len(tree) // 2 + 1]


def empty_tree(leaves):
    """Return a tree of so many leaves (a power of two) without events, int64 (4 * leaves,)."""
    tree = np.full(4 * leaves, NEVER_PS, np.int64)
    tree[3 * leaves :] = np.arange(leaves)
    width = leaves
    while width > 1:
        width //= 2
        tree[2 * leaves + width : 2 * leaves + 2 * width] = np.arange(width) * (leaves // width)
    return tree

"""The Numba loop that walks boosted trees; `predictors.trees` explains it."""

import numpy as np

from traces.jit import entry

BLOCK = 128  # rows whose features stay in the first cache while all trees are walked


@entry()
def walk(rows, feature, threshold, leaf, first, starts, sums):  # type: ignore[no-untyped-def]
    """Add up the trees of each sum for each row; sums (rows, sums) is modified in place. O(rows * trees * depth).

    Trees are complete, so that all rows take as many steps in each: there is no branch to guess wrongly.
    """
    inner = np.uint32(feature.shape[1])
    depth = 0
    while (1 << depth) <= inner:
        depth += 1
    for begin in range(0, len(rows), BLOCK):
        end = min(begin + BLOCK, len(rows))
        for s in range(len(starts)):
            for r in range(begin, end):
                sums[r, s] = starts[s]
            for t in range(first[s], first[s + 1]):
                for r in range(begin, end):
                    node = np.uint32(0)
                    for _ in range(depth):
                        above = np.uint32(rows[r, feature[t, node]] > threshold[t, node])
                        node = np.uint32(2) * node + np.uint32(1) + above
                    sums[r, s] += leaf[t, node - inner]

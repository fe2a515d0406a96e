"""The Numba loop of adaptive conformal quantiles; `predictors.conformal` explains it."""

import numpy as np

from traces.jit import entry, kernel

GAMMA = 0.01  # step of the adaptive levels


@kernel
def replace(ordered, old, new):  # type: ignore[no-untyped-def]
    """Take one value out of an ascending array and put another in, in place. O(length)."""
    place = np.searchsorted(ordered, old)
    while place + 1 < len(ordered) and ordered[place + 1] < new:
        ordered[place] = ordered[place + 1]
        place += 1
    while place > 0 and ordered[place - 1] > new:
        ordered[place] = ordered[place - 1]
        place -= 1
    ordered[place] = new


@entry()
def follow(ordered, window, logs, events, level):  # type: ignore[no-untyped-def]
    """Return a log-quantile moved so that a share `level` of the outputs lies below it, under drift too.

    Before a request arrives, all that finished before it count: the level in use rises by gamma * level for each output
    above its prediction and falls by gamma * (1 - level) for each below; the latest errors are those of the window.

    ordered : float64 (window,), errors of calibration, ascending, modified in place; window : the same, oldest first
    logs    : float64 (rows,), predictions in order of arrival
    events  : log-outputs, arrival_s, finish_s, float64 (rows,) each, and int64 (rows,), rows in order of finish_s
    """
    output, arrival_s, finish_s, order = events
    found = np.empty(len(logs))
    used, oldest, done = level, 0, 0
    for r in range(len(logs)):
        while done < len(order) and finish_s[order[done]] < arrival_s[r] and order[done] < r:
            q = order[done]
            below = output[q] < found[q] if level < 0.5 else output[q] <= found[q]  # the ends of an interval count
            used += GAMMA * (level - (1.0 if below else 0.0))
            used = min(max(used, 0.0), 1.0)
            score = output[q] - logs[q]
            replace(ordered, window[oldest], score)
            window[oldest] = score
            oldest = (oldest + 1) % len(window)
            done += 1
        place = used * len(ordered) - 0.5
        low = min(max(int(place), 0), len(ordered) - 1)
        high = min(low + 1, len(ordered) - 1)
        share = min(max(place - low, 0.0), 1.0)
        found[r] = logs[r] + ordered[low] + share * (ordered[high] - ordered[low])
    return found

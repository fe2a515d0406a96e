"""What the model that learns inside a replay keeps, where it stands, and its constants."""

import math
from typing import TYPE_CHECKING

import numpy as np

from predictors.features import groups
from traces.trie import Trie

if TYPE_CHECKING:
    from predictors.predictions import Predictions
    from traces import Trace

LEARNING = ("learned", "cells", "looks", "weights", "gains", "inverse", "record")  # arrays of `Asking`
OP_PREDICT, OP_LEARN = range(2)
MEAN, COUNT, MIDDLE, LATE, TAIL = range(5)  # of the record: mean log-output of all, lessons in it, quantiles of errors
RECORDS = 5
CELL_MEAN, CELL_COUNT = range(2)  # of a group
FIRST_GROUP = 2  # features before those of groups: one, the prompt's log-length
BASE, GUESS = range(2)  # after the features: the mean of all and the predicted log-output when a request was looked at
CENTER_LOG = 6.0  # about the log-length of prompts
PRIOR = 2.0  # lessons that the mean of all is worth beside those of a group
STEP = 0.05  # of the quantiles of errors
STEP_GROUP, EVERY = 12.0, 92.0  # lessons after which the means of a group and of all forget
RIDGE = 10.0  # inverse of the penalty on weights
FIRST_QUANTILES = (0.0, 1.0, 2.0)
LARGEST_LOG = math.log(2.0**31 - 1)


def learning_rows(trace: "Trace", trie: Trie, predictions: "Predictions | None") -> dict[str, np.ndarray]:
    """Return the arrays of `Asking` that learning needs: empty ones where nothing learns.

    learned : int32 (requests, groups), the cell of each of a request's groups, -1 for none, read only
    cells   : float64 (cells, 2); looks: float64 (requests, features + 2), what was known when a request was predicted
    weights, gains : float64 (features,); inverse: float64 (features, features); record: float64 (RECORDS,)
    """
    learns = predictions is not None and predictions.online > 0
    if not learns:
        none = np.zeros((1, 1))
        return {"learned": np.zeros((1, 1), np.int32), "cells": none, "looks": none.copy(), "weights": np.zeros(1),
                "gains": np.zeros(1), "inverse": none.copy(), "record": np.zeros(RECORDS)}  # fmt: skip
    assert predictions is not None
    found = groups(trace, trie)
    learned, cells = np.full((len(trace), len(found)), -1, np.int32), 0
    for g, codes in enumerate(found.values()):
        there = codes >= 0
        known, rows = np.unique(codes[there], return_inverse=True)
        learned[there, g] = rows + cells
        cells += len(known)
    features = FIRST_GROUP + len(found)
    record = np.array([math.log(predictions.online), 0.0, *FIRST_QUANTILES])
    return {"learned": learned, "cells": np.zeros((max(1, cells), 2)), "looks": np.zeros((len(trace), features + 2)),
            "weights": np.zeros(features), "gains": np.zeros(features), "inverse": np.eye(features) * RIDGE,
            "record": record}  # fmt: skip

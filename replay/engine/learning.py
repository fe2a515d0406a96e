"""A length model that learns inside the replay: a prediction as a request is considered, a lesson as it finishes.

The log-length is a linear function of the prompt's length and of what the request's groups (its prefix, session,
tenant, ...) had lately; its weights are the ridge solution over all lessons so far, kept by recursive least squares.
Quantiles follow the errors. MODEL.md, "Learning", says it precisely.

source : recursive least squares (Plackett 1950); quantile tracking (Angelopoulos et al., NeurIPS 2023), per level
"""

import math

import numpy as np

from replay.engine.jit import kernel
from replay.engine.learning_schema import (
    BASE,
    CELL_COUNT,
    CELL_MEAN,
    CENTER_LOG,
    COUNT,
    EVERY,
    FIRST_GROUP,
    GUESS,
    LARGEST_LOG,
    LATE,
    MEAN,
    MIDDLE,
    OP_PREDICT,
    PRIOR,
    STEP,
    STEP_GROUP,
    TAIL,
)


@kernel
def look(state, r):
    """Write down what is known of request r now, in place: state.asking.looks[r]."""
    looks = state.asking.looks
    record = state.asking.record
    base = record[MEAN]
    looks[r, 0] = 1.0
    looks[r, 1] = math.log(float(state.requests[r].prompt_tokens)) - CENTER_LOG
    guess = base
    for g in range(state.asking.learned.shape[1]):
        value = 0.0
        cell = np.int64(state.asking.learned[r, g])
        if cell >= 0:
            count = state.asking.cells[cell, CELL_COUNT]
            if count > 0.0:
                value = (state.asking.cells[cell, CELL_MEAN] - base) * count / (count + PRIOR)
        looks[r, FIRST_GROUP + g] = value
    last = FIRST_GROUP + state.asking.learned.shape[1]
    for k in range(last):
        guess += state.asking.weights[k] * looks[r, k]
    looks[r, last + BASE] = base
    looks[r, last + GUESS] = guess


@kernel
def shown_tokens(score):
    """Return a log-length as whole tokens, at least 1."""
    return np.int64(np.rint(math.exp(min(max(score, 0.0), LARGEST_LOG))))


@kernel
def predict(state, r):
    """Predict the output of request r from what has finished. Modified in place."""
    look(state, r)
    record = state.asking.record
    guess = state.asking.looks[r, FIRST_GROUP + state.asking.learned.shape[1] + GUESS]
    middle = guess + record[MIDDLE]
    late = max(middle, guess + record[LATE])
    state.requests[r].predicted_tokens = shown_tokens(middle)
    state.asking.quantiles[r, 0] = shown_tokens(late)
    state.asking.quantiles[r, 1] = shown_tokens(max(late, guess + record[TAIL]))


@kernel
def fit(state, r):
    """Bring the weights to the ridge solution with request r among the lessons, in place. O(features^2)."""
    looks = state.asking.looks
    inverse = state.asking.inverse
    count = FIRST_GROUP + state.asking.learned.shape[1]
    gains = state.asking.gains
    spread = 1.0
    for a in range(count):
        total = 0.0
        for b in range(count):
            total += inverse[a, b] * looks[r, b]
        gains[a] = total
        spread += looks[r, a] * total
    error = math.log(float(state.jobs[r].output_tokens)) - looks[r, count + BASE]
    for a in range(count):
        error -= state.asking.weights[a] * looks[r, a]
    for a in range(count):
        state.asking.weights[a] += gains[a] * error / spread
    for a in range(count):
        for b in range(count):
            inverse[a, b] -= gains[a] * gains[b] / spread


@kernel
def learn(state, r):
    """Learn from the output of request r, which has finished: quantiles, weights, means of its groups. In place."""
    record = state.asking.record
    looks = state.asking.looks
    groups = state.asking.learned.shape[1]
    true_log = math.log(float(state.jobs[r].output_tokens))
    error = true_log - looks[r, FIRST_GROUP + groups + GUESS]
    record[MIDDLE] += STEP * (0.5 - (1.0 if error <= record[MIDDLE] else 0.0))
    record[LATE] += STEP * (0.9 - (1.0 if error <= record[LATE] else 0.0))
    record[TAIL] += STEP * (0.99 - (1.0 if error <= record[TAIL] else 0.0))
    fit(state, r)
    for g in range(groups):
        cell = np.int64(state.asking.learned[r, g])
        if cell >= 0:
            count = min(state.asking.cells[cell, CELL_COUNT] + 1.0, STEP_GROUP)
            state.asking.cells[cell, CELL_COUNT] = count
            state.asking.cells[cell, CELL_MEAN] += (true_log - state.asking.cells[cell, CELL_MEAN]) / count
    record[COUNT] = min(record[COUNT] + 1.0, EVERY)
    record[MEAN] += (true_log - record[MEAN]) / record[COUNT]


@kernel
def operate_learning(state, operation, what, i):
    """Do one operation of learning for the event loop, about request `what`, modified in place."""
    if operation == OP_PREDICT:
        predict(state, what)
    else:
        learn(state, what)
    return 0

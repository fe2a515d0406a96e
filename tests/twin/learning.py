"""The twin's predictions: who makes them one after another, what is looked at again, and a model that learns.

The model solves its ridge regression anew, in plain Python, by the same recursion; the law test solves it by NumPy.
"""

from __future__ import annotations

from math import exp, log, log2
from typing import TYPE_CHECKING

from predictors.features import groups
from predictors.predictions import Predictions
from tests.twin.plain import Request
from traces.schema import Trace
from traces.trie import compress

if TYPE_CHECKING:
    from tests.twin.model import Twin

LARGEST = 2**31 - 1


class Seer:
    """Predicts for the twin."""

    def __init__(self, twin: Twin, trace: Trace, predictions: Predictions | None, cost_ps: int) -> None:
        self.twin, self.given, self.cost_ps = twin, predictions, cost_ps
        self.free_ps = [0] * (predictions.workers if predictions is not None else 1)
        self.learner = None
        if predictions is not None and predictions.online > 0:
            self.learner = Learner(
                predictions.online, [codes.tolist() for codes in groups(trace, compress(trace)).values()]
            )

    def takes(self, request: Request) -> bool:
        """Put a request off until it is predicted; False if it has been, or that takes no time."""
        if self.cost_ps == 0 or request.predicted:
            return False
        worker = self.free_ps.index(min(self.free_ps))
        self.free_ps[worker] = max(self.free_ps[worker], self.twin.now) + self.cost_ps
        request.predicted = True
        self.twin.arrivals.append((self.free_ps[worker], request.row))
        return True

    def predicts(self, request: Request) -> None:
        """Predict a request that is about to be considered, if the model learns."""
        if self.learner is not None:
            found = self.learner.predict(request.row, request.prompt_tokens)
            request.predicted_tokens, request.p90_tokens, request.p99_tokens = found

    def learns(self, request: Request) -> None:
        """Learn from a request that has finished."""
        if self.learner is not None:
            self.learner.learn(request.row, request.output_tokens)

    def left(self, request: Request) -> float:
        """Return the tokens expected still to come."""
        if request.predicted_tokens < 0:
            return -1.0
        refresh = self.given.refresh if self.given is not None else None
        if refresh is None or request.row < refresh.first:
            return max(0.0, float(request.predicted_tokens - request.generated))
        since = request.generated % refresh.every_tokens
        row = refresh.left[sum(edge <= request.predicted_tokens for edge in refresh.edges)].tolist()
        place = min(4 * log2(request.generated - since + 1.0), len(row) - 1.0)
        low = min(int(place), len(row) - 2)
        return max(0.0, row[low] + (place - low) * (row[low + 1] - row[low]) - since)


class Learner:
    """A linear model of the log-output, learned one request at a time."""

    def __init__(self, prior_tokens: float, codes: list[list[int]]) -> None:
        self.codes = codes
        size = 2 + len(codes)
        self.weights = [0.0] * size
        self.inverse = [[10.0 if a == b else 0.0 for b in range(size)] for a in range(size)]
        self.mean, self.lessons = log(prior_tokens), 0.0
        self.quantiles = {0.5: 0.0, 0.9: 1.0, 0.99: 2.0}
        self.groups: dict[tuple[int, int], tuple[float, float]] = {}  # mean, lessons
        self.looked: dict[int, tuple[list[float], float, float]] = {}

    def predict(self, row: int, prompt_tokens: int) -> tuple[int, int, int]:
        """Return the middle and two upper quantiles of a request's output."""
        look = [1.0, log(float(prompt_tokens)) - 6.0]
        for g, codes in enumerate(self.codes):
            mean, lessons = self.groups.get((g, codes[row]), (0.0, 0.0)) if codes[row] >= 0 else (0.0, 0.0)
            look.append((mean - self.mean) * lessons / (lessons + 2.0) if lessons > 0 else 0.0)
        guess = self.mean
        for weight, value in zip(self.weights, look, strict=True):
            guess += weight * value
        self.looked[row] = (look, self.mean, guess)
        middle = guess + self.quantiles[0.5]
        late = max(middle, guess + self.quantiles[0.9])
        return whole(middle), whole(late), whole(max(late, guess + self.quantiles[0.99]))

    def learn(self, row: int, output_tokens: int) -> None:
        """Take a finished request in."""
        look, base, guess = self.looked[row]
        true = log(float(output_tokens))
        for level, value in self.quantiles.items():
            self.quantiles[level] = value + 0.05 * (level - (1.0 if true - guess <= value else 0.0))
        self.fit(look, true - base)
        for g, codes in enumerate(self.codes):
            if codes[row] >= 0:
                mean, lessons = self.groups.get((g, codes[row]), (0.0, 0.0))
                lessons = min(lessons + 1.0, 12.0)
                self.groups[g, codes[row]] = (mean + (true - mean) / lessons, lessons)
        self.lessons = min(self.lessons + 1.0, 92.0)
        self.mean += (true - self.mean) / self.lessons

    def fit(self, look: list[float], target: float) -> None:
        """Bring the weights to the ridge solution with one more row."""
        gains = [plain_sum(row, look) for row in self.inverse]
        spread = 1.0
        for value, gain in zip(look, gains, strict=True):
            spread += value * gain
        error = target
        for weight, value in zip(self.weights, look, strict=True):
            error -= weight * value
        self.weights = [weight + gain * error / spread for weight, gain in zip(self.weights, gains, strict=True)]
        self.inverse = [
            [cell - one * other / spread for cell, other in zip(row, gains, strict=True)]
            for row, one in zip(self.inverse, gains, strict=True)
        ]


def plain_sum(row: list[float], look: list[float]) -> float:
    """Return the sum of products, from the first on."""
    total = 0.0
    for cell, value in zip(row, look, strict=True):
        total += cell * value
    return total


def whole(value: float) -> int:
    """Return a log-length as whole tokens."""
    return round(exp(min(max(value, 0.0), log(2.0**31 - 1))))

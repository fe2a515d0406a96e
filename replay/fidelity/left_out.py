"""Leave-one-out over Splitwise's table: predict each point from all others of its curves, and say how far off.

A point is a configuration, its repeats left out with it. Two rules, chosen by what else was measured:

* beside it: where the same tokens were measured both as one prompt and as a batch of 512-token prompts, the other
  measurement, times the ratio of the two interpolated over the logarithm of tokens (one at 512 tokens, where a batch
  of one is the prompt itself);
* between: else on the straight line between the neighbours.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from replay.fidelity.splitwise import CAPPED, PROMPT_TOKENS, Curves

BESIDE, BETWEEN, BEYOND = "beside", "between", "beyond"
LEFT_OUT, ENDS = "left out", "end left out"  # how experiments of the first two rules, and of the third, are called


@dataclass(frozen=True)
class LeftOut:
    """A point and what the others say of it.

    what : "prompt" or "token" time        requests, tokens : of the batch, and of each prompt
    rule : beside, between; or beyond for the ends of a curve, where neighbours on one side are extended
    """

    curve: str
    what: str
    requests: int
    tokens: int
    measured_s: float
    predicted_s: float
    rule: str

    @property
    def error(self) -> float:
        """Relative error, positive where the prediction is longer."""
        return self.predicted_s / self.measured_s - 1.0


def left_out(found: Sequence[Curves]) -> list[LeftOut]:
    """Predict every point of all curves but those of capped GPUs, which are others times a constant."""
    return [point for curve in found if not curve.gpu.endswith(CAPPED) for point in _of(curve)]


def _of(curve: Curves) -> Iterator[LeftOut]:
    batches = {requests * PROMPT_TOKENS: seconds for requests, seconds in curve.batch_s.items()}
    for tokens, seconds in curve.prompt_s.items():
        predicted_s, rule = _prompt(tokens, curve.prompt_s, batches)
        yield LeftOut(curve.name, "prompt", 1, tokens, seconds, predicted_s, rule)
    whole = {PROMPT_TOKENS: curve.prompt_s[PROMPT_TOKENS], **batches}
    for tokens, seconds in batches.items():
        predicted_s, rule = _prompt(tokens, whole, curve.prompt_s)
        yield LeftOut(curve.name, "prompt", tokens // PROMPT_TOKENS, PROMPT_TOKENS, seconds, predicted_s, rule)
    for tokens, seconds in curve.context_s.items():
        yield LeftOut(curve.name, "token", 1, tokens, seconds, *_line(tokens, curve.context_s))
    sizes = {1: curve.context_s[PROMPT_TOKENS], **curve.token_s}
    for requests, seconds in curve.token_s.items():
        yield LeftOut(curve.name, "token", requests, PROMPT_TOKENS, seconds, *_line(requests, sizes))


def _prompt(tokens: int, own: Mapping[int, float], others: Mapping[int, float]) -> tuple[float, str]:
    """Predict own[tokens] from the rest of `own` and from others, which were measured another way."""
    ratios = {size: float(np.log(own[size] / others[size])) for size in own
              if size in others and size > PROMPT_TOKENS and size != tokens}  # fmt: skip
    if tokens <= PROMPT_TOKENS or tokens not in others or not ratios:
        return _line(tokens, own)
    ratios[PROMPT_TOKENS] = 0.0
    sizes = sorted(ratios)
    ratio = float(np.interp(np.log(tokens), np.log(sizes), [ratios[size] for size in sizes]))
    return others[tokens] * float(np.exp(ratio)), BESIDE if tokens < sizes[-1] else BEYOND


def _line(at: int, seconds: Mapping[int, float]) -> tuple[float, str]:
    sizes = sorted(size for size in seconds if size != at)
    inside = sizes[0] < at < sizes[-1]
    low = min(max(int(np.searchsorted(sizes, at)) - 1, 0), len(sizes) - 2)
    first, second = sizes[low], sizes[low + 1]
    share = (at - first) / (second - first)
    return seconds[first] + share * (seconds[second] - seconds[first]), BETWEEN if inside else BEYOND

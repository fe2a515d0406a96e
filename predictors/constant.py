"""The same prediction for every request: what a scheduler knows that knows nothing."""

from typing import Any

import numpy as np

from predictors.errors import PredictorError


def constant(requests: int, tokens: Any) -> np.ndarray:
    """Return `tokens` for every request, int32 (requests,).

    raises : PredictorError unless tokens is a whole number from 1 to 2^31 - 1
    """
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 1 <= tokens < 2**31:
        raise PredictorError(f"predictor.tokens must be a whole number from 1 to 2^31 - 1, but is {tokens!r}.")
    return np.full(requests, tokens, np.int32)

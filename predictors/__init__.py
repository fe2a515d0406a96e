"""Predictions of output length that policies may read: who makes them, from a node of conf/predictor."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from predictors.errors import PredictorError

if TYPE_CHECKING:
    from traces.schema import Trace

KINDS = {"none": (), "constant": ("tokens",), "oracle": ("sigma", "tau", "mae_tokens", "bias")}


def predict(node: Mapping[str, Any] | None, trace: "Trace", seed: int) -> np.ndarray | None:
    """Return the output tokens that a predictor expects of every request, before any has run.

    node    : of conf/predictor: kind, and the keys of that kind (KINDS); None for no predictor
    seed    : of the noise
    returns : int32 (requests,) of 1 or more, or None without a predictor
    raises  : PredictorError for an unknown kind or key, a value out of range, or a target that cannot be reached
    """
    if node is None:
        return None
    if not isinstance(node, Mapping):
        raise PredictorError(f"predictor must be a configuration node, but is {node!r}. Write predictor=oracle.")
    kind = node.get("kind")
    if kind not in KINDS:
        raise PredictorError(f"predictor.kind must be one of {', '.join(KINDS)}, but is {kind!r}.")
    for key in node:
        if key not in ("name", "kind", *KINDS[kind]):
            known = ", ".join(KINDS[kind]) or "no keys"
            raise PredictorError(f"predictor.{key} is no key of a predictor of kind {kind}, which has {known}.")
    if kind == "none":
        return None
    if kind == "constant":
        from predictors.constant import constant

        return constant(len(trace), node.get("tokens"))
    from predictors.oracle import oracle

    values = {key: node.get(key) for key in KINDS["oracle"] if node.get(key) is not None}
    return oracle(trace.column("output_tokens"), seed, **values)

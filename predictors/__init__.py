"""Predictions of output length that policies may read: who makes them, from a node of conf/predictor."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from predictors.errors import PredictorError
from predictors.predictions import Predictions as Predictions
from predictors.predictions import of_tokens

if TYPE_CHECKING:
    from traces.schema import Trace
    from traces.trie import Trie

LEARNED = {
    "group": ("by",),
    "history": (),
    "boosted": ("library", "iterations"),
    "rank": ("library", "iterations"),
    "survival": ("classes",),
}
OF_LEARNED = ("model", "origins", "conformal", "first_token_s", "token_s", "prior_tokens")
OF_ALL = ("inference_s", "workers", "refresh_tokens")
KINDS = {
    "none": (),
    "constant": ("tokens",),
    "oracle": ("sigma", "tau", "mae_tokens", "bias", "shrink"),
    "online": ("prior_tokens",),
    **{kind: (*keys, *OF_LEARNED) for kind, keys in LEARNED.items()},
}


def predict(
    node: Mapping[str, Any] | None,
    trace: "Trace",
    seed: int,
    trie: "Trie | None" = None,
) -> Predictions | None:
    """Return what a predictor says of every request.

    node    : of conf/predictor: kind, the keys of that kind (KINDS), and OF_ALL; None for no predictor
    seed    : of the noise, and of learning
    trie    : of the trace, if it is at hand
    returns : Predictions, or None without a predictor; learned ones never saw a request that had not finished before,
              unless they come from a model file
    raises  : PredictorError for an unknown kind or key, a value out of range, or a target that cannot be reached
    """
    kind = check(node)
    if node is None or kind == "none":
        return None
    from predictors.make import predictions

    return predictions(node, trace, seed, trie)


def check(node: Mapping[str, Any] | None) -> str:
    """Return the kind of a node; raises PredictorError for an unknown kind or key."""
    if node is None:
        return "none"
    if not isinstance(node, Mapping):
        raise PredictorError(f"predictor must be a configuration node, but is {node!r}. Write predictor=oracle.")
    kind = node.get("kind")
    if kind not in KINDS:
        raise PredictorError(f"predictor.kind must be one of {', '.join(KINDS)}, but is {kind!r}.")
    allowed = (*KINDS[kind], *(OF_ALL if kind != "none" else ()))
    for key in node:
        if key not in ("name", "kind", *allowed):
            known = ", ".join(allowed) or "no keys"
            raise PredictorError(f"predictor.{key} is no key of a predictor of kind {kind}, which has {known}.")
    return str(kind)


def given(predictions: Any) -> Predictions | None:
    """Return predictions however they are given: as Predictions, as whole numbers, or not at all."""
    return (
        predictions
        if predictions is None or isinstance(predictions, Predictions)
        else of_tokens(np.asarray(predictions))
    )

"""Make the predictions that a checked node of conf/predictor asks for."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from predictors import LEARNED
from predictors.errors import PredictorError
from predictors.features import build
from predictors.fitted import Fitted, fewest_rows, load, maker, method_of, pace_of, rolling
from predictors.model import MEDIAN
from predictors.predictions import UNKNOWN, Predictions, Refresh, of_quantiles, of_tokens, refresh_of
from traces.schema import Trace
from traces.trie import Trie

ORIGINS, PRIOR_TOKENS = 4, 256
MOST = {"inference_s": 3600.0, "workers": 4096, "refresh_tokens": 2**31 - 1, "origins": 1000, "prior_tokens": 2**31 - 1}


def predictions(node: Mapping[str, Any], trace: Trace, seed: int, trie: Trie | None) -> Predictions:
    """Return the predictions of a node; see `predictors.predict`."""
    workers = _whole(node, "workers", 1, 1)
    every = _whole(node, "refresh_tokens", 0, 0)
    filed: tuple[Fitted, dict[str, Any]] | None = None
    if node["kind"] not in LEARNED:
        found = _given(node, trace, seed)
    elif node.get("model") is not None:
        filed = _filed(node, trace)
        found = of_quantiles(filed[0].predict(build(trace, pace_of(filed[1]["pace"]), trie)))
    else:
        found = _learned(node, trace, seed, trie)
    measured_s = None if filed is None else float(filed[1]["inference_s"])
    found = dataclasses.replace(found, inference_s=_inference(node, measured_s), workers=workers)
    if not every:
        return found
    return dataclasses.replace(found, refresh=_refresh(node, every, found, (trace, filed and filed[0])))


def _given(node: Mapping[str, Any], trace: Trace, seed: int) -> Predictions:
    if node["kind"] == "constant":
        from predictors.constant import constant

        return of_tokens(constant(len(trace), node.get("tokens")))
    if node["kind"] == "online":
        nothing = of_tokens(np.full(len(trace), UNKNOWN))
        return dataclasses.replace(nothing, online=float(_whole(node, "prior_tokens", PRIOR_TOKENS, 1)))
    from predictors.oracle import oracle

    keys = ("sigma", "tau", "mae_tokens", "bias", "shrink")
    return of_tokens(
        oracle(trace.column("output_tokens"), seed, **{key: node.get(key) for key in keys if node.get(key) is not None})
    )


def _filed(node: Mapping[str, Any], trace: Trace) -> tuple[Fitted, dict[str, Any]]:
    """Return the model of a node's file, and the page about it."""
    path = node["model"]
    fitted, page = load(path, trace, method_of(node) if node.get("conformal") else None)
    if page["kind"] != node["kind"]:
        raise PredictorError(
            f"the model {path} is of kind {page['kind']}, but predictor.kind is {node['kind']}. Write "
            f"predictor={page['kind']}."
        )
    return fitted, page


def _learned(node: Mapping[str, Any], trace: Trace, seed: int, trie: Trie | None) -> Predictions:
    make, method = maker(node, seed), method_of(node)
    origins = _whole(node, "origins", ORIGINS, 1)
    prior = _whole(node, "prior_tokens", PRIOR_TOKENS, 1)
    if len(trace) < fewest_rows(origins):
        raise PredictorError(
            f"predictor={node['kind']} learns at predictor.origins={origins} moments of the trace, which "
            f"needs {fewest_rows(origins)} requests or more, but {trace.name} has {len(trace)}. Use fewer "
            f"origins, a longer trace, or predictor.model of a trained one."
        )
    return of_quantiles(rolling(make, method, build(trace, pace_of(node), trie), origins, float(prior)))


def _refresh(node: Mapping[str, Any], every: int, found: Predictions, of: tuple[Trace, Fitted | None]) -> Refresh:
    """Learn what predictions were worth from requests that had finished before those that it is used for arrive.

    The oracle may look at all; a model file at its calibration; others at the first part of the trace with predictions
    that is over, for what comes behind it.

    of : the trace, and the model of a file
    """
    trace, fitted = of
    if node["kind"] == "online":
        raise PredictorError(
            "predictor.refresh_tokens needs predictions made before the replay, but predictor=online makes them "
            "inside it. Leave it at 0."
        )
    true = np.asarray(trace.column("output_tokens"))
    if node["kind"] == "oracle":
        return refresh_of(every, found.tokens, true)
    if fitted is not None:
        return refresh_of(every, np.exp(np.sort(fitted.logs, axis=1)[:, MEDIAN]), np.rint(np.exp(fitted.true)))
    parts = 1 + _whole(node, "origins", ORIGINS, 1)
    begin, end = (0, 1) if node["kind"] == "constant" else (1, 2)
    rows = np.arange(round(len(trace) * begin / parts), round(len(trace) * end / parts))
    first = int(rows[-1]) + 1 if len(rows) else 0
    cutoff_s = trace.column("arrival_s")[first] if first < len(trace) else np.inf
    rows = rows[pace_of(node).finish_s(trace)[rows] < cutoff_s]
    return refresh_of(every, found.tokens[rows], true[rows], first)


def _inference(node: Mapping[str, Any], measured: float | None) -> float:
    value = node.get("inference_s")
    if value == "measured":
        if measured is None:
            raise PredictorError(
                "predictor.inference_s=measured takes the figure of a model file, but predictor.model is "
                "not given. Train one with kvreplay predict train."
            )
        return measured
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST["inference_s"]:
        raise PredictorError(
            f"predictor.inference_s must be a number of seconds from 0 to 3600, or measured, but is {value!r}."
        )
    return float(value)


def _whole(node: Mapping[str, Any], key: str, default: int, least: int) -> int:
    value = node.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST[key]:
        raise PredictorError(
            f"predictor.{key} must be a whole number from {least} to {MOST[key]:.0f}, but is {value!r}."
        )
    return value

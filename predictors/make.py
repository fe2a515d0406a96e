"""Make the predictions that a checked node of conf/predictor asks for."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl

from predictors.errors import PredictorError
from predictors.features import build
from predictors.fitted import MAKERS, fewest_rows, load, maker, method_of, pace_of, rolling
from predictors.model import MEDIAN
from predictors.predictions import UNKNOWN, Predictions, Refresh, of_tokens, refresh_of
from traces.schema import Trace
from traces.trie import Trie

ORIGINS, PRIOR_TOKENS = 4, 256
MOST = {"inference_s": 3600.0, "workers": 4096, "refresh_tokens": 2**31 - 1, "origins": 1000, "prior_tokens": 2**31 - 1}


def predictions(
    node: Mapping[str, Any], trace: Trace, seed: int, trie: Trie | None, told: Callable[[int], None]
) -> Predictions:
    """Return the predictions of a node; see `predictors.predict`."""
    workers = _whole(node, "workers", 1, 1)
    every = _whole(node, "refresh_tokens", 0, 0)
    measured = None
    if node["kind"] in MAKERS:
        found, measured = _learned(node, trace, seed, trie, told)
    else:
        found = _given(node, trace, seed)
    found = dataclasses.replace(found, inference_s=_inference(node, measured), workers=workers)
    if not every:
        return found
    return dataclasses.replace(found, refresh=_refresh(node, every, found, trace))


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


def _learned(
    node: Mapping[str, Any], trace: Trace, seed: int, trie: Trie | None, told: Callable[[int], None]
) -> tuple[Predictions, float | None]:
    make, method = maker(node, seed), method_of(node)
    origins = _whole(node, "origins", ORIGINS, 1)
    prior = _whole(node, "prior_tokens", PRIOR_TOKENS, 1)
    path = node.get("model")
    if path is not None:
        fitted, page = load(path, trace, node.get("conformal"))
        if page["kind"] != node["kind"]:
            raise PredictorError(
                f"the model {path} is of kind {page['kind']}, but predictor.kind is {node['kind']}. Write "
                f"predictor={page['kind']}."
            )
        return _rounded(fitted.predict(build(trace, pace_of(page["pace"]), trie))), float(page["inference_s"])
    if len(trace) < fewest_rows(origins):
        raise PredictorError(
            f"predictor={node['kind']} learns at predictor.origins={origins} moments of the trace, which "
            f"needs {fewest_rows(origins)} requests or more, but {trace.name} has {len(trace)}. Use fewer "
            f"origins, a longer trace, or predictor.model of a trained one."
        )
    frame = build(trace, pace_of(node), trie)
    return _rounded(rolling(make, method, frame, origins, float(prior), told)), None


def _rounded(frame: pl.DataFrame) -> Predictions:
    columns = [np.rint(frame[name].to_numpy()).clip(1, 2**31 - 1).astype(np.int32) for name in ("p50", "p90", "p99")]
    return Predictions(*columns)


def _refresh(node: Mapping[str, Any], every: int, found: Predictions, trace: Trace) -> Refresh:
    """Learn what predictions were worth from requests that had finished before those that it is used for arrive.

    The oracle may look at all; a model file at its calibration; others at the first part of the trace with predictions
    that is over, for what comes behind it.
    """
    if node["kind"] == "online":
        raise PredictorError(
            "predictor.refresh_tokens needs predictions made before the replay, but predictor=online makes them "
            "inside it. Leave it at 0."
        )
    true = np.asarray(trace.column("output_tokens"))
    if node["kind"] == "oracle":
        return refresh_of(every, found.tokens, true)
    if node.get("model") is not None:
        fitted, _ = load(node["model"], trace)
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

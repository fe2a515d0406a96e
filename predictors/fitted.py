"""A model with its calibration: made from what had finished by some moment, asked about what arrives afterwards."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from predictors import LEARNED, files
from predictors.conformal import METHODS, conformal
from predictors.errors import PredictorError
from predictors.features import META, Pace
from predictors.model import FEWEST_ROWS, LEVELS, Model, tokens
from predictors.survival import Survival
from traces.schema import Trace

CALIBRATION_SHARE = 0.25  # of what had finished, the latest; the rest is learned from
MOST_CALIBRATION = 20_000
NORMAL = np.array([-1.6449, 0.0, 1.2816, 1.6449, 2.3263])  # quantiles LEVELS of a standard normal
TIMED = 200  # single requests that the cost of a prediction is measured on


@dataclass(frozen=True)
class Fitted:
    """A fitted model and the latest requests that it did not learn from.

    method : of conformal.METHODS
    logs   : float64 (n, 5), what it says of the calibration requests; true : their log-outputs; meta : META of them
    """

    model: Model
    method: str
    logs: np.ndarray
    true: np.ndarray
    meta: pl.DataFrame

    def predict(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the calibrated quantiles of a frame's requests, in order of arrival: columns QUANTILES [tokens]."""
        frames = (self.meta, frame.select(META))
        return tokens(conformal(self.method, (self.logs, self.true), self.model.logs(frame), frames))

    def inference_s(self, frame: pl.DataFrame) -> float:
        """Measure what predicting one request takes, the median of single ones [s]; wall clock."""
        times_s = []
        for row in range(min(TIMED, frame.height)):
            one = frame.slice(row, 1)
            started_s = time.perf_counter()
            tokens(self.model.logs(one))
            times_s.append(time.perf_counter() - started_s)
        return float(np.median(times_s))


def maker(node: Mapping[str, Any], seed: int) -> Callable[[], Model]:
    """Return what makes an unfitted model of a configuration node; raises PredictorError for a value out of range."""
    keys, make = LEARNED[node["kind"]], files.MODELS[node["kind"]]
    values = {key: node[key] for key in keys if node.get(key) is not None}
    if "library" in keys:
        values["seed"] = seed % 2**31
    make(**values)  # refuses wrong values before anything is fitted
    return lambda: make(**values)


def pace_of(node: Mapping[str, Any]) -> Pace:
    """Return when requests are taken to finish, as a node says."""
    return Pace(**{name: node[name] for name in ("first_token_s", "token_s") if node.get(name) is not None})


def method_of(node: Mapping[str, Any]) -> str:
    """Return the conformal method of a node; raises PredictorError for an unknown one."""
    method = node.get("conformal") or "none"
    if method not in METHODS:
        raise PredictorError(f"predictor.conformal must be one of {', '.join(METHODS)}, but is {method!r}.")
    return str(method)


def fit(make: Callable[[], Model], method: str, frame: pl.DataFrame, first: int) -> Fitted:
    """Fit on what had finished before row `first` of a frame arrived: three quarters to learn, the latest to calibrate.

    raises : PredictorError where too few had
    """
    cutoff_s = frame["arrival_s"][first] if first < frame.height else float("inf")
    begun = frame.head(first)
    finished = begun.filter(pl.col("finish_s") < cutoff_s)
    held = 0 if method == "none" else int(finished.height * CALIBRATION_SHARE)
    learned, calibrated = finished.head(finished.height - held), finished.tail(min(held, MOST_CALIBRATION))
    model = make()
    if isinstance(model, Survival):
        learned = pl.concat([learned.with_columns(generated_tokens=pl.lit(-1, pl.Int64)), _cut_off(begun, cutoff_s)])
    model.fit(learned)
    true = np.log(np.maximum(calibrated["output_tokens"].to_numpy(), 1))
    logs = model.logs(calibrated) if calibrated.height else np.empty((0, len(LEVELS)))
    return Fitted(model, method, logs, true, calibrated.select(META))


def _cut_off(begun: pl.DataFrame, cutoff_s: float) -> pl.DataFrame:
    """Return the requests that still run at a moment, with the tokens that they have by then at an even pace."""
    running = begun.filter(pl.col("finish_s") >= cutoff_s)
    share = (cutoff_s - pl.col("arrival_s")) / (pl.col("finish_s") - pl.col("arrival_s"))
    return running.with_columns(generated_tokens=(share * pl.col("output_tokens")).floor().cast(pl.Int64).clip(0))


def rolling(
    make: Callable[[], Model],
    method: str,
    frame: pl.DataFrame,
    origins: int,
    prior_tokens: float,
) -> pl.DataFrame:
    """Return quantiles of every request from models that only saw what had finished before.

    origins      : how often a model is fitted, at even steps through the rows
    prior_tokens : expected before anything has finished; until the first model, the recent mean log-output of
                   all, with a spread of one on that scale
    returns      : QUANTILES, float64 (rows,) [tokens]
    """
    edges = [round(frame.height * k / (origins + 1)) for k in range(origins + 2)]
    recent = frame["all_recent"].to_numpy()[: edges[1]].astype(np.float64)
    parts = [tokens(np.where(recent >= 0, recent, np.log(prior_tokens))[:, None] + NORMAL)]
    for k in range(1, origins + 1):
        parts.append(fit(make, method, frame, edges[k]).predict(frame[edges[k] : edges[k + 1]]))
    return pl.concat(parts)


def fewest_rows(origins: int) -> int:
    """Return how many requests a trace needs for so many origins."""
    return 4 * FEWEST_ROWS * (origins + 1)


def save(path: str | os.PathLike[str], fitted: Fitted, about: Mapping[str, Any]) -> Path:
    """Write a fitted model with its calibration; see files.save."""
    names = ("arrival_s", "finish_s", "output_tokens", "prompt_tokens")
    extra = {
        "logs": fitted.logs,
        "true": fitted.true,
        **{name: fitted.meta[name].to_numpy() for name in names},
        **{name: fitted.meta[name].to_numpy().astype("U") for name in ("tier", "kind")},
    }
    return files.save(path, fitted.model, {"conformal": fitted.method, **about}, extra)


def load(path: str | os.PathLike[str], trace: Trace, method: str | None = None) -> tuple[Fitted, dict[str, Any]]:
    """Return the model of a file for a trace, and the page about it.

    method : the conformal method to use instead of the one it was trained with
    raises : PredictorError if the file is none, or the trace lacks columns that it was trained with
    """
    model, page, extra = files.load(path)
    files.refuse_missing(page, trace, path)
    try:
        meta = pl.DataFrame({name: extra[name] for name in META})
        fitted = Fitted(model, page["conformal"], extra["logs"], extra["true"], meta)
    except (KeyError, ValueError):
        raise PredictorError(f"the file {path} lacks its calibration, so it is damaged. Train it again.") from None
    return (replace(fitted, method=method) if method else fitted), page

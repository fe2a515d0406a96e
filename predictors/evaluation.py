"""How good a predictor is on requests that come after all it learned from: several origins, time-ordered only."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from predictors.conformal import METHODS
from predictors.errors import PredictorError
from predictors.features import META
from predictors.fitted import fit
from predictors.metrics import calibration, coverage, pinball, quality
from predictors.model import QUANTILES, Model

PINBALL = ("p50", "p90", "p99")


@dataclass(frozen=True)
class Span:
    """Rows of one origin: learned from before `first`, tested on `first` to `end`."""

    first: int
    end: int


def spans(rows: int, origins: int, share: float) -> list[Span]:
    """Return the origins: each tests the next `share` of the rows, the last one ends with the trace.

    raises : PredictorError where less than a share would be left to learn from
    """
    if (origins + 1) * share > 1.0 + 1e-9:
        raise PredictorError(
            f"predict.origins * predict.share must leave as much to learn from, but {origins} * {share:g} "
            f"does not. Lower one of them."
        )
    edges = [round(rows * (1.0 - (origins - k) * share)) for k in range(origins + 1)]
    return [Span(first, end) for first, end in zip(edges[:-1], edges[1:], strict=True)]


@dataclass(frozen=True)
class Evaluated:
    """What was found of one predictor.

    rows    : one an origin: its numbers
    groups  : one an origin, conformal method and group (all, or a tier or kind): coverage and width
    tested  : META, the quantiles and the origin of every tested request
    """

    rows: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    tested: pl.DataFrame


def evaluate(
    name: str,
    make: Callable[[], Model],
    method: str,
    frame: pl.DataFrame,
    parts: list[Span],
    told: Callable[[], None] = lambda: None,
) -> Evaluated:
    """Fit and test at every origin.

    name   : what its rows are called
    method : conformal method of the predictions; the coverage of all of METHODS is in `groups`
    told   : called after each origin
    """
    rows, groups, tested = [], [], []
    for k, part in enumerate(parts):
        fitted = fit(make, "adaptive", frame, part.first)
        at_hand = frame[part.first : part.end]
        for each in METHODS:
            found = replace(fitted, method=each).predict(at_hand)
            groups += [{"predictor": name, "origin": k, "conformal": each, **row} for row in _by_group(found, at_hand)]
            if each == method:
                rows.append({"predictor": name, "origin": k, **numbers(found, at_hand)})
                tested.append(at_hand.select(META).with_columns(*found.iter_columns(), pl.lit(k).alias("origin")))
        told()
    return Evaluated(rows, groups, pl.concat(tested))


def numbers(found: pl.DataFrame, at_hand: pl.DataFrame) -> dict[str, Any]:
    """Return the numbers of predictions of requests: errors, ranks, pinball losses, coverage and width."""
    true = at_hand["output_tokens"].to_numpy()
    middle = np.rint(found["p50"].to_numpy()).astype(np.int64)
    named = {key.removeprefix("prediction_"): value for key, value in quality(middle, true).items()}
    losses = {f"pinball_{name}_tokens": pinball(found[name].to_numpy(), true, name) for name in PINBALL}
    covered, width = coverage(found["p05"].to_numpy(), found["p95"].to_numpy(), true)
    return {"requests": len(true), **named, **losses, "coverage": covered, "width_tokens": width}


def curve(tested: pl.DataFrame) -> dict[str, float]:
    """Return for each quantile the share of outputs at or below it: the calibration curve."""
    return calibration({name: tested[name].to_numpy() for name in QUANTILES}, tested["output_tokens"].to_numpy())


def _by_group(found: pl.DataFrame, at_hand: pl.DataFrame) -> list[dict[str, Any]]:
    true, low, high = at_hand["output_tokens"].to_numpy(), found["p05"].to_numpy(), found["p95"].to_numpy()
    masks = {("all", "all"): np.ones(len(true), bool)}
    for column in ("tier", "kind"):
        values = at_hand[column].to_numpy().astype(str)
        if len(known := np.unique(values)) > 1:
            masks |= {(column, str(value)): values == value for value in known}
    rows = []
    for (by, value), mask in masks.items():
        covered, width = coverage(low[mask], high[mask], true[mask])
        rows.append({"by": by, "group": value, "requests": int(mask.sum()), "coverage": covered, "width_tokens": width})
    return rows

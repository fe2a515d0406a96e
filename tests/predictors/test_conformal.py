"""Intervals cover what they promise: where requests are exchangeable all do, under drift the adaptive ones."""

import numpy as np
import polars as pl
import pytest

from predictors.conformal import METHODS, conformal, score_quantile
from predictors.errors import PredictorError
from predictors.model import HIGH, LOW, MEDIAN

SPREAD = np.array([-0.5, 0.0, 0.4, 0.5, 1.0])  # of a model that is too sure: noise below is normal with sigma 1


def case(seed: int, rows: int, drift: float = 0.0) -> tuple[np.ndarray, np.ndarray, pl.DataFrame]:
    """Return log-quantiles, log-outputs and META of requests whose errors drift by so much over the rows."""
    draw = np.random.default_rng(seed)
    middle = draw.uniform(3, 6, rows)
    true = middle + draw.normal(0, 1, rows) + np.linspace(0, drift, rows)
    arrival_s = np.cumsum(draw.exponential(1.0, rows))
    meta = pl.DataFrame({
        "arrival_s": arrival_s, "finish_s": arrival_s + draw.exponential(20.0, rows),
        "prompt_tokens": np.ones(rows, int),
        "output_tokens": np.maximum(np.rint(np.exp(true)), 1).astype(np.int64), "tier": ["a"] * rows,
        "kind": draw.choice(["x", "y"], rows),
    })  # fmt: skip
    return middle[:, None] + SPREAD, np.log(meta["output_tokens"].to_numpy()), meta


def covered(found: np.ndarray, true: np.ndarray) -> float:
    """Return the share inside the interval."""
    return float(((found[:, LOW] <= true) & (true <= found[:, HIGH])).mean())


@pytest.mark.parametrize("method", [method for method in METHODS if method != "none"])
def test_exchangeable_requests_are_covered(method: str) -> None:
    shares = []
    for seed in range(5):
        known, true, meta = case(seed, 4000)
        found = conformal(method, (known[:2000], true[:2000]), known[2000:], (meta[:2000], meta[2000:]))
        assert (np.diff(found, axis=1) >= 0).all()
        shares.append(covered(found, true[2000:]))
    assert np.mean(shares) == pytest.approx(0.9, abs=0.012)


def test_a_model_that_is_too_sure_covers_too_little() -> None:
    known, true, meta = case(1, 4000)
    assert covered(conformal("none", (known, true), known, (meta, meta)), true) < 0.5


def test_under_drift_only_the_adaptive_ones_hold() -> None:
    known, true, meta = case(2, 6000, drift=2.0)
    found = {method: conformal(method, (known[:2000], true[:2000]), known[2000:], (meta[:2000], meta[2000:]))
             for method in METHODS}  # fmt: skip
    shares = {method: covered(rows, true[2000:]) for method, rows in found.items()}
    assert shares["cqr"] < 0.7 and shares["split"] < 0.7 and 0.88 <= shares["adaptive"] <= 0.92
    assert (found["adaptive"][:, MEDIAN] == np.sort(known[2000:], axis=1)[:, MEDIAN]).all()


def test_groups_are_covered_each() -> None:
    """One kind is three times as uncertain: by group both are covered, over all one too much and one too little."""
    draw = np.random.default_rng(3)
    known, _, meta = case(3, 8000)
    wide = (meta["kind"] == "y").to_numpy()
    true = known[:, MEDIAN] + draw.normal(0, np.where(wide, 3.0, 1.0))
    parts = ((known[:4000], true[:4000]), known[4000:], (meta[:4000], meta[4000:]))
    for method, lowest, highest in (("mondrian", 0.88, 0.92), ("cqr", 0.0, 0.88)):
        shares = [covered(conformal(method, *parts)[mask], true[4000:][mask]) for mask in (wide[4000:], ~wide[4000:])]
        assert lowest <= min(shares) <= highest


def test_cqr_is_the_papers_formula() -> None:
    known, true, meta = case(4, 1000)
    found = conformal("cqr", (known[:500], true[:500]), known[500:], (meta[:500], meta[500:]))
    scores = np.maximum(known[:500, LOW] - true[:500], true[:500] - known[:500, HIGH])
    moved = score_quantile(scores, 0.9)
    assert found[:, LOW] == pytest.approx(known[500:, LOW] - moved) and found[:, HIGH] == pytest.approx(
        known[500:, HIGH] + moved
    )
    assert score_quantile(np.arange(1.0, 100.0), 0.9) == 90.0  # ceil(100 * .9)


def test_adaptive_intervals_wait_for_outputs() -> None:
    """What finishes after an arrival does not move its interval."""
    known, true, meta = case(5, 1000, drift=2.0)
    changed = meta.with_columns(output_tokens=pl.when(pl.col("finish_s") < meta["arrival_s"][800])
                                .then(pl.col("output_tokens")).otherwise(1))  # fmt: skip
    found = [conformal("adaptive", (known[:300], true[:300]), known[300:], (meta[:300], frame[300:]))
             for frame in (meta, changed)]  # fmt: skip
    assert (found[0][:501] == found[1][:501]).all() and (found[0] != found[1]).any()


def test_what_is_refused() -> None:
    known, true, meta = case(6, 50)
    with pytest.raises(PredictorError, match="predictor.conformal must be one of"):
        conformal("magic", (known, true), known, (meta, meta))
    with pytest.raises(PredictorError, match="at least 20 finished requests to calibrate on, but there are 5"):
        conformal("cqr", (known[:5], true[:5]), known, (meta[:5], meta))

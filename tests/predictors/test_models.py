"""Every learned model keeps the contract; trees are the libraries' as far as float32 goes; survival is exact."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from predictors import KINDS, LEARNED, files, fitted, predict
from predictors.boosted import Boosted, grown
from predictors.errors import PredictorError
from predictors.features import build, feature_names
from predictors.metrics import tau
from predictors.model import QUANTILES, matrix
from predictors.survival import expected_left, grid_tokens, kaplan_meier, left_after, refresh_table
from predictors.trees import Trees, joined
from traces.schema import Trace
from traces.schema import build as build_trace

ROWS = 3000


def telling_trace(rows: int = ROWS, seed: int = 1) -> Trace:
    """Return a trace whose outputs follow the prompt and the tenant, with noise of .3 on the log scale."""
    draw = np.random.default_rng(seed)
    prompt = np.exp(draw.normal(6, 1, rows)).astype(int) + 1
    tenant = draw.integers(0, 4, rows)
    output = np.exp(2.0 + 0.3 * np.log(prompt) + 0.8 * tenant + draw.normal(0, 0.3, rows)).astype(int) + 1
    return build_trace("telling", {
        "arrival_s": np.cumsum(draw.exponential(0.5, rows)), "prompt_tokens": prompt, "output_tokens": output,
        "tenant": [f"t{k}" for k in tenant], "kind": [f"k{k % 2}" for k in tenant],
    })  # fmt: skip


TRACE = telling_trace()
FRAME = build(TRACE)


def test_every_learned_kind_is_known_to_the_configuration() -> None:
    assert set(LEARNED) == set(files.MODELS) <= set(KINDS)
    for kind, keys in LEARNED.items():
        taken = [name for name in inspect.signature(files.MODELS[kind]).parameters if name != "seed"]
        assert taken == list(keys)


@pytest.mark.parametrize("kind", LEARNED)
def test_contract(kind: str, tmp_path: Path) -> None:
    """Fit, predict in order, the same from a file, the same for the same seed; better than a constant or as good."""
    make = fitted.maker({"kind": kind, **({"by": ["kind"]} if kind == "group" else {})}, 3)
    found = fitted.fit(make, "adaptive", FRAME, 2000)
    predicted = found.predict(FRAME[2000:])
    values = predicted.to_numpy()
    assert predicted.columns == list(QUANTILES) and len(values) == ROWS - 2000
    assert (values >= 1).all() and (np.diff(values, axis=1) >= 0).all() and np.isfinite(values).all()
    assert fitted.fit(make, "adaptive", FRAME, 2000).predict(FRAME[2000:]).equals(predicted)
    about = {"trace": TRACE.name, "digest": TRACE.digest(), "rows": 2000, "inference_s": 1e-5, "pace": {}}
    path = fitted.save(tmp_path / "model", found, about)
    assert path.name == "model.npz" and [file.name for file in tmp_path.iterdir()] == ["model.npz"]
    loaded, page = fitted.load(path, TRACE)
    assert loaded.predict(FRAME[2000:]).equals(predicted)
    assert page["kind"] == kind and page["digest"] == TRACE.digest() and page["versions"]["numpy"] == np.__version__
    true = FRAME[2000:]["output_tokens"].to_numpy()
    middle = np.abs(predicted["p50"].to_numpy() - true).mean()
    assert middle < 1.05 * np.abs(np.median(true) - true).mean()
    if kind in ("boosted", "rank", "history"):
        assert tau(predicted["p50"].to_numpy(), true) > 0.4
    with pytest.raises(PredictorError, match="at least 50 finished requests"):
        fitted.fit(make, "none", FRAME, 40)


@pytest.mark.parametrize("library", ["sklearn", "lightgbm"])
@pytest.mark.parametrize("level", [None, 0.9])
def test_trees_are_the_librarys(library: str, level: float | None) -> None:
    from predictors.boosted import _lightgbm

    rows = matrix(FRAME, feature_names(FRAME))
    target = np.log(FRAME["output_tokens"].to_numpy())
    found = joined([grown(library, rows, target, 1, 20, level)]).predict(rows)[:, 0]
    if library == "lightgbm":
        expected = np.asarray(_lightgbm(rows, target, 1, 20, level).predict(rows))
    else:
        expected = Boosted("sklearn", 1, 20).fit(FRAME).logs(FRAME)[:, 2] if level else sklearn_mean(rows, target)
    assert np.abs(found - expected).max() < 1e-5


def sklearn_mean(rows: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Predict with scikit-learn's own walk of the same trees."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    from predictors.boosted import FEATURE_SHARE, FEWEST_IN_LEAF, LEARNING_RATE, LEAVES
    from predictors.trees import DEPTH

    model = HistGradientBoostingRegressor(
        max_iter=20, random_state=1, learning_rate=LEARNING_RATE, max_leaf_nodes=LEAVES, max_depth=DEPTH,
        min_samples_leaf=FEWEST_IN_LEAF, max_features=FEATURE_SHARE, early_stopping=False,
    )  # fmt: skip
    return model.fit(rows, target).predict(rows)


def test_trees_decide_at_thresholds_as_written() -> None:
    """A value at the threshold goes left, the next float32 right; a leaf near the root ends at its value."""
    trees = joined(
        [(1.0, [[(0, 0.1, 1, 2), (-1, 10.0, -1, -1), (1, 5.0, 3, 4), (-1, 20.0, -1, -1), (-1, 30.0, -1, -1)]])]
    )
    below = np.nextafter(np.float32(0.1), np.float32(0))
    rows = np.array([[below, 0], [np.float32(0.1), 5], [1, 6]], np.float32)
    assert trees.predict(rows)[:, 0].tolist() == [11.0, 21.0, 31.0]  # float32(0.1) is above 0.1
    many = np.repeat(rows, 20_000, axis=0)
    assert (trees.predict(many)[:, 0] == np.repeat([11.0, 21.0, 31.0], 20_000)).all()


@pytest.mark.parametrize("field", Trees._fields)
def test_trees_of_a_bad_file_are_refused(field: str) -> None:
    trees = Boosted(iterations=2).fit(FRAME).trees
    assert trees is not None
    for wrong in (getattr(trees, field)[:-1], getattr(trees, field).astype(np.float16)):
        with pytest.raises(PredictorError, match="do not fit together"):
            trees._replace(**{field: wrong}).check(len(feature_names(FRAME)))
    with pytest.raises(PredictorError, match="do not fit together"):
        trees.check(1)


def test_files_that_are_no_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    with pytest.raises(PredictorError, match="does not exist"):
        fitted.load(path, TRACE)
    for content in (b"", b"PK\x03\x04 nothing", b"x" * 1000):
        path.write_bytes(content)
        with pytest.raises(PredictorError, match="is no model of kvreplay"):
            fitted.load(path, TRACE)
    np.savez(path, about=np.array('{"format": 1, "kind": "boosted"}'))  # type: ignore[arg-type]
    with pytest.raises(PredictorError, match="is no model of kvreplay"):
        fitted.load(path, TRACE)
    np.savez(path, about=np.array('{"format": 99}'))  # type: ignore[arg-type]
    with pytest.raises(PredictorError, match="has format 99"):
        fitted.load(path, TRACE)


def test_a_trace_without_the_models_columns_is_refused(tmp_path: Path) -> None:
    found = fitted.fit(fitted.maker({"kind": "history"}, 0), "none", FRAME, 2000)
    path = fitted.save(tmp_path / "m.npz", found, {"pace": {}, "inference_s": 0.0})
    plain = build_trace("plain", {"arrival_s": [0.0], "prompt_tokens": [5], "output_tokens": [2]})
    with pytest.raises(PredictorError, match="but plain has no tenant, kind. Train a model"):
        fitted.load(path, plain)


@pytest.mark.parametrize(("node", "words"), [
    ({"kind": "boosted", "library": "torch"}, "predictor.library must be one of sklearn, lightgbm"),
    ({"kind": "boosted", "iterations": 0}, "predictor.iterations must be a whole number from 1"),
    ({"kind": "group", "by": ["tenant"]}, "predictor.by must be a list of tier and kind"),
    ({"kind": "survival", "classes": 0}, "predictor.classes must be a whole number"),
    ({"kind": "history", "conformal": "magic"}, "predictor.conformal must be one of none, split"),
    ({"kind": "history", "origins": 500}, "needs 100200 requests or more, but telling has 3000"),
    ({"kind": "history", "origins": 0}, "predictor.origins must be a whole number from 1"),
    ({"kind": "history", "workers": 0}, "predictor.workers must be a whole number from 1"),
    ({"kind": "history", "inference_s": "measured"}, "takes the figure of a model file"),
    ({"kind": "history", "inference_s": -1}, "predictor.inference_s must be a number of seconds"),
    ({"kind": "history", "model": "nowhere.npz"}, "does not exist"),
    ({"kind": "online", "refresh_tokens": 5}, "predictor.refresh_tokens is no key|needs predictions made before"),
])  # fmt: skip
def test_bad_nodes_are_refused(node: dict[str, Any], words: str) -> None:
    with pytest.raises(PredictorError, match=words):
        predict(node, TRACE, 0)


def test_predictions_in_a_run_come_from_what_had_finished() -> None:
    """The outputs of the last fifth change no prediction before it, nor those of the last fifth's first request."""
    first = ROWS * 4 // 5
    columns = {name: TRACE.column(name).tolist() for name in TRACE.table.column_names}
    columns["output_tokens"] = columns["output_tokens"][:first] + [1] * (ROWS - first)
    changed = build_trace("changed", columns)
    for kind in ("history", "boosted"):
        before, after = (predict({"kind": kind}, trace, 0) for trace in (TRACE, changed))
        assert before is not None and after is not None
        assert (before.tokens[: first + 1] == after.tokens[: first + 1]).all() and (before.p90 >= before.tokens).all()
        assert (before.tokens != after.tokens).any() and (before.p99 >= before.p90).all()


@pytest.mark.parametrize("kind", ["history", "constant"])
def test_what_is_looked_at_again_was_learned_before(kind: str) -> None:
    """The table comes from requests over before the first that uses it: changing later outputs changes nothing."""
    node = {"kind": kind, "refresh_tokens": 8, **({"tokens": 60} if kind == "constant" else {})}
    columns = {name: TRACE.column(name).tolist() for name in TRACE.table.column_names}
    first = {"history": ROWS * 2 // 5, "constant": ROWS // 5}[kind]
    columns["output_tokens"] = columns["output_tokens"][:first] + [1] * (ROWS - first)
    before, after = (predict(node, trace, 0) for trace in (TRACE, build_trace("changed", columns)))
    assert before is not None and after is not None and before.refresh is not None and after.refresh is not None
    assert before.refresh.first == after.refresh.first == first
    assert (before.refresh.left == after.refresh.left).all() and (before.refresh.edges == after.refresh.edges).all()


def test_kaplan_meier_by_hand() -> None:
    """Textbook: 6 requests, ends at 1, 3, 3, 6, cut off at 2 and 4."""
    lengths, alive = kaplan_meier(np.array([1, 2, 3, 3, 4, 6]), np.array([True, False, True, True, False, True]))
    assert lengths.tolist() == [1, 3, 6] and alive == pytest.approx([5 / 6, 5 / 12, 0])
    left = expected_left(lengths, alive, np.array([0.0, 1.0, 3.0, 5.0, 6.0, 99.0]))
    # areas under 1, 5/6, 5/12: E[L] = 1 + 2 * 5/6 + 3 * 5/12; after 1: (2 * 5/6 + 3 * 5/12) / (5/6)
    assert left == pytest.approx([1 + 10 / 6 + 15 / 12, 3.5, 3.0, 1.0, 1.0, 1.0])


def test_survival_without_cuts_is_the_mean_of_those_that_go_on() -> None:
    draw = np.random.default_rng(5)
    true = draw.geometric(0.02, 5000)
    lengths, alive = kaplan_meier(true, np.ones(5000, bool))
    for generated in (0, 1, 10, 60):
        assert expected_left(lengths, alive, np.array([float(generated)]))[0] == pytest.approx(
            (true[true > generated] - generated).mean()
        )
    memoryless = expected_left(lengths, alive, np.array([0.0, 20.0, 50.0]))
    assert memoryless == pytest.approx([50, 50, 50], rel=0.08)


def test_censoring_is_not_left_out() -> None:
    """Lengths of mean 100 cut off at 60: without the cut ones the mean is 27; what is known of them is not lost."""
    draw = np.random.default_rng(6)
    true = draw.geometric(0.01, 40_000)
    seen, ended = np.minimum(true, 60), true <= 60
    _, alive = kaplan_meier(seen, ended)
    whole = kaplan_meier(true, np.ones(len(true), bool))
    at = np.searchsorted(whole[0], 59)
    assert alive[-2] == pytest.approx(whole[1][at], abs=0.01) and true[ended].mean() < 30


def test_tables_of_what_is_left() -> None:
    edges, left = refresh_table(np.array([10.0] * 100 + [100.0] * 100), np.array([10] * 100 + [50, 150] * 50))
    assert edges.tolist() == [10.0, 100.0] or len(left) == len(edges) + 1
    rows = np.searchsorted(edges, [10.0, 100.0], "right")
    assert left_after(left, rows, np.array([0, 0])) == pytest.approx([10, 100])
    assert left_after(left, rows, np.array([3, 63])) == pytest.approx([7, 87])  # 2^(k / 4) - 1 holds 3 and 63
    assert grid_tokens()[[0, 4, 8]].tolist() == [0, 1, 3] and isinstance(FRAME, pl.DataFrame)

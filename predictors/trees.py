"""Boosted regression trees as plain arrays: whoever grew them, they are kept, loaded and asked without its library.

A file of them is data and nothing else: loading one runs no code, and no version of a library can refuse it.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from predictors.errors import PredictorError
from predictors.tree_kernels import BLOCK, walk

DEPTH = 5  # of every tree
Tree = list[tuple[int, float, int, int]]  # (feature, threshold or value, left, right), root first, a leaf's feature -1
THREAD_ROWS = 20_000


class Trees(NamedTuple):
    """Several sums of trees over the same features, one a quantile.

    feature   : uint16 (trees, 2^depth - 1), of each inner node; the children of node n are 2n + 1 and 2n + 2
    threshold : float32, likewise; a row goes left where its feature is at most that
    leaf      : float32 (trees, 2^depth), what each leaf adds
    first     : int64 (sums + 1,), the trees of each sum
    starts    : float64 (sums,), what each sum starts from
    """

    feature: np.ndarray
    threshold: np.ndarray
    leaf: np.ndarray
    first: np.ndarray
    starts: np.ndarray

    def check(self, features: int) -> None:
        """Raise PredictorError unless the arrays fit together and read that many features: a file may hold anything."""
        trees, types = len(self.feature), [array.dtype.str for array in self]
        shapes = [(trees, 2**DEPTH - 1), (trees, 2**DEPTH - 1), (trees, 2**DEPTH), (len(self.starts) + 1,)]
        fits = [array.shape for array in self[:4]] == shapes and types == ["<u2", "<f4", "<f4", "<i8", "<f8"]
        if (
            not fits
            or (self.feature >= features).any()
            or self.first[0] != 0
            or self.first[-1] != trees
            or (np.diff(self.first) < 0).any()
        ):
            raise PredictorError("the trees of a model file do not fit together. Train the model again.")

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Return the sums of float32 rows (rows, features): float64 (rows, sums)."""
        sums = np.empty((len(rows), len(self.starts)))
        rows = np.ascontiguousarray(rows, np.float32)

        def part(span: tuple[int, int]) -> None:
            walk(
                rows[span[0] : span[1]],
                self.feature,
                self.threshold,
                self.leaf,
                self.first,
                self.starts,
                sums[span[0] : span[1]],
            )

        if len(rows) <= THREAD_ROWS:
            part((0, len(rows)))
            return sums
        step = -(-len(rows) // (4 * (os.cpu_count() or 1)) // BLOCK) * BLOCK or BLOCK
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(part, [(at, min(at + step, len(rows))) for at in range(0, len(rows), step)]))
        return sums


def joined(sums: list[tuple[float, list[Tree]]]) -> Trees:
    """Return sums of trees of depth DEPTH or less, (start, trees) each, as arrays.

    Features are float32, so a threshold is rounded down to the float32 that decides alike.
    """
    trees = [tree for _, group in sums for tree in group]
    feature = np.zeros((len(trees), 2**DEPTH - 1), np.uint16)
    threshold = np.full((len(trees), 2**DEPTH - 1), np.inf, np.float32)
    leaf = np.zeros((len(trees), 2**DEPTH), np.float32)
    for t, tree in enumerate(trees):
        _fill(tree, feature[t], threshold[t], leaf[t])
    first = np.concatenate(([0], np.cumsum([len(group) for _, group in sums])))
    return Trees(feature, threshold, leaf, first, np.array([start for start, _ in sums]))


def _fill(tree: Tree, feature: np.ndarray, threshold: np.ndarray, leaf: np.ndarray) -> None:
    """Write a tree into the rows of a complete one, in place; below a leaf all ways are left and end at its value."""
    todo = [(0, 0)]
    while todo:
        at, place = todo.pop()
        split, value, left, right = tree[at]
        if split >= 0:
            feature[place], threshold[place] = split, _rounded_down(value)
            todo += [(left, 2 * place + 1), (right, 2 * place + 2)]
            continue
        while place < len(feature):
            place = 2 * place + 1
        leaf[place - len(feature)] = value


def _rounded_down(threshold: float) -> float:
    near = np.float32(threshold)
    return float(near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf)))


def of_sklearn(model: Any) -> tuple[float, list[Tree]]:
    """Return the start and the trees of a fitted HistGradientBoostingRegressor without missing values."""
    trees = []
    for (grown,) in model._predictors:
        rows = grown.nodes
        trees.append(
            [
                (-1, float(row["value"]), -1, -1)
                if row["is_leaf"]
                else (int(row["feature_idx"]), float(row["num_threshold"]), int(row["left"]), int(row["right"]))
                for row in rows
            ]
        )
    return float(np.ravel(model._baseline_prediction)[0]), trees


def of_lightgbm(model: Any) -> tuple[float, list[Tree]]:
    """Return the start and the trees of a fitted LightGBM booster without missing values or categories."""
    return 0.0, [_of_structure(tree["tree_structure"]) for tree in model.dump_model()["tree_info"]]


def _of_structure(root: dict[str, Any]) -> Tree:
    rows: Tree = []
    todo = [root]
    while len(rows) < len(todo):
        node = todo[len(rows)]
        if "split_feature" not in node:
            rows.append((-1, float(node["leaf_value"]), -1, -1))
            continue
        rows.append((int(node["split_feature"]), float(node["threshold"]), len(todo), len(todo) + 1))
        todo += [node["left_child"], node["right_child"]]
    return rows

"""Build what is kept for the questions that policies are asked, as far as the chosen ones read it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from predictors.predictions import Predictions
from predictors.survival import GRID
from replay.engine import adapters, schema
from replay.engine.draws import mix_array
from replay.engine.learning_schema import learning_rows
from replay.engine.request_schema import (
    ACCOUNT,
    LEDGER,
    MORE,
    MOVE,
    MOVING,
    PREDICTED,
    PREFIX_KEYS,
    SEEN,
    SPELL,
    SPELLS,
    TARGET,
    TENANTS,
    Asking,
)
from replay.errors import PolicyError
from replay.hardware.units import ps
from replay.policy import Chosen
from traces.trie import Trie, prefix_ids

if TYPE_CHECKING:
    from replay.slo import Slo
    from traces import Trace

# arrays that a fork needs for itself
CHANGING = ("seen", "spells", "accounts", "ledgers", "told", "moving",
            "quantiles", "workers", "cells", "looks", "weights", "gains", "inverse", "record")
ASKED = ("admit", "route", "decode", "order")  # slots whose policies may see more of a request than REQUEST


def note_questions(row: np.ndarray, chosen: Mapping[str, Chosen]) -> None:
    """Note in the CLUSTER row what the chosen policies read of a request beyond REQUEST, modified in place."""
    more = {entry[0] for entry in MORE}
    reads = {slot: chosen[slot].policy.reads & more for slot in ASKED}
    for slot in ("fetch", "recover"):
        policy = chosen[slot].policy
        if beyond := sorted(policy.reads & more):
            raise PolicyError(f"{slot} policy {policy.name!r} reads request.{beyond[0]}, but only policies of the "
                              f"slots {', '.join(ASKED)} are shown that. Use the fields of REQUEST.")
    rekeys = bool(chosen["order"].policy.reads & MOVING) or "now_ps" in chosen["order"].policy.uses
    asks = {slot: bool(reads[slot]) for slot in ASKED} | {"order": bool(reads["order"]) or rekeys}
    row["asks"] = sum(1 << adapters.ROWS[slot] for slot in ASKED if asks[slot])
    read = frozenset().union(*reads.values())
    order = chosen["order"]
    row["rekeys"] = rekeys
    row["fair"], row["promises"] = bool(read & TENANTS), "tenant_expected" in read
    row["spelled"] = bool(read & SPELLS) or row["fair"][0]
    row["reads_prefill"] = bool(read & {"prefill_tokens", "prefill_s"})
    row["reads_predictions"] = bool(read & PREDICTED)
    row["reads_truth"] = "true_tokens" in read
    row["reads_prefix_keys"] = "prefix_keys" in read
    row["input_weight"] = float(order.values.get("input_weight", 1.0))
    row["output_weight"] = float(order.values.get("output_weight", 2.0))


def asking_of(
    trace: "Trace", slo: "Slo", row: np.ndarray, views: np.ndarray, options: Mapping[str, Any]
) -> Asking:
    """Return what is kept of a trace for the questions noted in the CLUSTER row; options: trie, predictions.

    views : VIEW (num_instances,), read only
    """
    targets = np.zeros(max(1, len(slo.tiers)), TARGET)
    for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s"):
        promised = [getattr(tier, name) for tier in slo.tiers]
        targets[name][: len(promised)] = [np.inf if value is None else value for value in promised]
    for name in ("weight", "price_usd", "penalty_usd"):
        targets[name][: len(slo.tiers)] = [getattr(tier, name) for tier in slo.tiers]
    labels = list(trace.labels("tenant")) if "tenant" in trace else []
    holders = len(views) + 1 if row["fair"][0] else 1
    ledgers = np.zeros(holders, LEDGER)
    ledgers["last"] = schema.NONE
    moving = np.zeros(len(views) if row["migrates"][0] else 1, MOVE)
    moving["request"] = schema.NONE
    keyed = bool(row["reads_prefix_keys"][0])
    return Asking(
        seen=np.zeros(1, SEEN),
        targets=targets,
        spells=np.zeros(len(trace) if row["spelled"][0] else 1, SPELL),
        accounts=np.zeros((holders, len(labels) + 1), ACCOUNT),
        ledgers=ledgers,
        shares=np.array([1.0, *(slo.share(str(label)) for label in labels)]),
        prefix_keys=prefix_keys(options["trie"], len(trace)) if keyed else np.zeros((1, PREFIX_KEYS), np.uint64),
        moving=moving,
        told=views.copy() if row["signals"][0] else np.zeros(1, schema.VIEW),
        **_predicted(row, options["predictions"]),
        **learning_rows(trace, options["trie"], options["predictions"]),
    )


def _predicted(row: np.ndarray, predictions: Predictions | None) -> dict[str, np.ndarray]:
    """Return the arrays about predictions, and note in the CLUSTER row what they ask for, modified in place."""
    found = {"quantiles": np.full((1, 2), schema.NONE, np.int32), "workers": np.zeros(1, np.int64),
             "left_class": np.zeros(1, np.int32), "left": np.zeros((1, GRID))}  # fmt: skip
    if predictions is None:
        row["reads_predictions"] = 0
        return found
    row["learns"] = predictions.online > 0
    row["predict_ps"] = ps(predictions.inference_s, "predictor.inference_s")
    found["workers"] = np.zeros(predictions.workers, np.int64)
    if row["learns"][0] or row["reads_predictions"][0]:
        found["quantiles"] = np.column_stack((predictions.p90, predictions.p99)).astype(np.int32)
    if predictions.refresh is not None and row["reads_predictions"][0]:
        refresh = predictions.refresh
        row["refresh_tokens"] = refresh.every_tokens
        found["left_class"] = np.searchsorted(refresh.edges, predictions.tokens, "right").astype(np.int32)
        found["left_class"][: refresh.first] = schema.NONE
        found["left"] = np.ascontiguousarray(refresh.left, np.float64)
    return found


def count_waiting(state: schema.State, asking: Asking) -> None:
    """Count the requests of each tenant that wait on each instance and in the cluster queue, in place."""
    stages, tenants = state.jobs["stage"], state.requests["tenant"] + 1
    waiting, held = stages == schema.WAITING, stages == schema.HELD
    np.add.at(asking.accounts["waiting"], (state.jobs["instance"][waiting], tenants[waiting]), 1)
    np.add.at(asking.accounts["waiting"], (len(asking.accounts) - 1, tenants[held]), 1)


def prefix_keys(trie: Trie, requests: int) -> np.ndarray:
    """Return an identity of the first 1, 2, 4, ... trace blocks of every prompt, uint64 (requests, PREFIX_KEYS).

    Two prompts have the same where they agree in so many blocks; one that is shorter has that of all its blocks, one
    without blocks its own.
    """
    own = mix_array(np.arange(requests, dtype=np.uint64) + np.uint64(1 << 62))
    ids = prefix_ids(trie, [1 << k for k in range(PREFIX_KEYS)])
    return np.where(ids >= 0, mix_array(ids.astype(np.uint64)), own[:, None])

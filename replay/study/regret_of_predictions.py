"""Decision regret: what the replay of one window loses because lengths are predicted instead of known."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from predictors.evaluation import Span
from predictors.predictions import Predictions, of_quantiles, of_tokens
from replay.configuration import Settings
from replay.driving import ready
from traces.schema import Trace
from traces.window import slice_rows

ORDER, NONE = "shortest_predicted", "fcfs"


def decision_regret(
    config: Mapping[str, Any], checked: Settings, trace: Trace, part: Span, tested: Mapping[str, pl.DataFrame]
) -> pl.DataFrame:
    """Replay the rows of a span under an order policy that reads predictions, once for each predictor.

    tested  : predictor -> quantiles of the rows of the span
    returns : a row each for none (first come, first served), every predictor, and the oracle: ttft_s_mean, e2e_s_mean,
              slo_attainment, and regret = (E2E mean - oracle's) / (none's - oracle's), None where these are equal
    """
    from replay.cluster import build_cluster
    from replay.session import replay
    from replay.slo import build_slo

    window = slice_rows(trace, part.first, part.end)
    cluster, slo = build_cluster(dict(config), trace.block_tokens), build_slo(config["slo"])
    reads = any(name.startswith("predicted_") for name in _reads(checked.policies["order"]))
    order = checked.policies["order"] if reads else {"name": ORDER}
    cases: dict[str, tuple[Any, Predictions | None]] = {"none": ({"name": NONE}, None)}
    cases |= {name: (order, of_quantiles(frame)) for name, frame in tested.items()}
    cases["oracle"] = (order, of_tokens(np.asarray(window.column("output_tokens"))))
    ready()
    rows = []
    for name, (policy, predictions) in cases.items():
        policies = {**checked.policies, "order": policy}
        summary = replay(window, cluster, policies, slo=slo, seed=checked.seed, predictions=predictions).summary
        rows.append(
            {
                "predictor": name,
                "order": policy["name"],
                **{key: summary.get(key) for key in ("ttft_s_mean", "e2e_s_mean", "slo_attainment")},
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(regret=_share(pl.col("e2e_s_mean"), rows))


def _share(value: pl.Expr, rows: list[dict[str, Any]]) -> pl.Expr:
    worst, best = rows[0]["e2e_s_mean"], rows[-1]["e2e_s_mean"]
    if worst is None or best is None or worst == best:
        return pl.lit(None, pl.Float64)
    return (value - best) / (worst - best)


def _reads(policy: Mapping[str, Any]) -> frozenset[str]:
    from replay.policy import choose

    return choose("order", str(policy["name"])).policy.reads

"""Folders of studies as their verbs write them, made of drawn numbers."""

import json
from pathlib import Path

import numpy as np
import polars as pl


def tune_folder(folder: Path, trials: int = 60, objectives: int = 2) -> Path:
    """Write the folder of a tuning study with one objective or two; some trials pruned, failed, out of bounds."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(1)
    weight, aging = draw.uniform(0.0, 8.0, trials), np.exp(draw.uniform(np.log(0.1), np.log(1000.0), trials))
    order = np.array(["fcfs", "sjf", "srpt"])[draw.integers(0, 3, trials)]
    ttft_s = 1.0 + 0.2 * (weight - 3.0) ** 2 + 0.4 * (order == "fcfs") + 0.1 * draw.random(trials)
    goodput = 8.0 + 0.1 * weight - 0.1 * np.log(aging) + 0.2 * draw.random(trials)
    state = np.where(np.arange(trials) % 11 == 10, "PRUNED", "COMPLETE")
    state[trials // 2] = "FAIL"
    done = pl.Series(state) == "COMPLETE"
    values = {"objective.ttft_s_p99": ttft_s, "objective.goodput_per_s": goodput}
    frame = pl.DataFrame(
        {
            "number": np.arange(trials),
            "state": state,
            "param.policy.route.hit_weight": weight,
            "param.policy.order.aging_s": aging,
            "param.policy/order": order,
            **dict(list(values.items())[:objectives]),
            "constraint.usd_per_hour": weight - 6.5,
            "took_s": draw.random(trials),
        }
    )
    names = [name for name in frame.columns if name.startswith("objective.")]
    frame = frame.with_columns(pl.when(done).then(pl.col(name)).alias(name) for name in names)
    frame.write_parquet(folder / "trials.parquet")
    keys = ["policy.route.hit_weight", "policy.order.aging_s", "policy/order"]
    pl.DataFrame(
        {
            "key": keys * len(names),
            "objective": [name.partition(".")[2] for name in names for _ in keys],
            "importance": [0.7, 0.1, 0.2, 0.2, 0.75, 0.05][: len(keys) * len(names)],
        }
    ).write_parquet(folder / "importance.parquet")
    numbers = {
        "tuned.ttft_s_p99": 1.02,
        "default.ttft_s_p99": 1.6,
        "held_out.tuned.ttft_s_p99": 1.1,
        "held_out.default.ttft_s_p99": 1.63,
        "tuned.goodput_per_s": 8.9,
        "default.goodput_per_s": 8.2,
        "trials": trials,
    }
    (folder / "summary.json").write_text(json.dumps(numbers))
    (folder / "best.yaml").write_text("policy:\n  route:\n    hit_weight: 3.0\n")
    return folder


def compare_folder(folder: Path, configurations: int = 3, replicates: int = 10) -> Path:
    """Write the folder of a comparison of a few configurations; one metric has no interval."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(2)
    names = [f"policy/route={name}" for name in ("round_robin", "least_loaded", "kv_locality", "random")][
        :configurations
    ]
    metrics = {"ttft_s_p99": 1.2, "tpot_s_p50": 0.03, "hit_rate": 0.5, "goodput_per_s": 9.0, "gold.slo_attainment": 0.9}
    shared = {metric: mean * (1 + 0.1 * draw.standard_normal(replicates)) for metric, mean in metrics.items()}
    rows = [
        {
            "configuration": name,
            "replicate": k,
            **{
                metric: values[k] * (1 - 0.05 * c * (metric == "ttft_s_p99") + 0.01 * draw.standard_normal())
                for metric, values in shared.items()
            },
        }
        for c, name in enumerate(names)
        for k in range(replicates)
    ]
    table = pl.DataFrame(rows)
    table.write_parquet(folder / "replicates.parquet")
    found = []
    for second in names[1:]:
        for metric in metrics:
            a, b = (table.filter(pl.col("configuration") == name)[metric].to_numpy() for name in (names[0], second))
            gap, half = float((b - a).mean()), float(2.3 * (b - a).std() / np.sqrt(replicates))
            bare = metric == "tpot_s_p50"
            found.append(
                {
                    "metric": metric,
                    "first": names[0],
                    "second": second,
                    "mean_first": a.mean(),
                    "mean_second": b.mean(),
                    "difference": None if bare else gap,
                    "low": None if bare else gap - half,
                    "high": None if bare else gap + half,
                    "effect": None if bare else gap / float((b - a).std()),
                    "p": None if bare else 0.01,
                    "p_adjusted": None if bare else 0.01 if abs(gap) > half else 0.6,
                    "replicates": replicates,
                    "note": "too few requests: 20 < 100" if bare else None,
                }
            )
    pl.DataFrame(found, infer_schema_length=None).write_parquet(folder / "differences.parquet")
    pl.DataFrame(
        [
            {"configuration": name, "what": what, "name": at, "metric": "ttft_s_p99", "value": 3.0}
            for name in names
            for what, at in (("tier", "gold"), ("window", "60 to 90 s"))
        ]
    ).write_parquet(folder / "worst.parquet")
    return folder


def capacity_folder(folder: Path) -> Path:
    """Write the folder of a capacity study of three configurations."""
    folder.mkdir(parents=True)
    names = ["cluster=mixed_4", "cluster=pd_4p4d", "cluster=pd_8p8d"]
    carried = np.array([1.1, 1.9, 3.4])
    pl.DataFrame(
        {
            "configuration": names,
            "rate_scale": carried,
            "requests_per_s": 10 * carried,
            "gpus": [16, 32, 64],
            "requests_per_s_per_gpu": 10 * carried / [16, 32, 64],
            "requests_per_usd": 10 * carried / [40, 80, 160],
        }
    ).write_parquet(folder / "capacities.parquet")
    scales = np.geomspace(0.25, 8.0, 14)
    rows = [
        {
            "configuration": name,
            "rate_scale": float(scale),
            **{
                f"{prefix}slo_attainment": float(1 / (1 + (scale / (strict * most)) ** 6))
                for prefix, strict in (("", 1.0), ("gold.", 0.8), ("silver.", 1.0), ("bronze.", 1.3))
            },
        }
        for name, most in zip(names, carried, strict=True)
        for scale in scales
    ]
    pl.DataFrame(rows).write_parquet(folder / "curve.parquet")
    pl.DataFrame(
        [
            {"configuration": name, "slo_scale": float(scale), "slo_attainment": float(scale / (scale + 1 / most))}
            for name, most in zip(names, carried, strict=True)
            for scale in np.geomspace(0.25, 4.0, 9)
        ]
    ).write_parquet(folder / "slo_curve.parquet")
    return folder

"""Recorded runs of real engines beside their replays: a profile of the same GPU, the run's settings, nothing fitted.

A run is a folder GPU/MODEL/vllm with its log; its profile comes from the per-layer times of that GPU and model. Beside
it stands the same with the profile calibrated on the first third of the run, judged on the rest.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from replay.fidelity import layers, logs
from replay.fidelity.calibration import Calibration
from replay.fidelity.deviation import errors
from replay.fidelity.experts import ALONE, Link, Spread
from replay.fidelity.fit import START
from replay.hardware.conf import load
from replay.hardware.conf import names as conf_names
from replay.hardware.file import save
from replay.hardware.model import model_of

RUNS, PROFILES = "bench/examples", "profiler/perf"
SHARE = 1 / 3
FITTED = ("prefill", "decode", "host_s")
PLENTY = 1_000_000  # KV blocks of a run that does not say how many it had


@dataclass(frozen=True, eq=False)
class Run:
    """A recorded run and the folder of its profile."""

    gpu: str
    model: str
    folder: Path
    profile: Path
    settings: Mapping[str, Any]  # engine_kwargs of its meta.json
    link: Link | None  # between its GPUs, as the config.json beside it says

    @property
    def name(self) -> str:
        """GPU and model."""
        return f"{self.gpu} {self.model}"


def runs(folder: Path) -> Iterator[Run]:
    """Find the runs below a folder in LLMServingSim's layout, those with a profile of one GPU."""
    for meta in sorted((folder / RUNS).glob("*/*/vllm/meta.json")):
        gpu, model = meta.parts[-4], meta.parts[-3]
        found = sorted((folder / PROFILES / gpu).glob(f"*/{model}/bf16/tp1"))
        if found:
            settings = json.loads(meta.read_text(encoding="utf-8"))["engine_kwargs"]
            yield Run(gpu, model, meta.parent, found[0], settings, _link(meta.parent.parent / "config.json"))


def _link(path: Path) -> Link | None:
    """Read what a link between two GPUs of a run carries: link_bw [GB/s] and link_latency [ns]."""
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return Link(content["link_bw"] * 1e9, content["link_latency"] * 1e-9)


def shape_of(model: str) -> str:
    """Return the name in conf/model of a model as runs call it, "Llama-3.1-8B"."""
    plain = model.lower().removesuffix("-instruct-2507").replace("llama-3.1", "llama3").replace("-", "_")
    return plain if plain in conf_names("model") else plain.replace(".", "_")


def validate(run: Run) -> tuple[list[dict[str, Any]], pl.DataFrame]:
    """Replay a run as it was, and with a profile calibrated on its first third.

    returns : rows of run, part (all, or the rest after calibration), metric, statistic, recorded, replayed, error;
              and a row a request, recorded and replayed
    """
    ranks = int(run.settings.get("data_parallel_size") or 1)
    spread = Spread(ranks, run.link) if run.settings.get("enable_expert_parallel") else ALONE
    profile = layers.profile_of(layers.read(run.profile), model_of(load("model", shape_of(run.model))), spread=spread,
                                name=f"{run.gpu}_{shape_of(run.model)}")  # fmt: skip
    log = own_blocks(logs.read(run.folder))
    settings = {"cluster.kv_blocks": PLENTY, **log.settings}
    with tempfile.TemporaryDirectory() as scratch:
        save(profile, Path(scratch) / "profile.json")
        arguments = ["cluster=mixed_1", f"cluster.mixed={ranks}", f"cluster.ranks={spread.ranks}", "slo=none",
                     "cluster.plan_ahead=true", "cluster.cache_outputs=true", "hardware=measured",
                     f"hardware.path={Path(scratch) / 'profile.json'}",
                     *(f"{key}={value}" for key, value in settings.items() if key != "cluster.mixed")]  # fmt: skip
        work = Calibration(log, SHARE, FITTED, arguments)
        whole = work.replayed(dict(START), len(work.trace))
        rows = _rows(run, "all, nothing fitted", errors(work.served, {"replayed": whole}))
        work.run()
        after = work.replayed(work.fitted.values, len(work.trace)).slice(work.first)
        before = whole.slice(work.first)
        rest = work.served.slice(work.first)
        rows += _rows(run, "last two thirds, nothing fitted", errors(rest, {"replayed": before}))
        rows += _rows(run, "last two thirds, calibrated", errors(rest, {"replayed": after}))
    return rows, beside(work.served, whole, run.name)


def beside(served: pl.DataFrame, replayed: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return a row a request: run, recorded_* and replayed_* of TTFT, TPOT and E2E."""
    columns = ["ttft_s", "tpot_s", "e2e_s"]
    points = pl.concat([served.select(pl.col(columns).name.prefix("recorded_")),
                        replayed.select(pl.col(columns).name.prefix("replayed_"))], how="horizontal")  # fmt: skip
    return points.with_columns(run=pl.lit(name))


def own_blocks(log: logs.Log, block_tokens: int = 16) -> logs.Log:
    """Give each prompt blocks of its own where a log knows none: what is preempted can find its prompt again."""
    if "prefix_blocks" in log.requests.columns:
        return log
    counts = (log.requests["prompt_tokens"] // block_tokens).to_numpy()
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    own = [list(range(start, start + count)) for start, count in zip(starts.tolist(), counts.tolist(), strict=True)]
    blocks = pl.Series("prefix_blocks", own, pl.List(pl.Int64))
    return replace(log, requests=log.requests.with_columns(blocks), block_tokens=block_tokens)


def _rows(run: Run, part: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"run": run.name, "part": part, "metric": row["metric"], "statistic": row["statistic"],
             "recorded": row["recorded"], "replayed": row["replayed"], "error": row["replayed_error"]}
            for row in found]  # fmt: skip

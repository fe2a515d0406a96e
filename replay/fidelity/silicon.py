"""Validate built profiles on measured end-to-end points: replay each closed loop, compare TTFT and TPOT.

The rule, for every point alike: profiles come from kernel tables of its GPU, of its own serving engine where the folder
has them and else of vLLM; the closed loop is replayed by the engine (`replay.fidelity.silicon_replay`); nothing is
tuned for a point. What the host adds (`replay.fidelity.hosts`: two numbers for each serving engine and kind of launch,
the mean time of the front end for each GPU and kind of launch) was fitted once, on the half of the points called "fit";
errors are to be read on the other half, "held out".
"""

import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from replay.errors import ConfigError
from replay.fidelity import kernels
from replay.fidelity.asked import Asked
from replay.fidelity.hosts import FIT, HELD_OUT, Host, front_of, host_of
from replay.fidelity.kernel_tables import Tables, layout_of
from replay.fidelity.silicon_points import Point, point, read
from replay.fidelity.silicon_replay import predict
from replay.hardware.profile import Profile

STRATUM = ("system", "model_path", "backend", "mode")
INSTEAD = "vllm"  # whose kernels stand in where an engine's own were not measured
SCHEMA = {"id": pl.String, "gpu": pl.String, "model": pl.String, "backend": pl.String, "mode": pl.String,
          "launch": pl.String, "tp": pl.Int64, "concurrency": pl.Int64, "batch": pl.Float64,
          "prompt_tokens": pl.Int64, "output_tokens": pl.Int64,
          "ttft_s": pl.Float64, "ttft_predicted_s": pl.Float64, "ttft_error": pl.Float64, "tpot_s": pl.Float64,
          "tpot_predicted_s": pl.Float64, "tpot_error": pl.Float64, "split": pl.String,
          "reason": pl.String}  # fmt: skip


def validate(folder: str | Path, limit: int | None = None, seed: int = 0, host: Host | None = None,
             front_s: float | None = None, only: pl.Expr | None = None) -> pl.DataFrame:  # fmt: skip
    """Predict measured points and say how far off each is.

    folder  : kernel tables with the measured points beside them
    limit   : points to replay, drawn from each GPU, model, engine and mode in proportion; None for all
    seed    : of the draw, and of the lengths of requests
    host    : for all points, instead of what was fitted; front_s likewise: mean time of a request in the front end
    only    : which rows of the measured points to look at, None for all
    returns : one row a point, in the order of the file: measured, predicted, signed relative error, and the half it
              belongs to; or the reason why it cannot be predicted. Points that a limit leaves out have no row
    raises  : ConfigError for a folder without tables or points
    """
    layout = layout_of(folder)
    if layout is None:
        raise ConfigError(f"'{folder}' must hold kernel tables (data/<gpu>/gemm/...), but does not.")
    frame = read(folder) if only is None else read(folder).filter(only)
    profiles = _Profiles(folder)
    known = kernels.gpu_names(folder)
    rows: list[dict[str, Any]] = []
    candidates: list[tuple[dict[str, Any], Point]] = []
    for row in frame.iter_rows(named=True):
        try:
            candidates.append((row, _point(row, known)))
        except ConfigError as error:
            rows.append(_row(row, None) | {"reason": _reason(error)})
    for row, one in candidates if limit is None else drawn(candidates, limit, seed):
        try:
            adds = host_of(one.backend, one.launch) if host is None else host
            mean_s = front_of(row["system"], one.launch) if front_s is None else front_s
            rows.append(_row(row, one) | _compared(one, *predict(one, partial(profiles.of, adds), seed, mean_s)))
        except ConfigError as error:
            rows.append(_row(row, one) | {"reason": _reason(error)})
    order = {name: index for index, name in enumerate(frame["id"])}
    return pl.DataFrame(sorted(rows, key=lambda row: order[row["id"]]), schema=SCHEMA)


def summary(frame: pl.DataFrame, by: tuple[str, ...] = ("gpu", "model", "backend"), split: str | None = HELD_OUT,
            ) -> pl.DataFrame:  # fmt: skip
    """Reduce predicted points to errors.

    frame   : as `validate` returns
    split   : the half that counts, None for both
    returns : one row a group, and one for all ("all" in every column of `by`): points, and median and ninth decile of
              the absolute relative error of TPOT and of TTFT
    """
    done = frame.filter(pl.col("reason").is_null())
    done = done if split is None else done.filter(split=split)
    numbers = [pl.len().alias("points"), *(
        pl.col(f"{metric}_error").abs().quantile(share, "linear").alias(f"{metric}_error_{name}")
        for metric in ("tpot", "ttft") for name, share in (("p50", 0.5), ("p90", 0.9)))]  # fmt: skip
    groups = done.group_by(*by).agg(*numbers).sort(*by)
    every = done.select(*(pl.lit("all").alias(name) for name in by), *numbers).unique()
    return pl.concat([groups, every]) if len(done) else groups


def reasons(frame: pl.DataFrame) -> pl.DataFrame:
    """Count the points that cannot be predicted, by reason, the commonest first."""
    return (frame.filter(pl.col("reason").is_not_null()).group_by("reason").agg(points=pl.len())
            .sort("points", "reason", descending=[True, False]))  # fmt: skip


def half(name: str) -> str:
    """Return the half that a point belongs to, by a hash of its id."""
    return FIT if zlib.crc32(f"half:{name}".encode()) % 2 == 0 else HELD_OUT


def drawn(candidates: list[tuple[dict[str, Any], Point]], limit: int, seed: int
          ) -> list[tuple[dict[str, Any], Point]]:  # fmt: skip
    """Draw points so that each stratum keeps its share; the same for the same seed.

    candidates : (row, point)
    returns    : at most `limit` of them
    """
    strata: dict[tuple[Any, ...], list[int]] = {}
    for index, (row, _) in enumerate(candidates):
        strata.setdefault(tuple(row[name] for name in STRATUM), []).append(index)
    keyed = []
    for members in strata.values():
        shuffled = sorted(members, key=lambda index: zlib.crc32(f"{seed}:{candidates[index][1].id}".encode()))
        keyed += [((place + 0.5) / len(members), index) for place, index in enumerate(shuffled)]
    return [candidates[index] for index in sorted(index for _, index in sorted(keyed)[:limit])]


class _Profiles:
    """Profiles built once for each instance, from the engine's own kernels or those that stand in."""

    def __init__(self, folder: str | Path) -> None:
        self.folder, self.layout = folder, layout_of(folder)
        self.made: dict[Asked, Profile | ConfigError] = {}

    def of(self, host: Host, asked: Asked) -> Profile:
        """Return the profile of an instance, or raise again why there is none."""
        wanted = replace(asked, host_s=host.iteration_s, host_request_s=host.request_s)
        if not (self.layout and asked.gpu and Tables(self.layout, asked.gpu, asked.backend).has("gemm_perf")):
            wanted = replace(wanted, backend=INSTEAD, version=None)
        if wanted not in self.made:
            try:
                self.made[wanted] = kernels.build(self.folder, wanted)
            except ConfigError as error:
                self.made[wanted] = error
        found = self.made[wanted]
        if isinstance(found, ConfigError):
            raise found
        return found


def _point(row: Mapping[str, Any], known: list[str]) -> Point:
    if row["system"] not in known:
        raise ConfigError(f"no kernel tables of {row['system']}")
    return point(row)


def _row(row: Mapping[str, Any], one: Point | None) -> dict[str, Any]:
    found = {"id": row["id"], "gpu": row["system"], "backend": row["backend"], "mode": row["mode"],
             "model": one.model if one else row["model_path"], "split": half(row["id"])}  # fmt: skip
    if one:
        asked, number_of = one.decode or one.prefill
        found |= {"launch": one.launch, "tp": one.prefill[0].tp, "concurrency": one.concurrency,
                  "batch": one.concurrency / (asked.ep * number_of), "prompt_tokens": one.prompt_tokens,
                  "output_tokens": one.output_tokens, "ttft_s": one.ttft_s, "tpot_s": one.tpot_s}  # fmt: skip
    return found


def _compared(one: Point, ttft_s: float, tpot_s: float) -> dict[str, Any]:
    return {"ttft_predicted_s": ttft_s, "ttft_error": ttft_s / one.ttft_s - 1,
            "tpot_predicted_s": tpot_s, "tpot_error": tpot_s / one.tpot_s - 1}  # fmt: skip


def _reason(error: ConfigError) -> str:
    """Shorten a sentence of a refusal to what is to be counted."""
    text = str(error)
    for mark, reason in (("GB of weights", "the model does not fit in memory"),
                         ("all-reduce over", "no all-reduce over so many GPUs was measured"),
                         ("experts must be spread", "the stated split of the experts does not add up"),
                         ("divide the", "the stated split does not divide the model"),
                         ("GEMMs ", "no GEMMs in these numbers were measured"),
                         ("experts with", "the experts were not measured in this split and these numbers"),
                         ("the experts of", "the experts were not measured in this split and these numbers"),
                         ("_attention_perf", "no attention of this shape was measured"),
                         ("GPUs must have been", "no collective over so many GPUs was measured")):  # fmt: skip
        if mark in text:
            return reason
    return text

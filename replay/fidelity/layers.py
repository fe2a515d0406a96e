"""Profiles from per-layer times: dense layers by tokens, attention by chunk and KV, head and sampler by requests.

An iteration of n tokens is  embedding + layers (dense + attention) + head + sampler, each interpolated linearly between
its measured points. The engine's form is fitted to that: what depends on all tokens is a table of its own; attention is
split into what a batch size, a prompt chunk's squares and the KV of decoding requests cost, with and without prefill.
Iterations without prefill run as captured graphs, padded to the next captured size.

source : layout of LLMServingSim's profiler (casys-kaist/LLMServingSim); CUDA graph sizes as vLLM captures them
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.optimize import lsq_linear

from replay.errors import ConfigError
from replay.fidelity.asked import Asked
from replay.fidelity.experts import ALONE, Spread, exchange_us, experts_us, interpolated
from replay.hardware.model import Model, model_of
from replay.hardware.profile import Profile, table

CAPTURED = (1, 2, 4, *range(8, 513, 8))
ONCE = ("embedding", "final_layernorm")
US = 10**6  # ps
MOST_TOKENS = 2**20
FEW = np.arange(1, 257)  # tokens at which the number of distinct experts still rises
KNOTS = 24  # of a table over KV tokens
POWER = 0.5  # errors are weighed between relative and absolute
# What is fitted: contexts from 128 to 4,096 tokens, 2^18 of them at most in a batch, chunks from 128 tokens.
USUAL = (
    ((pl.col("n_decode") == 0) | pl.col("kv_decode").is_between(128, 4096))
    & (pl.col("n_decode") * pl.col("kv_decode") <= 2**18)
    & ((pl.col("prefill_chunk") == 0) | (pl.col("prefill_chunk") >= 128))
    & (pl.col("kv_prefill") <= 8192)
)
MEAN_CONTEXT = 1024.0  # at which a batch of so many KV tokens has so many requests
UNEQUAL = pl.col("kv_big").is_between(2 * pl.col("kv_mean"), 4.5 * pl.col("kv_mean")) & pl.col("kv_mean").is_between(
    300, 3000
)  # contexts as unequal as in chat: the longest is about three times the mean


@dataclass(frozen=True, eq=False)
class Layers:
    """Measured times of one model on one GPU [us].

    dense        : tokens, and what one layer takes without attention and experts
    once         : tokens, and what an iteration takes once
    experts      : tokens, activated experts, time of the experts of a layer; None for a dense model
    skew         : "pure" or "mixed" -> batch sizes, and how many times as long attention takes for unequal contexts
    attention    : prefill_chunk, kv_prefill, n_decode, kv_decode, time_us of one layer
    per_sequence : sequences, time of head and sampler
    """

    folder: Path
    dense: tuple[np.ndarray, np.ndarray]
    once: tuple[np.ndarray, np.ndarray]
    attention: pl.DataFrame
    per_sequence: tuple[np.ndarray, np.ndarray]
    experts: pl.DataFrame | None
    skew: dict[str, tuple[np.ndarray, np.ndarray]]


def recognises(folder: str | Path) -> bool:
    """Whether a folder holds per-layer times of one model and degree: dense, attention and per_sequence.parquet."""
    return all((Path(folder) / f"{name}.parquet").exists() for name in ("dense", "attention", "per_sequence"))


def build(folder: str | Path, asked: Asked) -> Profile:
    """Return the profile of a folder such as RTX4090/meta-llama/Llama-3.1-8B/bf16/tp1.

    asked  : the model, whose shape says the layers; ep; host_s, 0 for None
    raises : ConfigError where a table is missing
    """
    model = model_of(asked.model_node())
    name = f"{asked.gpu or Path(folder).parts[-5]}_{model.name}"
    profile = profile_of(read(Path(folder)), model, asked.host_s or 0.0, Spread(asked.ep), name)
    return replace(profile, price_per_hour=asked.price_per_gpu_hour)


def read(folder: Path) -> Layers:
    """Read the tables of a folder such as RTX4090/meta-llama/Llama-3.1-8B/bf16/tp1.

    raises : ConfigError where a table is missing or has other columns
    """
    try:
        dense = pl.read_parquet(folder / "dense.parquet")
        dense = dense.pivot(on="layer", index="tokens", values="time_us").sort("tokens")
        heads = pl.read_parquet(folder / "per_sequence.parquet").group_by("sequences").agg(
            pl.col("time_us").sum()).sort("sequences")  # fmt: skip
        attention = pl.read_parquet(folder / "attention.parquet").cast(pl.Float64)
        moe = folder / "moe.parquet"
        experts = pl.read_parquet(moe) if moe.exists() else None
        layer = dense.select(pl.sum_horizontal(pl.exclude("tokens", *ONCE)) + pl.col("layernorm")).to_series()
        once = dense.select(pl.sum_horizontal(*ONCE)).to_series()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"'{folder}' must hold per-layer times as LLMServingSim's profiler writes them, but "
                          f"{str(error).splitlines()[0]}.") from None  # fmt: skip
    tokens = dense["tokens"].to_numpy().astype(float)
    return Layers(folder, (tokens, layer.to_numpy()), (tokens, once.to_numpy()), attention,
                  (heads["sequences"].to_numpy().astype(float), heads["time_us"].to_numpy()), experts,
                  _skew(folder / "skew.parquet"))  # fmt: skip


def _skew(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    if not path.exists():
        return {}
    rows = pl.read_parquet(path).filter(UNEQUAL).with_columns(times=pl.col("t_skew_us") / pl.col("t_mean_us"))
    found = rows.group_by("regime", "n").agg(pl.col("times").median()).sort("n")
    return {name: (part["n"].to_numpy().astype(float), np.maximum(1.0, part["times"].to_numpy()))
            for (name,), part in found.group_by("regime")}  # fmt: skip


def profile_of(layers: Layers, model: Model, host_s: float = 0.0, spread: Spread = ALONE, name: str = "layers"
               ) -> Profile:  # fmt: skip
    """Compile measured layers into a profile.

    host_s  : what an iteration takes beside the GPU
    spread  : ranks that share the experts of a mixture and step together; a profile of several is for cluster.ranks
    returns : Profile without memory limit or price; its interpolation_error is the median over the measured points of
              attention, as a share of the iteration they belong to
    """
    decode = _fit_decode(layers, model, spread)
    mixed = _fit_mixed(layers, model, spread)
    host_us = host_s * 1e6
    error = float(np.median(np.abs(np.concatenate([decode.errors, mixed.errors]))))
    return Profile(
        name=name,
        token_table=_tokens(layers, model, spread, mixed, host_us),
        decode_table=_decodes(layers, model, spread, decode, host_us),
        ranks=spread.ranks,
        **_shared(layers, model, spread),
        kv_table=_rising(_unequal(layers, "pure", decode.kv)),
        mixed_kv_table=_rising(_unequal(layers, "mixed", mixed.kv)),
        prefill_token_ps=0,
        prefill_token_sq_fs=round(mixed.square_us * US * 1000),
        decode_request_ps=0,
        mixed_request_ps=round(mixed.request_us * US),
        kv_token_bytes=model.kv_token_bytes,
        kv_capacity_tokens=None,
        gpus=1,
        price_per_hour=0.0,
        nic_bytes_per_s=25e9,
        nic_latency_s=1e-5,
        interpolation_error=error,
        provenance=f"per-layer times of {'/'.join(layers.folder.parts[-4:])}, host {host_s:g} s an iteration",
    )


@dataclass(frozen=True)
class Fit:
    """Attention of all layers [us]: by batch, by KV tokens, a square, a decoding request; relative errors."""

    batch: tuple[np.ndarray, np.ndarray]
    kv: tuple[np.ndarray, np.ndarray]
    square_us: float
    request_us: float
    errors: np.ndarray


def dense_us(layers: Layers, tokens: np.ndarray, model: Model, spread: Spread = ALONE) -> np.ndarray:
    """Return what an iteration takes for its tokens but for attention: layers, embedding, last norm.

    Experts count where a rank has them all; what ranks share is in `shared_us`.
    """
    found = model.layers * interpolated(*layers.dense, tokens) + interpolated(*layers.once, tokens)
    return found if spread.ranks > 1 else found + shared_us(layers, tokens, model, spread)


def shared_us(layers: Layers, tokens: np.ndarray, model: Model, spread: Spread) -> np.ndarray:
    """Return what the experts take, and the exchange between ranks that have as many tokens each."""
    if layers.experts is None:
        return np.zeros(len(tokens))
    each = experts_us(layers.experts, spread.ranks * tokens, model, spread.ranks) + exchange_us(tokens, model, spread)
    return model.layers * each


def whole_us(layers: Layers, tokens: np.ndarray, model: Model, spread: Spread) -> np.ndarray:
    """Return the same with what ranks share, all ranks alike."""
    found = dense_us(layers, tokens, model, spread)
    return found + shared_us(layers, tokens, model, spread) if spread.ranks > 1 else found


def heads_us(layers: Layers, sequences: np.ndarray) -> np.ndarray:
    """Return what the output projection and the sampler take."""
    return interpolated(*layers.per_sequence, sequences)


def _fit_decode(layers: Layers, model: Model, spread: Spread) -> Fit:
    rows = layers.attention.filter((pl.col("prefill_chunk") == 0) & (pl.col("n_decode") > 0), USUAL)
    batch, each, time = (rows[name].to_numpy() for name in ("n_decode", "kv_decode", "time_us"))
    rest = whole_us(layers, padded(batch), model, spread) + heads_us(layers, batch)
    return _fitted(batch, batch * each, {}, model.layers * time, rest)


def _fit_mixed(layers: Layers, model: Model, spread: Spread) -> Fit:
    rows = layers.attention.filter(pl.col("prefill_chunk") > 0, USUAL)
    names = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")
    chunk, before, batch, each, time = (rows[name].to_numpy() for name in names)
    squares = (before + chunk) ** 2 - before**2
    rest = whole_us(layers, chunk + batch, model, spread) + heads_us(layers, batch + 1)
    return _fitted(chunk + batch, batch * each, {"square": squares, "request": batch}, model.layers * time, rest)


def _fitted(size: np.ndarray, kv: np.ndarray, others: dict[str, np.ndarray], time: np.ndarray,
            rest: np.ndarray) -> Fit:  # fmt: skip
    """Fit  time = batch(size) + kv_table(kv) + others  with rising tables, by the relative error of the iteration."""
    sizes, knots = _some(np.unique(size)), _some(np.unique(np.append(kv, 0.0)))
    columns = [np.ones(len(size)), *_ramps(size, sizes), *_ramps(kv, knots)]
    columns += list(others.values())
    design = np.stack(columns, axis=1)
    weight = (time + rest) ** -POWER
    scale = np.maximum((design * weight[:, None]).max(axis=0), 1e-300)
    solved = lsq_linear(design * weight[:, None] / scale, time * weight, bounds=(0.0, np.inf)).x / scale
    errors = (design @ solved - time) / (time + rest)
    first = len(sizes)
    batch = solved[0] + np.concatenate([[0.0], np.cumsum(solved[1:first] * np.diff(sizes))])
    kv_values = np.concatenate([[0.0], np.cumsum(solved[first : first + len(knots) - 1] * np.diff(knots))])
    last = dict(zip(others, solved[len(solved) - len(others) :], strict=True))
    return Fit((sizes, batch), (knots, kv_values), last.get("square", 0.0), last.get("request", 0.0), errors)


def _some(values: np.ndarray) -> np.ndarray:
    """Return a few of sorted values, evenly among them: between knots without data a slope would be anybody's guess."""
    return values[np.unique(np.linspace(0, len(values) - 1, KNOTS).round().astype(int))]


def _ramps(x: np.ndarray, knots: np.ndarray) -> list[np.ndarray]:
    """Return for each interval of knots how much of it lies below x; the last goes on."""
    ends = np.append(knots[1:-1], np.inf)
    return [np.clip(x, low, high) - low for low, high in zip(knots[:-1], ends, strict=True)]


def _unequal(layers: Layers, regime: str, kv: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return what KV costs where contexts are unequal, by the batch size that so many tokens usually belong to."""
    if regime not in layers.skew:
        return kv
    return kv[0], kv[1] * np.interp(kv[0] / MEAN_CONTEXT, *layers.skew[regime])


def padded(batch: np.ndarray) -> np.ndarray:
    """Return the captured graph size that a batch without prefill runs as; beyond the largest its own."""
    sizes = np.array(CAPTURED, float)
    place = np.searchsorted(sizes, batch)
    return np.where(place < len(sizes), sizes[np.minimum(place, len(sizes) - 1)], batch)


def _decodes(layers: Layers, model: Model, spread: Spread, fit: Fit, host_us: float) -> np.ndarray:
    """Return the table of iterations without prefill: a step at each captured size."""
    sizes = np.arange(1, CAPTURED[-1] + 1, dtype=float)
    batch = interpolated(*fit.batch, sizes)
    values = dense_us(layers, padded(sizes), model, spread) + heads_us(layers, sizes) + batch + host_us
    starts = [1, *(size + 1 for size in CAPTURED[:-1])]
    chosen = np.maximum.accumulate(values * US)
    rows, before = [], 0
    for start, end in zip(starts, CAPTURED, strict=True):
        base, last = round(float(chosen[start - 1])), round(float(chosen[end - 1]))
        base = max(base, before)
        slope = max(0, last - base) // max(1, end - start) if end > start else 0
        rows.append((start if start > 1 else 0, base, slope))
        before = base + slope * (end + 1 - start)
    far = float(values[-1] - values[-17]) / 16 * US
    rows.append((CAPTURED[-1] + 1, max(before, rows[-1][1] + rows[-1][2]), max(0, round(far))))
    return table(rows)


def _shared(layers: Layers, model: Model, spread: Spread) -> dict[str, Any]:
    """Return the tables of what ranks in step share, none for one rank or a model without experts."""
    if spread.ranks == 1 or layers.experts is None:
        return {}
    counts = np.unique(np.concatenate([FEW, spread.ranks * np.unique(layers.experts["tokens"].to_numpy())]))
    experts = model.layers * experts_us(layers.experts, counts.astype(float), model, spread.ranks)
    none_us, one_us = model.layers * exchange_us(np.array([0.0, 1.0]), model, spread)
    sizes = np.array(CAPTURED, float)
    captured = np.maximum.accumulate(shared_us(layers, sizes, model, spread) * US)
    starts = [0, *(size + 1 for size in CAPTURED)]
    far = round(float(captured[-1] - captured[-2]) / (CAPTURED[-1] - CAPTURED[-2]))
    slopes = [*(0 for _ in CAPTURED), far]
    values = [round(float(x)) for x in [*captured, captured[-1]]]
    return {
        "together_table": _rising((counts, experts)),
        "fullest_table": table([(0, round(float(none_us) * US), round(float(one_us - none_us) * US))]),
        "captured_table": table(zip(starts, values, slopes, strict=True)),
    }


def _tokens(layers: Layers, model: Model, spread: Spread, fit: Fit, host_us: float) -> np.ndarray:
    """Return the table of iterations with prefill, by all their tokens."""
    points = np.unique(np.concatenate([layers.dense[0], fit.batch[0]]))
    points = points[(points >= 1) & (points <= MOST_TOKENS)]
    few = heads_us(layers, np.maximum(1.0, np.minimum(points, 8.0)))
    values = dense_us(layers, points, model, spread) + interpolated(*fit.batch, points) + few + host_us
    return _rising((points, values))


def _rising(points: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return a table through points [tokens, us] that never falls."""
    x = points[0].astype(np.int64)
    y = np.maximum.accumulate(np.rint(points[1] * US)).astype(np.int64)
    rows = [(int(a), int(base), int((following - base) // (b - a)))
            for a, b, base, following in zip(x[:-1], x[1:], y[:-1], y[1:], strict=True)]  # fmt: skip
    last = rows[-1][2] if rows else 0
    rows.append((int(x[-1]), int(y[-1]), last))
    if rows[0][0] > 0:
        rows[0] = (0, max(0, rows[0][1] - rows[0][2] * rows[0][0]), rows[0][2])
    return table(rows)


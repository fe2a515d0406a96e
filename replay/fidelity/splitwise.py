"""Profiles from Splitwise's measured table: prompt and token times of two models on A100 and H100 nodes.

source : Splitwise (Patel et al., ISCA 2024), the table of its simulator: every point measured five times or more
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from replay.errors import ConfigError
from replay.fidelity.asked import Asked
from replay.hardware.conf import load
from replay.hardware.points import Measured, tables
from replay.hardware.profile import Profile
from replay.hardware.roofline import gpu_of, model_of, prefill_token_sq_s, roofline

FILE = "perf_model.csv"
POINT = ("model", "hardware", "tensor_parallel", "prompt_size", "batch_size", "token_size")
COLUMNS = (*POINT, "prompt_time", "token_time")
PROMPT_TOKENS = 512  # of every batch, and of every long output
OUTPUT_TOKENS = 128  # of every point but the long outputs
CAPPED = "-pcap"
MS = 1e-3


@dataclass(frozen=True)
class Curves:
    """What was measured of one model on one GPU with one tp: medians of the repeats, seconds.

    prompt_s  : prompt tokens -> time of a prompt alone
    batch_s   : requests -> time of so many prompts of 512 tokens at once
    context_s : prompt tokens -> time per token of one request
    token_s   : requests -> time per token of so many requests with prompts of 512 tokens
    long_s    : output tokens -> time per token of one request with a prompt of 512 tokens
    """

    model: str
    gpu: str
    tp: int
    prompt_s: Mapping[int, float]
    batch_s: Mapping[int, float]
    context_s: Mapping[int, float]
    token_s: Mapping[int, float]
    long_s: Mapping[int, float]

    @property
    def name(self) -> str:
        """Model, GPU and tp as one word."""
        return f"{self.model} {self.gpu} TP{self.tp}"


def recognises(folder: str | Path) -> bool:
    """Tell whether a folder, or a file, holds Splitwise's table."""
    path = _file(folder)
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return set(COLUMNS) <= set(file.readline().strip().split(","))


def build(folder: str | Path, asked: Asked) -> Profile:
    """Return the profile of one GPU, model and tp of the table.

    A prefill costs what its prompt alone does, straight between the measured sizes; beyond 8192 tokens the batches
    continue the curve. Arithmetic of attention is told apart as of the GPU's spec sheet, so that chunks of a long
    prompt cost more. A decode costs what its batch does, and its context by the slope of single requests. Where noise
    lets more tokens cost less, neighbours are pooled. Memory, links, price and power are those of conf/hardware.

    asked  : names as in the table or in conf: "h100" is h100-80gb
    raises : ConfigError where the table has no such points
    """
    if asked.ep != 1:
        raise ConfigError(f"Splitwise's table has no expert parallelism, but ep is {asked.ep}. Leave it at 1.")
    return profile_of(chosen(curves(folder), asked))


def profile_of(curve: Curves) -> Profile:
    """Return the profile that goes through the measured points of a curve."""
    gpu_node = {**load("hardware", curve.gpu.split("-")[0]), "tp": curve.tp}
    model_node = load("model", curve.model.replace("-", "_"))
    square_s = prefill_token_sq_s(gpu_of(gpu_node), model_of(model_node))
    base = roofline(gpu_node, model_node)
    capped = curve.gpu.endswith(CAPPED)
    return replace(
        base,
        name=f"{curve.tp}x{curve.gpu}/{curve.model}",
        **tables(Measured(_prefills(curve, square_s), _decodes(curve), square_s)),
        interpolation_error=0.0,
        provenance=f"measured: Splitwise (ISCA 2024), {curve.name}; memory, links and price of {base.name}",
        idle_w=None if capped else base.idle_w,
        busy_w=None if capped else base.busy_w,
    )


def curves(folder: str | Path) -> list[Curves]:
    """Read all curves of the table, by model, GPU and tp.

    raises : ConfigError as `read`
    """
    times = [pl.col("prompt_time").median() * MS, pl.col("token_time").median() * MS]
    medians = read(folder).group_by(POINT).agg(times).sort(POINT)
    return [_curves(key, group) for key, group in medians.group_by(POINT[:3], maintain_order=True)]


def read(folder: str | Path) -> pl.DataFrame:
    """Read the rows of the table, times in milliseconds.

    raises : ConfigError where it cannot be read
    """
    path = _file(folder)
    try:
        rows = pl.read_csv(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"Splitwise's table must be readable, but {path.name} is not: {error}.") from None
    if missing := [name for name in COLUMNS if name not in rows.columns]:
        raise ConfigError(f"Splitwise's table must have the columns {', '.join(COLUMNS)}, but {path.name} lacks "
                          f"{missing[0]}.")
    return rows


def chosen(found: Sequence[Curves], asked: Asked) -> Curves:
    """Return the one curve that is asked for.

    raises : ConfigError naming what there is, for none or more than one
    """
    def fits(curve: Curves) -> bool:
        gpu, model = _plain(asked.gpu), _plain(asked.model)
        return (gpu in ("", _plain(curve.gpu), _plain(curve.gpu).replace("80gb", ""))
                and model in ("", _plain(curve.model)) and curve.tp == asked.tp)  # fmt: skip

    fitting = [curve for curve in found if fits(curve)]
    if len(fitting) == 1:
        return fitting[0]
    wanted = f"{asked.model or 'any model'} {asked.gpu or 'any GPU'} TP{asked.tp}"
    near = difflib.get_close_matches(wanted, [curve.name for curve in found], n=1, cutoff=0.0)
    what = "no points" if not fitting else f"{len(fitting)} curves"
    known = ", ".join(curve.name for curve in found)
    raise ConfigError(f"Splitwise's table must have one curve of {wanted}, but has {what}. Nearest: {near[0]}; all: "
                      f"{known}.")  # fmt: skip


def rising(values: Sequence[float]) -> list[float]:
    """Pool neighbours that fall into their mean until nothing falls (isotonic regression)."""
    pools: list[list[float]] = []
    for value in values:
        pools.append([value])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    return [float(np.mean(pool)) for pool in pools for _ in pool]


def middle_tokens(prompt_tokens: int, output_tokens: int = OUTPUT_TOKENS) -> int:
    """Return the context in the middle of an output, at which a decode costs what its tokens do on average."""
    return prompt_tokens + output_tokens // 2


def _prefills(curve: Curves, square_s: float) -> list[tuple[int, int, float]]:
    longest = max(curve.prompt_s)
    seconds = dict(curve.prompt_s)
    common = curve.batch_s.get(longest // PROMPT_TOKENS)
    for requests, batch_s in curve.batch_s.items():
        if common is not None and requests * PROMPT_TOKENS > longest:
            seconds[requests * PROMPT_TOKENS] = batch_s * curve.prompt_s[longest] / common
    sizes = sorted(seconds)
    without = rising([seconds[tokens] - square_s * tokens**2 for tokens in sizes])
    return [(tokens, 0, rest + square_s * tokens**2) for tokens, rest in zip(sizes, without, strict=True)]


def _decodes(curve: Curves) -> list[tuple[int, int, float]]:
    contexts = [middle_tokens(tokens) for tokens in curve.context_s]
    slope_s = max(0.0, float(np.polyfit(contexts, list(curve.context_s.values()), 1)[0]))
    middle = middle_tokens(PROMPT_TOKENS)
    batches = {1: curve.context_s[PROMPT_TOKENS], **curve.token_s}
    sizes = sorted(batches)
    rest = dict(zip(sizes, rising([batches[n] - slope_s * n * middle for n in sizes]), strict=True))
    alone = [(1, context, rest[1] + slope_s * context) for context in (middle, max(contexts))]
    return alone + [(n, middle, rest[n] + slope_s * n * middle) for n in sizes if n > 1]


def _curves(key: tuple[Any, ...], rows: pl.DataFrame) -> Curves:
    def of(where: pl.Expr, by: str, value: str) -> dict[int, float]:
        return {int(row[by]): float(row[value]) for row in rows.filter(where).to_dicts()}

    usual, alone = pl.col("token_size") == OUTPUT_TOKENS, pl.col("batch_size") == 1
    short = (pl.col("prompt_size") == PROMPT_TOKENS) & alone
    batched = usual & (pl.col("prompt_size") == PROMPT_TOKENS) & ~alone
    model, gpu, tp = key
    curve = Curves(
        model=model,
        gpu=gpu,
        tp=tp,
        prompt_s=of(usual & alone, "prompt_size", "prompt_time"),
        batch_s=of(batched, "batch_size", "prompt_time"),
        context_s=of(usual & alone, "prompt_size", "token_time"),
        token_s=of(batched, "batch_size", "token_time"),
        long_s=of(short & ~usual, "token_size", "token_time"),
    )
    # More prompts cannot take a fraction of the time: such a batch did not fit in memory, and something else was timed.
    most_s = {n: max(seconds for m, seconds in curve.batch_s.items() if m <= n) for n in curve.batch_s}
    kept = [n for n, seconds in curve.batch_s.items() if seconds >= 0.5 * most_s[n]]
    return replace(curve, batch_s={n: curve.batch_s[n] for n in kept}, token_s={n: curve.token_s[n] for n in kept})


def _file(folder: str | Path) -> Path:
    path = Path(folder)
    return path / FILE if path.is_dir() else path


def _plain(name: str | None) -> str:
    return "".join(letter for letter in (name or "").lower() if letter.isalnum())

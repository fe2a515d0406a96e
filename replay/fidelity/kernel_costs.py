"""What single kernels cost, each read from its table by the rule of `replay.fidelity.interpolate`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from replay.errors import ConfigError
from replay.fidelity.interpolate import Family, between, curve, family
from replay.fidelity.kernel_tables import Tables

UNEVEN = "power_law_1.01"  # load of experts, the mildest uneven one measured; trained routers are not balanced
SMALLEST_PADDED, LARGEST_PADDED = 16, 512  # tokens; source : vLLM, cudagraph_capture_sizes
LAUNCHED = 10.0  # a kernel starts within a few microseconds, a launch from Python takes tens of them
WINDOW, FULL = "window_size", 0  # attention over the whole context


@dataclass
class Costs:
    """The kernels of one GPU, read when first asked for.

    beyond : table -> how many times beyond its last point it was asked, only where it was
    """

    tables: Tables
    beyond: dict[str, float] = field(default_factory=dict)
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    def gemm_s(self, dtype: str, m: np.ndarray, n: int, k: int) -> np.ndarray:
        """Cost a matrix product (m, k) x (k, n).

        m       : float64 (num,), read only
        returns : float64 (num,) [s]: interpolated along m, then between the neighbouring n and k
        """
        at_n, at_k, curves = self._of(("gemm", dtype), lambda: self._gemms(dtype))
        self._note("gemm", max(float(np.max(m)) / curves[0][0][0][-1], n / at_n[-1], k / at_k[-1]))
        low_n, low_k = _bracket(at_n, n), _bracket(at_k, k)
        of_n = []
        for i in low_n:
            of_k = np.stack([between(m, *curves[i][j]) for j in low_k])
            of_n.append(_across(at_k[low_k], of_k, k))
        return _across(at_n[low_n], np.stack(of_n), n)

    def context_s(self, shape: Mapping[str, Any], prompts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Cost the attention of whole prompts, all of the same length.

        shape           : as `attention_shape`, or as `latent_shape` for the latent kind
        prompts, tokens : float64 (num,), read only
        returns         : float64 (num,) [s]
        """
        return self._attention("context", "isl", shape, prompts, tokens)

    def generation_s(self, shape: Mapping[str, Any], requests: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Cost the attention of decoding requests, all with the same context.

        requests, context : float64 (num,), read only
        returns           : float64 (num,) [s]
        """
        return self._attention("generation", "step", shape, requests, np.maximum(context - 1, 1))

    def experts_s(self, shape: Mapping[str, Any], tokens: np.ndarray) -> np.ndarray:
        """Cost the experts of one layer on one GPU.

        shape   : hidden_size, inter_size, topk, num_experts, moe_tp_size, moe_ep_size, moe_dtype
        tokens  : float64 (num,), of all GPUs that share the experts, read only
        """
        points, values = self._of(("moe", *shape.items()), lambda: self._experts(shape))
        self._note("moe", float(np.max(tokens)) / points[-1])
        return between(tokens, points, values)

    def all_reduce_s(self, gpus: int, numbers: np.ndarray) -> np.ndarray:
        """Cost an all-reduce of `numbers` bf16 numbers on each of some GPUs; the tables count numbers, not bytes."""
        if gpus == 1:
            return np.zeros_like(numbers)
        points, values = self._of(("all_reduce", gpus), lambda: self._all_reduce(gpus))
        return between(numbers, points, values)

    def collective_s(self, name: str, gpus: int, numbers: np.ndarray) -> np.ndarray:
        """Cost an all_gather, reduce_scatter or alltoall of `numbers` bf16 numbers in all over some GPUs."""
        frame = self._of(("nccl",), lambda: self.tables.read("nccl_perf"))
        rows = frame.filter(op_name=name, nccl_dtype="half", num_gpus=gpus)
        _some(rows, f"{name} over {gpus} GPUs", frame, "num_gpus")
        points, values = self._of(("nccl", name, gpus), lambda: _curve(rows, "message_size"))
        return between(numbers, points, values)

    def gemm_dtypes(self) -> list[str]:
        """List the number types of the GEMM table."""
        return sorted(self.tables.read("gemm_perf")["gemm_dtype"].unique())

    def launch_bound(self, dtype: str) -> bool:
        """Return whether GEMMs of a type were timed with their launches from the host rather than from a graph.

        returns : the smallest product takes LAUNCHED times as long as that of another type
        """
        least = self._of(("least",), lambda: dict(
            self.tables.read("gemm_perf").group_by("gemm_dtype").agg(pl.col("seconds").min()).iter_rows()))
        return dtype in least and least[dtype] > LAUNCHED * min(least.values())

    def expert_dtypes(self, shape: Mapping[str, Any]) -> list[str]:
        """List the number types in which experts of a shape were measured; `shape` without moe_dtype."""
        return sorted(self.tables.read("moe_perf").filter(**shape)["moe_dtype"].unique())

    def _attention(self, phase: str, axis: str, shape: Mapping[str, Any], batch: np.ndarray,
                   tokens: np.ndarray) -> np.ndarray:  # fmt: skip
        latent = "gemm_type" in shape or "head_dim" not in shape
        module = f"mla_{phase}_module_perf" if "gemm_type" in shape else f"{phase}_mla_perf"
        table = module if latent else f"{phase}_attention_perf"
        measured: Family = self._of((table, *shape.items()), lambda: self._family(table, axis, shape))
        asked = zip(np.atleast_1d(batch), np.atleast_1d(tokens), strict=True)
        self._note(table.removesuffix("_perf"), max(measured.beyond(float(b), float(t)) for b, t in asked))
        return measured.value(batch, tokens)

    def _family(self, table: str, axis: str, shape: Mapping[str, Any]) -> Family:
        frame = self.tables.read(table)
        optional = () if WINDOW in frame.columns else (WINDOW,)  # tables from before there were windows
        rows = frame.filter(**{key: value for key, value in shape.items() if key not in optional})
        if "attn_dtype" in frame.columns:
            rows = rows.filter(pl.col("attn_dtype") == "bfloat16")
        _some(rows, ", ".join(f"{key} {value}" for key, value in shape.items()) + f" in {table}", frame, "num_heads")
        return family(*(rows[name].to_numpy().astype(np.float64) for name in ("batch_size", axis, "seconds")))

    def _experts(self, shape: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        frame = self.tables.read("moe_perf")
        rows = frame.filter(**shape)
        _some(rows, "experts with " + ", ".join(f"{key} {value}" for key, value in shape.items()), frame, "num_experts")
        uneven = rows.filter(distribution=UNEVEN)
        return _curve(uneven if len(uneven) else rows, "num_tokens")

    def _all_reduce(self, gpus: int) -> tuple[np.ndarray, np.ndarray]:
        frame = self.tables.read("custom_allreduce_perf")
        rows = frame.filter(num_gpus=gpus)
        _some(rows, f"an all-reduce over {gpus} GPUs", frame, "num_gpus")
        if "backend" in rows.columns:  # launched from a graph: of an eager launch the host's time would be counted too
            rows = rows.filter(pl.col("backend").str.ends_with("graph"))
        return _curve(rows, "message_size")

    def _gemms(self, dtype: str) -> tuple[np.ndarray, np.ndarray, list[list[tuple[np.ndarray, np.ndarray]]]]:
        frame = self.tables.read("gemm_perf")
        rows = frame.filter(gemm_dtype=dtype)
        _some(rows, f"GEMMs in {dtype}", frame, "gemm_dtype")
        at_n, at_k = (np.sort(rows[name].unique().to_numpy()) for name in ("n", "k"))
        groups = _curves(rows)
        every = [[groups.get((n, k)) for k in at_k] for n in at_n]
        return at_n, at_k, [[one or _filled(groups, n, k, at_n) for k, one in zip(at_k, row, strict=True)]
                            for n, row in zip(at_n, every, strict=True)]  # fmt: skip

    def _of(self, key: Any, make: Any) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def _note(self, name: str, times: float) -> None:
        if times > 1.0:
            self.beyond[name] = max(self.beyond.get(name, 1.0), float(times))


def _filled(groups: Mapping[Any, Any], n: int, k: int, at_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stand in for the few largest products that were not measured: the nearest n of the same k, in proportion."""
    there = min((one for one in at_n if (one, k) in groups), key=lambda one: abs(np.log(one / n)))
    points, values = groups[(there, k)]
    return points, values * (n / there)


def _curve(rows: pl.DataFrame, axis: str) -> tuple[np.ndarray, np.ndarray]:
    return curve(rows[axis].to_numpy().astype(np.float64), rows["seconds"].to_numpy())


def _curves(rows: pl.DataFrame) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
    """Return (n, k) -> the curve along m: of hundreds of products at once.

    Engines pad iterations of up to LARGEST_PADDED tokens to the sizes of their captured graphs, so that up to there
    only multiples of 8 count. Larger ones have any number of tokens, fifteen in sixteen no multiple of 16, so that
    there a point just above a multiple of 16 counts instead of the multiple, where both were measured.
    """
    m = pl.col("m")
    padded, odd = (m > SMALLEST_PADDED) & (m <= LARGEST_PADDED) & (m % 8 != 0), (m > LARGEST_PADDED) & (m % 16 == 0)
    beside = (m + 1).is_in(rows["m"].unique().implode())
    ordered = rows.filter(~(padded | (odd & beside))).sort("n", "k", "m")
    n, k, tokens, seconds = (ordered[name].to_numpy() for name in ("n", "k", "m", "seconds"))
    first = np.flatnonzero(np.r_[True, (np.diff(n) != 0) | (np.diff(k) != 0)])
    return {(int(n[start]), int(k[start])): curve(tokens[start:end], seconds[start:end])
            for start, end in zip(first, np.r_[first[1:], len(n)], strict=True)}  # fmt: skip


def _bracket(at: np.ndarray, value: float) -> list[int]:
    if value in at:
        return [int(np.searchsorted(at, value))]
    low = int(np.clip(np.searchsorted(at, value) - 1, 0, len(at) - 2))
    return [low, low + 1]


def _across(at: np.ndarray, values: np.ndarray, wanted: float) -> np.ndarray:
    """Interpolate between one or two neighbouring curves in log-log; beyond them their slope goes on."""
    if len(at) == 1:
        return values[0]
    share = np.log(max(wanted, at[0]) / at[0]) / np.log(at[1] / at[0])
    return np.exp(np.log(values[0]) * (1 - share) + np.log(values[1]) * share)


def _some(rows: pl.DataFrame, what: str, frame: pl.DataFrame, column: str) -> None:
    if not len(rows):
        known = ", ".join(str(value) for value in frame[column].unique().sort())
        raise ConfigError(f"{what} must have been measured, but there are none: {column} in the table is {known}. "
                          f"Choose another tp, ep, backend, type of numbers or model.")

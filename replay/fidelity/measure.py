"""The step `measure` of `kvreplay profile`: time the kernels of a model on the local GPU, as tables to build from.

The folders and columns are those of AIConfigurator (ai-dynamo/aiconfigurator), in milliseconds, with the backend torch:
data/<gpu>/{gemm,attention,comm}/torch/<version>/*.parquet, systems/<gpu>.yaml; provenance.json says how it came about.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from replay.errors import ConfigError
from replay.fidelity.arguments import given
from replay.fidelity.kernel_grid import (
    COLLECTIVE_NUMBERS,
    COLLECTIVES,
    COPY_BYTES,
    Attention,
    Grid,
    check,
    grid,
)
from replay.fidelity.kernel_timer import LAUNCHES, REPEATS, Timer, local_timer
from replay.hardware.conf import load
from replay.hardware.fields import count, number
from replay.hardware.model import Model, model_of
from replay.table import show
from replay.write import check_writable, together

DEFAULTS = {"model": "llama3_8b", "dtype": "bf16", "tp": "1", "out": "measured", "gpu": "", "nic_bytes_per_s": "50e9"}
BACKEND, MS = "torch", 1e3
COPIES = ("h2d", "d2h", "d2d")
USAGE = """usage: kvreplay profile measure [model=llama3_8b] [tp=1,2,4,8] [out=FOLDER] [key=value ...]

  model            a dense shape of conf/model: its matrices and attention are timed
  tp               GPUs that share a layer; shards of any number of them are timed on one
  dtype            bf16
  out              folder of the tables (measured); kvreplay profile build reads them with backend=torch
  gpu              folder of the GPU below it; its own name without
  nic_bytes_per_s  of one GPU to other nodes, which is not measured (50e9)"""


@dataclass(frozen=True)
class Plan:
    """What is asked for, checked."""

    model: Model
    splits: tuple[int, ...]
    out: Path
    gpu: str
    nic_bytes_per_s: float


def main(arguments: Sequence[str], timer: Timer | None = None) -> int:
    """Time what the arguments ask for, and write the tables.

    timer   : of a GPU; None for the local one
    returns : exit code
    raises  : ConfigError for an unknown key, a bad value, or a machine without PyTorch or GPU; WriteError
    """
    if any(text in ("-h", "--help") for text in arguments):
        print(USAGE)
        return 0
    plan = read(arguments)
    timer = timer or local_timer()
    asked = grid(plan.model, plan.splits, timer.device.memory_bytes)
    check_writable(plan.out)
    tables = measure(asked, timer)
    save(tables, timer, plan)
    sizes = ", ".join(f"{len(frame)} in {name}" for (_, name), frame in tables.items())
    show(f"timed on {timer.device.gpu}: {sizes}", f"tables in {plan.out}; make a profile of them with kvreplay profile "
         f"build from={plan.out} gpu={plan.gpu or timer.device.folder} model={plan.model.name} backend={BACKEND}")
    return 0


def read(arguments: Sequence[str]) -> Plan:
    """Read the arguments.

    raises : ConfigError
    """
    own = {**DEFAULTS, **given("measure", arguments, tuple(DEFAULTS))}
    if own["dtype"] != "bf16":
        raise ConfigError(f"dtype must be bf16, the only one that is timed, but is '{own['dtype']}'. Leave it out.")
    model = model_of(load("model", own["model"]))
    splits = tuple(count(_number(text, "tp"), "tp") for text in own["tp"].strip("[]").split(","))
    check(model, splits)
    return Plan(
        model=model,
        splits=splits,
        out=Path(own["out"]),
        gpu=own["gpu"],
        nic_bytes_per_s=number(_number(own["nic_bytes_per_s"], "nic_bytes_per_s"), "nic_bytes_per_s", above=0.0),
    )


def measure(asked: Grid, timer: Timer) -> dict[tuple[str, str], pl.DataFrame]:
    """Time all kernels of a grid, the copies, and the collectives where there are several GPUs.

    returns : (group, table) -> its rows
    """
    common = {"framework": "PyTorch", "version": timer.device.torch, "device": timer.device.gpu}
    tables: dict[tuple[str, str], Iterator[dict[str, Any]]] = {
        ("gemm", "gemm_perf"): _products(asked, timer),
        ("attention", "context_attention_perf"): _attention(asked.prompts, timer, "context"),
        ("attention", "generation_attention_perf"): _attention(asked.decodes, timer, "generation"),
        ("comm", "copy_perf"): _copies(timer),
    }
    if timer.device.gpus > 1:
        tables[("comm", "nccl_perf")] = _collectives(timer, COLLECTIVES, "nccl_dtype", "half")
        tables[("comm", "custom_allreduce_perf")] = _collectives(timer, ("all_reduce",), "allreduce_dtype", "bfloat16")
    found = {}
    for (group, name), rows in tables.items():
        show(f"timing {name}", stderr=True)
        found[(group, name)] = pl.DataFrame([common | row for row in rows])
    return found


def save(tables: Mapping[tuple[str, str], pl.DataFrame], timer: Timer, plan: Plan) -> None:
    """Write the tables, the GPU's constants and the provenance.

    raises : WriteError; then none of them is there
    """
    device = timer.device
    gpu = plan.gpu or device.folder
    with together(plan.out) as place:
        contents: dict[str, list[str]] = {}
        for (group, name), frame in tables.items():
            runtime = f"nccl/{device.nccl}" if name == "nccl_perf" else f"{BACKEND}/{device.torch}"
            folder = f"data/{gpu}/{group}/{runtime}"
            frame.write_parquet(place(f"{folder}/{name}.parquet"))
            contents.setdefault(folder, []).append(name)
        for folder, names in contents.items():
            place(f"{folder}/collection_meta.yaml").write_text(_meta(folder, names), encoding="utf-8")
        place(f"systems/{gpu}.yaml").write_text(_system(tables, timer, plan), encoding="utf-8")
        said = {**asdict(device), "date": f"{datetime.now(UTC):%Y-%m-%d}", "model": plan.model.name, "tp": plan.splits,
                "dtype": "bf16", "method": f"median of {REPEATS} repeats of {LAUNCHES} kernels between CUDA events",
                "assumed": {"nic_bytes_per_s": plan.nic_bytes_per_s}}  # fmt: skip
        place("provenance.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def _products(asked: Grid, timer: Timer) -> Iterator[dict[str, Any]]:
    for one in asked.products:
        yield {"op_name": "gemm", "kernel_source": "torch.nn.functional.linear", "gemm_dtype": "bfloat16", "m": one.m,
               "n": one.n, "k": one.k, "latency": timer.gemm_s(one) * MS}  # fmt: skip


def _attention(asked: Sequence[Attention], timer: Timer, phase: str) -> Iterator[dict[str, Any]]:
    """Yield rows; of a decode `step` is the context before its token, and isl the token itself."""
    whole = phase == "context"
    for one in asked:
        seconds = timer.prompt_s(one) if whole else timer.decode_s(one)
        yield {"op_name": f"{phase}_attention", "kernel_source": "torch.nn.functional.scaled_dot_product_attention",
               "batch_size": one.batch, "isl": one.tokens if whole else 1, "num_heads": one.heads,
               "num_key_value_heads": one.kv_heads, "head_dim": one.head_dim, "beam_width": 1,
               "attn_dtype": "bfloat16", "kv_cache_dtype": "bfloat16", "step": 0 if whole else one.tokens - 1,
               "window_size": 0, "latency": seconds * MS}  # fmt: skip


def _copies(timer: Timer) -> Iterator[dict[str, Any]]:
    for kind in COPIES:
        for size_bytes in COPY_BYTES:
            yield {"op_name": kind, "kernel_source": "torch.Tensor.copy_", "message_size": size_bytes,
                   "latency": timer.copy_s(kind, size_bytes) * MS}  # fmt: skip


def _collectives(timer: Timer, names: Sequence[str], dtype_column: str, dtype: str) -> Iterator[dict[str, Any]]:
    """Yield rows for 2, 4, 8, ... GPUs; `message_size` counts numbers, as in the tables of others."""
    powers = [2**power for power in range(1, 11) if 2**power <= timer.device.gpus]
    for name in names:
        for gpus in powers:
            for numbers in COLLECTIVE_NUMBERS:
                yield {"op_name": name, "kernel_source": "NCCL", dtype_column: dtype, "num_gpus": gpus,
                       "message_size": numbers, "latency": timer.collective_s(name, gpus, numbers) * MS}  # fmt: skip


def _meta(folder: str, names: Sequence[str]) -> str:
    framework, version = folder.split("/")[-2:]
    tables = "".join(f"  {name}:\n    status: complete\n" for name in names)
    return (f"schema_version: 1\nprovenance: collected\nruntime:\n  framework: {framework}\n  version: '{version}'\n"
            f"tables:\n{tables}")


def _system(tables: Mapping[tuple[str, str], pl.DataFrame], timer: Timer, plan: Plan) -> str:
    """Return the GPU's constants: what the fastest copy and product reached, the memory, and the card as assumed."""
    copies = tables[("comm", "copy_perf")].with_columns(rate=pl.col("message_size") / pl.col("latency") * MS)
    rate = {kind: float(copies.filter(op_name=kind)["rate"].max()) for kind in COPIES}  # type: ignore[arg-type]
    flops = 2.0 * pl.col("m") * pl.col("n") * pl.col("k") / pl.col("latency") * MS
    best = float(tables[("gemm", "gemm_perf")].select(flops.max()).item())
    device = timer.device
    return (f"# measured by kvreplay profile measure on {device.gpu}; inter_node_bw is an assumption\n"
            f"gpu:\n  mem_bw: {2 * rate['d2d']:.0f} # a copy reads and writes\n  mem_capacity: "
            f"{device.memory_bytes:.0f}\n  bfloat16_tc_flops: {best:.0f}\nnode:\n  num_gpus_per_node: {device.gpus}\n"
            f"  inter_node_bw: {plan.nic_bytes_per_s:.0f}\n  pcie_bw: {min(rate['h2d'], rate['d2h']):.0f}\n"
            f"  p2p_latency: 0.00001\nmisc: {{}}\n")


def _number(text: str, place: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{place} must be a number, but is '{text}'.") from None

"""Source of profiles: measured kernel tables of a GPU, composed into iterations and compiled.

The layout is that of AIConfigurator (ai-dynamo/aiconfigurator): data/<gpu>/<group>/<backend>/<version>/*.parquet and
systems/<gpu>.yaml.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from replay.errors import ConfigError
from replay.fidelity.asked import Asked
from replay.fidelity.form import Fit, fit
from replay.fidelity.hosts import Host, host_of
from replay.fidelity.iterations import fitted
from replay.fidelity.kernel_costs import Costs
from replay.fidelity.kernel_model import Composed, Split, composed, split
from replay.fidelity.kernel_tables import Tables, gpus, layout_of, tables_of
from replay.hardware.model import Model, model_of
from replay.hardware.profile import Profile
from replay.hardware.roofline import Gpu, kv_capacity_tokens

RESERVE_BYTES = 2.0e9  # activations, graphs and buffers of each GPU, as in conf/hardware
NEEDED = {"gpu": ("mem_bw", "mem_capacity"), "node": ("num_gpus_per_node", "inter_node_bw")}


def recognises(folder: str | Path) -> bool:
    """Return whether a folder holds kernel tables."""
    return layout_of(folder) is not None


def build(folder: str | Path, asked: Asked) -> Profile:
    """Compile the profile of an instance from kernel tables.

    raises : ConfigError for a GPU, a kernel or a split that was not measured, or a model that does not fit in memory
    """
    model, made = _made(folder, asked)
    tables = made.costs.tables
    gpu = _gpu(tables, asked, made.split)
    capacity_tokens = kv_capacity_tokens(gpu, model)
    found = fit(made.seconds, fitted(capacity_tokens))
    node = tables.system()["node"]
    return Profile(
        name=f"{gpu.gpus}x{tables.gpu}/{model.name}",
        token_table=found.token_table,
        decode_table=found.decode_table,
        kv_table=found.kv_table,
        prefill_token_ps=found.prefill_token_ps,
        prefill_token_sq_fs=found.prefill_token_sq_fs,
        decode_request_ps=found.decode_request_ps,
        kv_token_bytes=model.kv_token_bytes,
        kv_capacity_tokens=capacity_tokens,
        gpus=gpu.gpus,
        price_per_hour=gpu.gpus * asked.price_per_gpu_hour,
        nic_bytes_per_s=gpu.gpus * float(node["inter_node_bw"]),
        nic_latency_s=float(node.get("p2p_latency", 0.0)),
        interpolation_error=found.errors["all"][2],
        provenance=_provenance(made, found),
    )


def measured(folder: str | Path, asked: Asked) -> Composed:
    """Return what the profile was compiled from: its `seconds` cost any iteration from the tables themselves."""
    return _made(folder, asked)[1]


def gpu_names(folder: str | Path) -> list[str]:
    """List the GPUs of a folder."""
    layout = layout_of(folder)
    return gpus(layout) if layout else []


def _made(folder: str | Path, asked: Asked) -> tuple[Model, Composed]:
    if asked.gpu is None:
        raise ConfigError(f"gpu must be one of {', '.join(gpu_names(folder))}, but none is named. Write gpu=NAME.")
    tables = tables_of(folder, asked.gpu, asked.backend, asked.version)
    model = model_of(asked.model_node())
    wanted = {key: value for key in ("gemm", "moe") if (value := getattr(asked, key)) is not None}
    spread = split(asked.tp, asked.ep)
    if asked.moe_ep is not None:
        if spread.gpus % asked.moe_ep:
            raise ConfigError(f"moe_ep must divide the {spread.gpus} GPUs of the instance, but is {asked.moe_ep}.")
        spread = Split(asked.tp, asked.ep, spread.gpus // asked.moe_ep, asked.moe_ep)
    usual = host_of(asked.backend)
    host = Host(usual.iteration_s if asked.host_s is None else asked.host_s,
                usual.request_s if asked.host_request_s is None else asked.host_request_s)  # fmt: skip
    costs = replace(_costs(tables), beyond={})  # what one profile asks beyond the tables is not another's
    return model, composed(costs, model, spread, host, wanted)


@lru_cache(maxsize=8)
def _costs(tables: Tables) -> Costs:
    return Costs(tables)


def _gpu(tables: Tables, asked: Asked, spread: Split) -> Gpu:
    """Return what of a spec sheet decides how much the memory holds; kernels take the place of the rest."""
    system = tables.system()
    for section, keys in NEEDED.items():
        if missing := [key for key in keys if not isinstance(system[section].get(key), int | float)]:
            raise ConfigError(f"{tables.gpu}.yaml must have the numbers {section}.{' and '.join(missing)}.")
    memory_bytes, node = float(system["gpu"]["mem_capacity"]), system["node"]
    nothing: Mapping[str, Any] = dict.fromkeys(("attention_flops_per_s", "link_bytes_per_s", "link_latency_s",
                                                "nic_latency_s", "host_s", "layer_s"), 0.0)  # fmt: skip
    return Gpu(
        name=tables.gpu,
        flops_per_s={},
        memory_bytes=memory_bytes,
        memory_bytes_per_s=float(system["gpu"]["mem_bw"]),
        nic_bytes_per_s=float(node["inter_node_bw"]),
        gpus_per_node=int(node["num_gpus_per_node"]),
        tp=spread.tp,
        ep=spread.dp,
        usable_bytes=asked.memory_share * memory_bytes,
        reserve_bytes=RESERVE_BYTES,
        price_per_gpu_hour=asked.price_per_gpu_hour,
        **nothing,
    )


def _provenance(made: Composed, found: Fit) -> str:
    numbers = made.numbers if made.model.experts else {key: made.numbers[key] for key in ("gemm", "kv")}
    median, decile, most = (f"{100 * value:.1f} %" for value in found.errors["all"])
    beyond = "".join(f"; {name} read up to {times:.1f} times beyond its table"
                     for name, times in sorted(made.costs.beyond.items()))  # fmt: skip
    notes = "".join(f"; {note}" for note in made.notes)
    experts = f", experts {made.split.expert_tp} x {made.split.expert_ep}" if made.model.experts else ""
    host = f"host {made.host.iteration_s * 1e3:g} ms an iteration and {made.host.request_s * 1e6:g} us a decode"
    return (f"kernel tables of {made.costs.tables.used()}; numbers {', '.join(map(' '.join, numbers.items()))}; "
            f"tp {made.split.tp}, dp {made.split.dp}{experts}; {host}; tables off by {median} (median), {decile} "
            f"(p90), {most} (most) over the grid of iterations{beyond}{notes}")

"""`kvreplay profile build`: make a profile file from a folder of measurements, and show what it says."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from rich.table import Table

from replay.errors import ConfigError
from replay.fidelity import asked as keys
from replay.fidelity.asked import Asked
from replay.fidelity.form import Seconds, table_s
from replay.fidelity.iterations import Iterations, iterations
from replay.hardware import conf
from replay.hardware.file import save
from replay.hardware.profile import Profile
from replay.hardware.roofline import roofline
from replay.table import number, show

# Name of a source -> module with `recognises(folder) -> bool` and `build(folder, asked) -> Profile`, and where it knows
# `measured(folder, asked)` with `seconds(iterations)`. The first that recognises a folder reads it.
SOURCES = {
    "kernels": "replay.fidelity.kernels",
    "layers": "replay.fidelity.layers",
    "splitwise": "replay.fidelity.splitwise",
    "aiconfigurator": "replay.fidelity.installed",
}
# prompts, tokens, cached tokens, decodes and their context of the iterations that are shown
SHOWN = [*((1, tokens, 0, 0, 0) for tokens in (512, 2048, 8192)),
         *((0, 0, 0, batch, context) for context in (1024, 4096) for batch in (1, 8, 32, 128))]  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Write the profile file that the arguments ask for, and print a few of its iterations.

    returns : exit code
    raises  : ConfigError, WriteError; then no file is written
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    folder, out, asked = keys.read(arguments)
    module = source_of(folder)
    profile = module.build(folder, asked)
    path = Path(out or _file_name(profile))
    save(profile, path)
    truth = module.measured(folder, asked).seconds if hasattr(module, "measured") else None
    show(shown(profile, truth, sheet(asked)), "", f"{profile.name}: {_memory(profile)}", profile.provenance,
         f"written to {path}; use it with hardware=measured hardware.path={path}")
    return 0


def usage() -> str:
    """Return the text of --help."""
    return (
        "usage: kvreplay profile build from=FOLDER gpu=NAME model=NAME [tp=1] [ep=1] [key=value ...]\n\n"
        "  from                folder of measurements: " + ", ".join(SOURCES) + "\n"
        "  gpu, model          names; a model is a shape of conf/model\n"
        "  tp, ep, moe_ep      GPUs that share a layer, groups of these, groups of experts\n"
        "  backend, version    serving engine whose kernels count (vllm), and its version (the newest)\n"
        "  dtype, kv_dtype     of weights and cache instead of the model's: bf16, fp8, fp4\n"
        "  gemm, moe           types of numbers as the tables name them, such as fp8_block\n"
        "  host_s              of the host, once an iteration; host_request_s for each decode of it\n"
        "  memory_share        of the GPU's memory that may be taken (0.9)\n"
        "  price_per_gpu_hour  USD (0)\n"
        "  out                 the profile file to write"
    )


def source_of(folder: str) -> ModuleType:
    """Return the source that reads a folder.

    raises : ConfigError for a folder that none recognises
    """
    for name in SOURCES.values():
        module = import_module(name)
        if module.recognises(folder):
            return module
    what = "is no folder" if not Path(folder).is_dir() else "holds nothing that one of them reads"
    raise ConfigError(f"from must be a folder of measurements ({', '.join(SOURCES)}), but '{folder}' {what}.")


def sheet(asked: Asked) -> Profile | None:
    """Return the roofline of the same GPU, model and split, None where conf/hardware has no such GPU."""
    name = (asked.gpu or "").partition("_")[0]
    if name not in conf.names("hardware"):
        return None
    node = {**conf.load("hardware", name), "tp": asked.tp, "ep": asked.ep}
    try:
        return roofline(node, asked.model_node())
    except ConfigError:  # the sheet may have less memory than the tables' GPU; there is nothing to compare then
        return None


def shown(profile: Profile, truth: Seconds | None, other: Profile | None) -> Table:
    """Make the table of a few iterations that memory can hold: from the measurements, the profile and the roofline.

    truth : what iterations cost by the measurements themselves, None where a source cannot say
    """
    grid = iterations(SHOWN)
    if profile.kv_capacity_tokens is not None:
        grid = grid.where(grid.kv_tokens <= profile.kv_capacity_tokens)
    columns = {"measured ms": truth(grid) if truth else None, "profile ms": table_s(profile, grid),
               "roofline ms": table_s(other, grid) if other else None}  # fmt: skip
    base = columns["measured ms"] if truth else columns["profile ms"]
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("iteration", no_wrap=True)
    for name, seconds in columns.items():
        if seconds is not None:
            table.add_column(name, justify="right", no_wrap=True)
            if seconds is not base:
                table.add_column("off", justify="right", no_wrap=True)
    for row, words in enumerate(_words(grid)):
        cells = []
        for seconds in columns.values():
            if seconds is not None:
                cells.append(number(float(seconds[row]), 1e3))
                cells += [f"{100 * (seconds[row] / base[row] - 1):+.1f} %"] if seconds is not base else []  # type: ignore[index]
        table.add_row(words, *cells)
    return table


def _words(grid: Iterations) -> list[str]:
    return [f"prefill {int(chunk):,}" if prompts else f"decode {int(batch)} x {int(context):,}" for prompts, chunk,
            batch, context in zip(grid.prompts, grid.chunk, grid.decoding, grid.context, strict=True)]  # fmt: skip


def _memory(profile: Profile) -> str:
    if profile.kv_capacity_tokens is None:
        return "memory sets no limit"
    return f"a cache of {profile.kv_capacity_tokens:,} tokens of {profile.kv_token_bytes:,} bytes"


def _file_name(profile: Profile) -> str:
    return profile.name.replace("/", "_") + ".json"

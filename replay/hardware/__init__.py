"""Hardware profiles: what an iteration costs, what memory holds and what links carry."""

from collections.abc import Callable, Mapping
from typing import Any

from replay.errors import ConfigError
from replay.hardware.conf import conf_folder
from replay.hardware.file import from_file
from replay.hardware.linear import linear
from replay.hardware.points import points
from replay.hardware.profile import (
    SEGMENT,
    Profile,
    decode_s,
    iteration_ps,
    nominal,
    prefill_s,
    refuse_overflow,
    table,
    table_ps,
)
from replay.hardware.roofline import roofline

__all__ = [
    "SEGMENT",
    "Profile",
    "build",
    "conf_folder",
    "decode_s",
    "iteration_ps",
    "nominal",
    "prefill_s",
    "refuse_overflow",
    "table",
    "table_ps",
]

KINDS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Profile]] = {
    "linear": lambda hardware, model: linear(hardware),
    "roofline": roofline,
    "file": lambda hardware, model: from_file(hardware),
    "points": lambda hardware, model: points(hardware),
}
MODELLESS = ("linear", "file", "points")


def build(config: Mapping[str, Any]) -> Profile:
    """Compile the `hardware` and `model` nodes into a profile.

    config  : {"hardware": node, "model": node}; other keys are ignored; a linear profile needs no model
    returns : Profile
    raises  : ConfigError for an unknown kind or key, a bad value, or a model that does not fit in memory
    """
    hardware = config.get("hardware")
    if not isinstance(hardware, Mapping):
        raise ConfigError(f"hardware must be a configuration node, but is {hardware!r}. Select one: hardware=linear.")
    kind = hardware.get("kind")
    if kind not in KINDS:
        raise ConfigError(f"hardware.kind must be one of {', '.join(KINDS)}, but is {kind!r}.")
    if kind in MODELLESS and "gpu_memory_utilization" in hardware:
        raise ConfigError(f"hardware.gpu_memory_utilization, which presets of engines set, needs hardware of kind "
                          f"roofline, but this is of kind {kind}, which states hardware.kv_capacity_tokens. Select "
                          f"such a one, as hardware=h100, or add ~hardware.gpu_memory_utilization.")
    model = config.get("model")
    if kind not in MODELLESS and not isinstance(model, Mapping):
        raise ConfigError(f"hardware of kind '{kind}' needs a model, but it is {model!r}. Select one: model=llama3_8b.")
    return KINDS[kind](hardware, model or {})

"""What a profile is asked of: the keys of `kvreplay profile build`, read and checked."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from replay.errors import ConfigError
from replay.fidelity.arguments import FOLDER, given
from replay.hardware import conf
from replay.hardware.fields import count, number
from replay.hardware.model import BYTES

OUT = "out"
WORDS = ("gpu", "model", "backend", "version", "dtype", "kv_dtype", "gemm", "moe")
COUNTS = ("tp", "ep", "moe_ep")
NUMBERS = ("host_s", "host_request_s", "price_per_gpu_hour", "memory_share")


@dataclass(frozen=True)
class Asked:
    """One instance whose profile is wanted; a source takes of it what it knows, and refuses what it cannot give.

    gpu, model      : names; None where a source has only one
    tp, ep          : groups of GPUs as in a `hardware` node; moe_ep groups of experts within an instance, None by ep
    backend         : serving engine whose kernels or iterations count; version: of it, None for the newest
    dtype, kv_dtype : of weights and cache instead of the model's; gemm, moe: types of numbers as a source names them
    host_s          : of the host, once an iteration; host_request_s for each decode of it; None for a source's own
    memory_share    : of the GPU's memory that weights, cache and buffers may take
    """

    gpu: str | None = None
    model: str | None = None
    tp: int = 1
    ep: int = 1
    moe_ep: int | None = None
    backend: str = "vllm"
    version: str | None = None
    dtype: str | None = None
    kv_dtype: str | None = None
    gemm: str | None = None
    moe: str | None = None
    host_s: float | None = None
    host_request_s: float | None = None
    price_per_gpu_hour: float = 0.0
    memory_share: float = 0.9

    def model_node(self) -> dict[str, Any]:
        """Return the `model` node, with the types of numbers that were asked for.

        raises : ConfigError for a model without a shape in conf/model
        """
        if self.model is None:
            raise ConfigError(f"model must name a shape of conf/model. Known: {', '.join(conf.names('model'))}.")
        changes = {key: value for key in ("dtype", "kv_dtype") if (value := getattr(self, key)) is not None}
        return {**conf.load("model", self.model), **changes}


def read(arguments: Sequence[str]) -> tuple[str, str | None, Asked]:
    """Read the arguments of `kvreplay profile build`.

    arguments : key=value; --from FOLDER stands for from=FOLDER
    returns   : the folder, the file to write or None, and what is asked of it
    raises    : ConfigError for an unknown or missing key, or a bad value
    """
    own = given("build", arguments, (FOLDER, OUT, *(one.name for one in fields(Asked))))
    if FOLDER not in own:
        raise ConfigError("profile build needs the folder of the measurements. Write from=FOLDER.")
    values = {key: _value(key, text) for key, text in own.items() if key not in (FOLDER, OUT)}
    return own[FOLDER], own.get(OUT), Asked(**values)


def _value(key: str, text: str) -> Any:
    if key in WORDS:
        if key in ("dtype", "kv_dtype") and text not in BYTES:
            raise ConfigError(f"{key} must be one of {', '.join(BYTES)}, but is '{text}'.")
        return text
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"{key} must be a number, but is '{text}'.") from None
    if key in COUNTS:
        return count(value, key)
    return number(value, key, most=1.0 if key == "memory_share" else 1e6)

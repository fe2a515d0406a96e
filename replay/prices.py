"""Prices: what is paid for a cluster beside its GPUs and the ports of its fabric, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from replay.errors import ConfigError
from replay.hardware.conf import load
from replay.hardware.fields import keys, number

LEAST = {"pue": 1.0}


@dataclass(frozen=True)
class Prices:
    """Prices of a run, as `conf/prices` explains them; 0 is not counted."""

    cpu_usd_per_core_hour: float = 0.0
    cores_per_gpu: float = 0.0
    cores_per_dram_node: float = 0.0
    cores_per_storage_server: float = 0.0
    cores_per_index_shard: float = 0.0
    dram_usd_per_gib_hour: float = 0.0
    host_dram_usd_per_gib_hour: float = 0.0
    ssd_usd_per_tib_hour: float = 0.0
    store_usd_per_tib_hour: float = 0.0
    egress_usd_per_gb: float = 0.0
    token_bytes: float = 4.0
    front_end_usd_per_gb: float = 0.0
    electricity_usd_per_kwh: float = 0.0
    pue: float = 1.0


KEYS = tuple(field.name for field in fields(Prices))


def build_prices(spec: "Prices | Mapping[str, Any] | str | None") -> Prices:
    """Make prices from whatever names them.

    spec    : Prices; name of a file of conf/prices; node with some of the keys there, the rest as in default; None
              stands for "default"
    returns : Prices
    raises  : ConfigError for an unknown name or key, or a price that is not a finite number of at least 0
    """
    if isinstance(spec, Prices):
        return spec
    if spec is None or isinstance(spec, str):
        spec = load("prices", spec or "default")
    if not isinstance(spec, Mapping):
        raise ConfigError(f"prices must be a configuration node or a name, but is {spec!r}. Write prices=cloud.")
    keys(spec, (), ("name", *KEYS), "prices")
    return Prices(**{key: number(spec[key], f"prices.{key}", least=LEAST.get(key, 0.0)) for key in KEYS if key in spec})

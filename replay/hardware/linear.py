"""A profile from plain coefficients in seconds: exact tests, or a fit to measured runs."""

from collections.abc import Mapping
from typing import Any

from replay.errors import ConfigError
from replay.hardware.fields import POWER, count, keys, number, watts
from replay.hardware.profile import Profile, table
from replay.hardware.units import fs, ps

COEFFICIENTS = ("iteration_s", "prefill_token_s", "prefill_token_sq_s", "decode_request_s", "kv_token_s")
KEYS = (*COEFFICIENTS, "kv_token_bytes", "kv_capacity_tokens", "nic_bytes_per_s", "nic_latency_s")
OPTIONAL = ("kind", "name", "gpus", "price_per_gpu_hour", *POWER, "layers", "provenance")


def linear(node: Mapping[str, Any]) -> Profile:
    """Compile plain coefficients into a profile without any interpolation error.

    An iteration takes  iteration_s + prefill_token_s p + prefill_token_sq_s Q + decode_request_s D + kv_token_s K.

    node    : the `hardware` node with kind linear; times in seconds
    returns : Profile whose tables have one segment
    raises  : ConfigError for an unknown or missing key, a bad number, or a coefficient that would round away
    """
    keys(node, KEYS, OPTIONAL, "hardware")
    return Profile(
        token_table=table([(0, _coefficient(node, "iteration_s"), 0)]),
        kv_table=table([(0, 0, _coefficient(node, "kv_token_s"))]),
        prefill_token_ps=_coefficient(node, "prefill_token_s"),
        prefill_token_sq_fs=_coefficient(node, "prefill_token_sq_s"),
        decode_request_ps=_coefficient(node, "decode_request_s"),
        **beside_time(node, "linear", "plain coefficients"),
    )


def beside_time(node: Mapping[str, Any], name: str, provenance: str) -> dict[str, Any]:
    """Return the fields of a profile that a node states itself: memory, links, price, power, and where it comes from.

    name, provenance : where the node has none
    """
    capacity = node["kv_capacity_tokens"]
    gpus = count(node.get("gpus", 1), "hardware.gpus")
    return {
        "name": str(node.get("name", name)),
        "kv_token_bytes": count(node["kv_token_bytes"], "hardware.kv_token_bytes", least=0),
        "kv_capacity_tokens": None if capacity is None else count(capacity, "hardware.kv_capacity_tokens"),
        "gpus": gpus,
        "price_per_hour": gpus * number(node.get("price_per_gpu_hour", 0.0), "hardware.price_per_gpu_hour"),
        "nic_bytes_per_s": number(node["nic_bytes_per_s"], "hardware.nic_bytes_per_s", above=0.0),
        "nic_latency_s": number(node["nic_latency_s"], "hardware.nic_latency_s"),
        "interpolation_error": 0.0,
        "provenance": str(node.get("provenance", provenance)),
        **watts(node),
    }


def _coefficient(node: Mapping[str, Any], name: str) -> int:
    place = f"hardware.{name}"
    seconds = number(node[name], place)
    rounded = (fs if name == "prefill_token_sq_s" else ps)(seconds, place)
    if seconds > 0 and rounded == 0:
        unit = "fs" if name == "prefill_token_sq_s" else "ps"
        raise ConfigError(
            f"{place} must be 0 or at least 1 {unit}, but {seconds:g} s would round to 0 {unit} and vanish. "
            f"Write 0 or a larger value."
        )
    return rounded

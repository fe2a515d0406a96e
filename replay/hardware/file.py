"""Profiles as small files: what an iteration costs, where that was measured, and how far the tables are off."""

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from replay.errors import ConfigError
from replay.hardware.fields import POWER, count, keys, number, watts
from replay.hardware.profile import SHARED, Profile, table
from replay.write import together

FORMAT = "kvreplay profile 1"
TABLES = ("token_table", "decode_table", "kv_table", "mixed_kv_table", *SHARED)
OPTIONAL = ("kind", "name", "price_per_gpu_hour", *POWER, "layers", "provenance")


def save(profile: Profile, path: str | Path) -> None:
    """Write a profile file: JSON, integers in the units of `Profile`.

    raises : WriteError
    """
    content: dict[str, Any] = {"format": FORMAT}
    for field in fields(profile):
        value = getattr(profile, field.name)
        content[field.name] = value.tolist() if field.name in TABLES and value is not None else value
    with together(Path(path).parent) as place:
        place(Path(path).name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load(path: str | Path) -> Profile:
    """Read a profile file.

    raises : ConfigError if it is none, or what it says cannot be
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"hardware.path must be a profile file, but '{path}' cannot be read: {error}.") from None
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise ConfigError(f"hardware.path must be a profile file of kvreplay profile build, but '{path}' is none.")
    names = [field.name for field in fields(Profile)]
    if unknown := [name for name in content if name not in names]:
        raise ConfigError(f"the profile file '{path}' has the field '{unknown[0]}', which no profile has.")
    try:
        for name in TABLES:
            if content.get(name) is not None:
                content[name] = table([(int(a), int(b), int(c)) for a, b, c in content[name]])
        return Profile(**content)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the profile file '{path}' cannot be used: {error}") from None


def from_file(node: Mapping[str, Any]) -> Profile:
    """Return the profile of a `hardware` node of kind file; keys that are not null change what the file says.

    node : path; kv_capacity_tokens, nic_bytes_per_s, nic_latency_s, price_per_gpu_hour, idle_w, busy_w
    """
    keys(node, ("path", "kv_capacity_tokens", "nic_bytes_per_s", "nic_latency_s"), OPTIONAL, "hardware")
    if not isinstance(node["path"], str):
        raise ConfigError("hardware.path must name a profile file. Make one with kvreplay profile build.")
    profile = load(node["path"])
    changes: dict[str, Any] = {key: value for key, value in watts(node).items() if value is not None}
    if node["kv_capacity_tokens"] is not None:
        changes["kv_capacity_tokens"] = count(node["kv_capacity_tokens"], "hardware.kv_capacity_tokens")
    for key in ("nic_bytes_per_s", "nic_latency_s"):
        if node[key] is not None:
            changes[key] = number(node[key], f"hardware.{key}")
    if node.get("price_per_gpu_hour") is not None:
        changes["price_per_hour"] = profile.gpus * number(node["price_per_gpu_hour"], "hardware.price_per_gpu_hour")
    return replace(profile, **changes)

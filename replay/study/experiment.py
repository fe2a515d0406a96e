"""Save a setting as a Hydra experiment: a file of overrides that `kvreplay run` takes, and composes with others."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from replay.study.space import Value, is_group

GROUP = "experiment"


def experiment(arguments: Sequence[str], groups: Mapping[str, Value], values: Mapping[str, Value], about: str) -> str:
    """Return the text of a configuration of the group `experiment`.

    arguments : overrides of the command that found it
    groups    : group -> configuration chosen on top of them
    values    : dotted key -> value set on top of them
    about     : one line, the first comment
    """
    defaults: dict[str, Any] = {}
    content = OmegaConf.create({})
    apart = []
    for text in arguments:
        if text.startswith("-"):
            continue
        override = OverridesParser.create().parse_override(text)
        key, value = override.key_or_group, override.value()
        if override.is_delete() or key == "plugins":
            apart.append(text)
        elif key != "out_dir" and not key.startswith("hydra"):
            if is_group(key) and isinstance(value, str):
                defaults[key] = value
            else:
                OmegaConf.update(content, key, value, force_add=True)
    defaults |= groups
    for group in groups:  # what was set for the policy chosen before means nothing to this one
        if OmegaConf.select(content, group.replace("/", ".")) is not None:
            OmegaConf.update(content, group.replace("/", "."), {}, merge=False)
    for key, number in values.items():
        OmegaConf.update(content, key, number, force_add=True)
    lines = ["# @package _global_", f"# {about}"]
    lines += [f"# also give: {' '.join(apart)}"] if apart else []
    body: dict[str, Any] = {"defaults": [{f"override /{group}": name} for group, name in defaults.items()]}
    plain = OmegaConf.to_container(content)
    assert isinstance(plain, dict)
    return "\n".join(lines) + "\n" + OmegaConf.to_yaml(OmegaConf.create({**body, **plain}))

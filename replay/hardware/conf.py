"""Find and read the YAML files of the `conf` folder, in a checkout and in an installed wheel alike."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from replay.errors import ConfigError


def conf_folder() -> Path:
    """Return the folder that holds the Hydra groups.

    returns : `replay/conf` of an installed wheel, else `conf` beside the package in a checkout
    raises  : ConfigError when neither exists
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if folder.is_dir():
            return folder
    raise ConfigError(
        f"the configuration folder is missing: neither {package / 'conf'} nor its sibling exists. Reinstall."
    )


def names(group: str) -> list[str]:
    """List the configurations of a group, for instance "hardware", in alphabetical order."""
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))


def load(group: str, name: str) -> dict[str, Any]:
    """Read one configuration of a group as a plain dictionary.

    raises : ConfigError naming the nearest known configuration
    """
    path = conf_folder() / group / f"{name}.yaml"
    if not isinstance(name, str) or name not in names(group):
        near = difflib.get_close_matches(str(name), names(group), n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(names(group))}."
        raise ConfigError(f"there is no {group} called '{name}'. {hint}")
    return _plain(path, f"{group}/{name}.yaml")


def node(group: str, spec: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the node that `spec` means: a name, a whole node, or changes to a named one under the key `base`.

    group   : "hardware" or "model"
    spec    : "h100", {"kind": "linear", ...} or {"base": "h100", "tp": 8}
    returns : a plain dictionary
    raises  : ConfigError for an unknown name or a spec of another type
    """
    if isinstance(spec, str):
        return load(group, spec)
    if not isinstance(spec, Mapping):
        raise ConfigError(f"{group} must be a name or a mapping, but is {spec!r}. Write for instance {group}=linear.")
    changes = {str(key): value for key, value in spec.items() if key != "base"}
    if "base" not in spec:
        return changes
    base = load(group, spec["base"])
    return dict(OmegaConf.to_container(OmegaConf.merge(base, changes)))  # type: ignore[arg-type]


def _plain(path: Path, place: str) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OmegaConfBaseException, OSError, ValueError) as error:
        raise ConfigError(f"{place} cannot be read: {error}.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{place} must be a mapping of keys to values.")
    return {str(key): value for key, value in content.items()}

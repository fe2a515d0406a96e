"""Compose the jobs of a multirun: Hydra composes each choice of groups once, single values are set in copies of it."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException


@dataclass(frozen=True, eq=False)
class Job:
    """One job of a multirun: its number, its overrides "key=value", and the composed node, or why it has none."""

    number: int
    overrides: tuple[str, ...]
    config: dict[str, Any] | None
    error: Exception | None = None


def resolved(node: DictConfig) -> dict[str, Any]:
    """Return a composed configuration as plain values."""
    container = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    return {str(key): value for key, value in container.items()} if isinstance(container, dict) else {}


def job_of(node: DictConfig, number: int, overrides: Sequence[str]) -> Job:
    """Return a job with its configuration resolved; what cannot be resolved is the job's error."""
    try:
        return Job(number, tuple(overrides), resolved(node))
    except OmegaConfBaseException as error:
        return Job(number, tuple(overrides), None, error)


class Compositions:
    """Composes the jobs of one multirun.

    loader : Hydra's configuration loader
    master : the multirun's own configuration
    """

    def __init__(self, loader: Any, master: DictConfig) -> None:
        self._loader, self._master = loader, master
        self._parser = OverridesParser.create(config_loader=loader)
        self._kept: dict[tuple[str, ...], DictConfig] = {}

    def job(self, number: int, overrides: Sequence[str]) -> Job:
        """Return a job of these overrides.

        raises : HydraException for what cannot be composed at all
        """
        whole = self._compose(list(overrides), number)
        HydraConfig.instance().set_config(whole)
        node = copy.deepcopy(whole)
        with open_dict(node):
            del node["hydra"]
        return job_of(node, number, overrides)

    def _compose(self, overrides: list[str], number: int) -> DictConfig:
        parsed = self._parser.parse_overrides(overrides)
        groups = tuple(text for text, one in zip(overrides, parsed, strict=True) if self._chooses(one))
        if groups not in self._kept:
            self._kept[groups] = self._loader.load_sweep_config(self._master, list(groups))
        whole = copy.deepcopy(self._kept[groups])
        self._loader._apply_overrides_to_config([one for one in parsed if not self._chooses(one)], whole)
        with open_dict(whole):
            whole.hydra.overrides.task = overrides
            whole.hydra.job.id, whole.hydra.job.num = number, number
        return whole

    def _chooses(self, one: Override) -> bool:
        """Whether an override chooses a configuration of a group, by Hydra's own rule."""
        return self._loader.repository.group_exists(one.key_or_group) and not isinstance(one.value(), dict)

"""Compose the configurations of a multirun without replaying them: how studies of several configurations begin."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from replay.compositions import Job
from replay.configuration import Settings, settings
from replay.run import MULTIRUN, Runner
from replay.run import main as run


@dataclass(frozen=True, eq=False)
class Composed:
    """One composed configuration: resolved, its checked single values, and the overrides "key=value" that made it."""

    config: dict[str, Any]
    checked: Settings
    overrides: tuple[str, ...]


class Composer(Runner):
    """Keeps every composed configuration of one command; its traces are loaded once, as by every Runner."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Composed] = []

    def many(self, jobs: Sequence[Job], workers: int | None) -> None:
        """Keep the configurations of a multirun."""
        for job in jobs:
            if job.error is not None:
                raise job.error
            assert job.config is not None
            self.found.append(Composed(job.config, settings(job.config), job.overrides))


def compose_all(arguments: Sequence[str]) -> tuple[list[Composed], Runner]:
    """Return every combination that the arguments of `kvreplay run -m` ask for, in Hydra's order.

    arguments : overrides; several values of a key, a,b or glob(*), are combined, with or without -m
    returns   : configurations, and the runner that opens their sessions: runner.session(config, checked, trace)
    raises    : ConfigError as `kvreplay run`
    """
    composer = Composer()
    others = [text for text in arguments if text not in MULTIRUN and not text.startswith("hydra/launcher=")]
    run(["-m", *others], composer)
    return composer.found, composer


def labels(found: Sequence[Composed]) -> list[str]:
    """Name configurations by the overrides in which they differ, as "policy/route=random policy.order.x=2"."""
    pairs = [dict(text.lstrip("+~").partition("=")[::2] for text in one.overrides) for one in found]
    names = dict.fromkeys(name for one in pairs for name in one)
    varying = [name for name in names if len({one.get(name) for one in pairs}) > 1]
    return [" ".join(f"{name}={one[name]}" for name in varying if name in one) or "as chosen" for one in pairs]

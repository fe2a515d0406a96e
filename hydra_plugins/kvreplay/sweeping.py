"""Run the jobs of a multirun at once on the threads of this process, each configuration composed once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException


@dataclass
class ThreadsConfig:
    """`hydra/launcher=threads`; workers: how many runs at once, null for one a core."""

    _target_: str = "hydra_plugins.kvreplay.sweeping.ThreadsLauncher"
    workers: int | None = None


@dataclass
class CombinationsConfig:
    """`hydra/sweeper=combinations`: Hydra's basic sweeper, which composes nothing twice."""

    _target_: str = "hydra_plugins.kvreplay.sweeping.CombinationsSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


store = ConfigStore.instance()
store.store(group="hydra/launcher", name="threads", node=ThreadsConfig, provider="kvreplay")
store.store(group="hydra/sweeper", name="combinations", node=CombinationsConfig, provider="kvreplay")


class ThreadsLauncher(Launcher):
    """Composes every job, then hands all of them to the task, which replays them on threads."""

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers
        self.task: Any = None
        self.config: DictConfig | None = None
        self.context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run one batch of jobs; their results are files, so that what is returned holds no value."""
        from replay.compositions import Compositions

        assert self.context is not None and self.config is not None
        setup_globals()
        compositions = Compositions(self.context.config_loader, self.config)
        jobs = [compositions.job(initial_job_idx + place, one) for place, one in enumerate(job_overrides)]
        self.task.many(jobs, self.workers)
        return [JobReturn(overrides=list(one), status=JobStatus.COMPLETED) for one in job_overrides]


class CombinationsSweeper(BasicSweeper):
    """Every combination of the swept values; a launcher that composes all before it runs any needs no rehearsal."""

    def __init__(self, max_batch_size: int | None = None, params: Any = None) -> None:
        super().__init__(max_batch_size=max_batch_size, params=params)
        self.task: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep the task beside what Hydra's own sweeper keeps."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.task = task_function

    def sweep(self, arguments: list[str]) -> Any:
        """Tell the task that a multirun begins, launch every combination, and tell it of a launcher that gave up."""
        self.task.begin(self.config)
        try:
            return super().sweep(arguments)
        except (HydraException, OmegaConfBaseException, ValueError):
            raise
        except Exception as error:
            self.task.lost(error)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose a batch to find its mistakes, unless the launcher does so itself."""
        if not isinstance(self.launcher, ThreadsLauncher):
            super().validate_batch_is_legal(batch)

"""The search of a study: settings are drawn from its space in batches, judged on threads, and told in order.

A batch is drawn before any of it is judged, and each trial's sampler is seeded by the run's seed and the trial's place,
so that a study gives the same trials whether or not it was cut short, whatever the threads do.
"""

import copy
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, PercentilePruner, SuccessiveHalvingPruner
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import Trial, TrialState

from replay.errors import KvreplayError
from replay.study import storage
from replay.study.pool import in_order
from replay.study.space import Dimension, Value, get, of_policies, put
from replay.study.trials import Goals, Judge, Pruned, Stopped

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed),
    "random": lambda seed: RandomSampler(seed=seed),
    "gp": lambda seed: GPSampler(seed=seed),
    "cmaes": lambda seed: CmaEsSampler(seed=seed),
    "nsga2": lambda seed: NSGAIISampler(seed=seed),
}
NEEDS = {"gp": "torch", "cmaes": "cmaes"}  # sampler -> package that Optuna asks for
PRUNERS: dict[str, Callable[[], BasePruner]] = {
    "median": lambda: MedianPruner(n_startup_trials=10),
    "percentile": lambda: PercentilePruner(25.0, n_startup_trials=10),
    "halving": lambda: SuccessiveHalvingPruner(),
    "none": lambda: NopPruner(),
}
BATCH = "batch"  # attribute of a study, with a worker's number: what its last batch came to


@dataclass(frozen=True)
class Drawn:
    """A setting: its trial, the configuration it makes."""

    trial: Trial
    config: dict[str, Any] | None
    error: str | None = None


@dataclass(frozen=True)
class Judged:
    """What became of a setting."""

    state: TrialState
    values: list[float] | None
    violations: Mapping[str, float]
    took_s: float
    error: str | None = None

    def told(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "state": self.state.name}


class Search:
    """Draws settings and has them judged until a study has as many trials as it wants.

    compose : groups that a trial chose -> the configuration that Hydra makes with them
    plan    : node `study`, checked
    """

    def __init__(
        self, study: optuna.Study, judge: Judge, goals: Goals, compose: Callable[[Mapping[str, Value]], dict[str, Any]],
        plan: Mapping[str, Any], seed: int
    ) -> None:  # fmt: skip
        self.study, self.judge, self.goals, self.compose = study, judge, goals, compose
        self.plan, self.seed, self.stop = plan, seed, threading.Event()
        self._shared = storage.shared(plan["storage"])

    def run(self, keys: Sequence[Dimension], workers: int, told: Callable[[], None]) -> None:
        """Judge trials until there are enough, time is up, or `stop` is set."""
        ends_s = time.monotonic() + self.plan["timeout_s"] if self.plan["timeout_s"] is not None else np.inf
        while not self.stop.is_set() and time.monotonic() < ends_s:
            trials = self.study.get_trials(deepcopy=False)
            done = storage.counted(trials)
            under_way = sum(trial.state == TrialState.RUNNING for trial in trials) if self._shared else 0
            wanted = self.plan["trials"] - done - under_way
            if wanted <= 0:
                if self._shared and done < self.plan["trials"]:
                    time.sleep(0.2)  # others are at the last ones, and may fail
                    continue
                return
            begin = len(trials) if self._shared else done
            size = min(workers - begin % workers, wanted)
            drawn = [self.draw(keys, begin + place) for place in range(size)]
            batch = [one for one in drawn if self._needed(one.trial)]
            # Told when all are judged: pruners look at what was told, threads end in any order. Kept together first,
            # so that a sitting that ends between two of them leaves no half of a batch for others to learn from.
            results = [judged for judged in in_order(self.judged, batch, workers) if judged is not None]
            if len(results) < len(batch):  # cut short: the whole batch is drawn again another time
                for one in batch:
                    storage.give_up(self.study, one.trial.number, one.trial._trial_id)
                return
            kept = [[one.trial.number, judged.told()] for one, judged in zip(batch, results, strict=True)]
            self.study.set_user_attr(f"{BATCH} {self.plan['worker']}", kept)
            for one, judged in zip(batch, results, strict=True):
                tell(self.study, one.trial, judged)
                told()

    def draw(self, keys: Sequence[Dimension], place: int) -> Drawn:
        """Draw the setting of the trial at a place of the study."""
        numbers = np.random.SeedSequence([self.seed, self.plan["worker"], place]).generate_state(1)
        self.study.sampler = SAMPLERS[self.plan["sampler"]](int(numbers[0]))
        trial = self.study.ask()
        trial.set_user_attr(storage.WORKER, storage.me())
        chosen = {one.key: one.suggest(trial) for one in keys if one.group}
        try:
            config = copy.deepcopy(self.compose(chosen))
            for one in [*(one for one in keys if not one.group), *of_policies(config, self.plan["tunables"], chosen)]:
                put(config, one.key, one.suggest(trial))
            self.judge.warm(config)
        except KvreplayError as error:
            return Drawn(trial, None, str(error))
        return Drawn(trial, config)

    def _needed(self, trial: Trial) -> bool:
        """Whether a study wants a trial: processes that draw the last ones at the same time may draw too many."""
        if not self._shared:
            return True
        before = [one for one in self.study.get_trials(deepcopy=False) if one.number < trial.number]
        rank = sum(one.state != TrialState.FAIL or storage.REASON in one.user_attrs for one in before)
        if rank < self.plan["trials"]:
            return True
        storage.give_up(self.study, trial.number, trial._trial_id)
        return False

    def judged(self, one: Drawn) -> Judged | None:
        """Judge a setting; None where `stop` was set meanwhile. Called from threads."""
        started_s = time.perf_counter()
        if one.config is None:
            return Judged(TrialState.FAIL, None, {}, 0.0, one.error)
        report = None
        if len(self.goals.objectives) == 1 and self.plan["pruner"] != "none":
            def report(value: float, step: int) -> bool:
                one.trial.report(value, step)
                return one.trial.should_prune()
        try:
            summary = self.judge.tuned(one.config, self.goals, report, self.stop.is_set)
            values, violations = self.goals.values(summary), self.goals.violations(summary)
        except Stopped:
            return None
        except Pruned:
            return Judged(TrialState.PRUNED, None, {}, time.perf_counter() - started_s)
        except KvreplayError as error:
            return Judged(TrialState.FAIL, None, {}, time.perf_counter() - started_s, str(error))
        return Judged(TrialState.COMPLETE, values, violations, time.perf_counter() - started_s)


def tell(study: optuna.Study, trial: Trial, judged: Judged) -> None:
    """Tell a study what became of a trial."""
    if judged.error is not None:
        trial.set_user_attr(storage.REASON, judged.error)
    trial.set_user_attr("took_s", judged.took_s)
    for name, violation in judged.violations.items():
        trial.set_constraint(name, violation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.tell(trial, judged.values, judged.state)


def tell_rest(study: optuna.Study, worker: int) -> None:
    """Tell what a worker had judged, and kept, but not told when it ended."""
    running = {trial.number: trial for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))}
    for number, kept in study.user_attrs.get(f"{BATCH} {worker}", []):
        if number in running:
            trial = Trial(study, running[number]._trial_id)
            tell(study, trial, Judged(**{**kept, "state": TrialState[kept["state"]]}))


def defaults(config: Mapping[str, Any], keys: Sequence[Dimension], wanted: Any,
             groups: Mapping[str, Value]) -> dict[str, Value]:  # fmt: skip
    """Return the parameters that stand for a configuration as it is, those that lie in the space.

    groups : what the configuration chooses of the groups that are searched
    """
    own = [one for one in keys if not one.group]
    found = {one.name: groups[one.key] for one in keys if one.group and one.holds(groups.get(one.key))}
    for one in [*own, *of_policies(config, wanted, {one.key: None for one in keys if one.group})]:
        value = get(config, one.key)
        if one.holds(value):
            found[one.name] = value
    return found

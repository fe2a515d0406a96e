"""The verb `tune`: search the tunables of policies, and any other key, for the best of what a run is to reach."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser

from replay.compositions import Job
from replay.configuration import Settings, settings
from replay.driving import first_interrupt, ready
from replay.errors import ConfigError
from replay.hardware.fields import choice, count, keys, number
from replay.jobs import identity as identity_of_run
from replay.run import INTERRUPTED, MULTIRUN, Runner
from replay.run import main as run
from replay.study import storage
from replay.study.composed import compose_all
from replay.study.pool import Once, cores
from replay.study.progress import steps
from replay.study.search import NEEDS, PRUNERS, SAMPLERS, Search, defaults, tell_rest
from replay.study.space import Dimension, Value, of_keys, of_policies
from replay.study.trials import Goals, Judge, goals
from replay.study.tuned import finish
from replay.study.verb import split
from replay.write import check_writable

KEYS = (
    "name", "objectives", "directions", "tunables", "space", "constraints", "trials", "workers", "worker", "sampler",
    "pruner", "windows", "reports", "train", "storage", "timeout_s",
)  # fmt: skip
FREE = ("trials", "workers", "worker", "timeout_s", "storage")  # may change between sittings of a study
NOT_OF_A_RUN = ("study.", "+study.", "~study.", "hydra/", "hydra.", "+hydra.")
IDENTITY, BEGINS = "identity", re.compile(r"\+*study=")


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments of `kvreplay tune` ask for: study.* (conf/study/tune.yaml) and those of `kvreplay run`.

    returns : exit code: 0, 130 after Ctrl-C
    raises  : ConfigError
    """
    split("tune", arguments, {}, _nothing, many=True)
    named = [text for text in arguments if BEGINS.match(text)]
    others = [text for text in arguments if not BEGINS.match(text)]
    chosen = "+study=" + (named[-1].partition("=")[2] if named else "tune")
    tune = Tune(others)
    run([chosen, *others], tune)
    return INTERRUPTED if tune.interrupted else 0


def _nothing(key: str, text: str) -> None:
    """Read nothing: the keys of the verb are those of conf/study."""


class Tune(Runner):
    """Tunes one composed configuration; in a multirun it is the worker of one job, beside those of the others."""

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        super().__init__(arguments)
        self.own = [text for text in arguments if text not in MULTIRUN and not text.startswith(NOT_OF_A_RUN)]

    def single(self, config: dict[str, Any]) -> Any:
        """Check the configuration and its study, then tune."""
        plan = planned(config.pop("study", None))
        checked = settings(config)
        folder = Path(checked.out_dir)
        check_writable(folder)
        self.tune(config, checked, plan, folder)

    def many(self, jobs: Sequence[Job], workers: int | None) -> None:
        """Be the worker of a job: what several of them share is the storage.

        raises : ConfigError where they would not be at it at once, or could not
        """
        for job in jobs:
            if job.error is not None:
                raise job.error
            assert job.config is not None
            if len(jobs) > 1 or not storage.shared(planned(job.config["study"])["storage"]):
                raise ConfigError("several workers of a study are processes at one server: -m needs "
                                  "hydra/launcher=joblib or ray, and study.storage=postgresql+psycopg://...")
            self.single({**job.config, "out_dir": str(Path(str(job.config["out_dir"])) / str(job.number))})

    def tune(self, config: dict[str, Any], checked: Settings, plan: dict[str, Any], folder: Path) -> None:
        """Search, and show and keep what was found."""
        aims, own = goals(plan), of_keys(plan["space"])
        groups = {one.key: _chosen(self.own, one.key, config) for one in own if one.group}
        if not own and not of_policies(config, plan["tunables"], {}):
            raise ConfigError("there is nothing to tune: the chosen policies have no tunables. Name keys in "
                              "study.space.")  # fmt: skip
        judge = Judge(self, plan["train"], plan["windows"], plan["reports"])
        judge.warm(config)
        study = self._opened(config, plan, aims, folder)
        ready()
        compose: Once[str, dict[str, Any]] = Once(self._composed)

        def composed(chosen: Mapping[str, Value]) -> dict[str, Any]:
            return compose(json.dumps(chosen)) if chosen else config

        search = Search(study, judge, aims, composed, plan, checked.seed)
        if plan["worker"] == 0:
            study.enqueue_trial(defaults(config, own, plan["tunables"], groups), skip_if_exists=True)
        self._search(search, own, plan)
        finish(search, own, config, self.own, folder)

    def _search(self, search: Search, own: Sequence[Dimension], plan: Mapping[str, Any]) -> None:
        done = storage.counted(search.study.get_trials(deepcopy=False))
        with first_interrupt(search.stop), steps(f"tuning {plan['name']}", max(0, plan["trials"] - done)) as told:
            search.run(own, plan["workers"] or cores(), told)
        self.interrupted = search.stop.is_set()

    def _opened(self, config: Mapping[str, Any], plan: Mapping[str, Any], aims: Goals, folder: Path) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("optuna").propagate = False
        study = optuna.create_study(
            storage=storage.open_storage(plan["storage"], folder), study_name=plan["name"], load_if_exists=True,
            directions=list(aims.directions), pruner=PRUNERS[plan["pruner"]](),
        )  # fmt: skip
        own = identity(config, plan)
        if study.user_attrs.setdefault(IDENTITY, own) != own:
            raise ConfigError(f"the study '{plan['name']}' was begun for another configuration, space or objective, or "
                              f"by another kvreplay. Choose another study.name or out_dir.")  # fmt: skip
        study.set_user_attr(IDENTITY, own)
        tell_rest(study, plan["worker"])
        storage.let_go(study)
        return study

    def _composed(self, chosen: str) -> dict[str, Any]:
        groups = json.loads(chosen)
        rest = [text for text in self.own if text.lstrip("+").partition("=")[0] not in groups]
        found, _ = compose_all([*rest, *(f"{key}={value}" for key, value in groups.items())])
        return found[0].config


def identity(config: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """Return a digest of what the trials of a study have in common, so that others do not join it."""
    same = {key: value for key, value in plan.items() if key not in FREE}
    runs = identity_of_run(config, files=not storage.shared(plan["storage"]))
    return hashlib.sha256((json.dumps(same, sort_keys=True, default=str) + runs).encode()).hexdigest()


def planned(node: Any) -> dict[str, Any]:
    """Check the single values of a study's node.

    raises : ConfigError
    """
    if not isinstance(node, Mapping):
        raise ConfigError(f"study must be a configuration node, but is {node!r}. Write study.trials=200 and the like.")
    keys(node, KEYS, (), "study")
    plan = dict(node)
    for key, least in (("trials", 1), ("worker", 0), ("reports", 0)):
        plan[key] = count(node[key], f"study.{key}", least)
    plan["workers"] = None if node["workers"] is None else count(node["workers"], "study.workers")
    choice(node["sampler"], SAMPLERS, "study.sampler")
    package = NEEDS.get(node["sampler"])
    if package is not None and find_spec(package) is None:
        raise ConfigError(f"study.sampler={node['sampler']} needs the package {package}, which is not installed. "
                          f"Install it with pip, or choose tpe.")  # fmt: skip
    choice(node["pruner"], PRUNERS, "study.pruner")
    plan["train"] = number(node["train"], "study.train", above=0.0, most=0.99)
    windows = node["windows"]
    if not isinstance(windows, Sequence) or isinstance(windows, str):
        raise ConfigError(f"study.windows must list shares between 0 and 1, but is {windows!r}. Write [0.1, 0.3].")
    plan["windows"] = sorted(number(share, "study.windows", above=0.0, most=0.99) for share in windows)
    if node["timeout_s"] is not None:
        plan["timeout_s"] = number(node["timeout_s"], "study.timeout_s", above=0.0)
    for key in ("name", "storage"):
        if not isinstance(node[key], str) and not (key == "storage" and node[key] is None):
            raise ConfigError(f"study.{key} must be text, but is {node[key]!r}.")
    return plan


def _chosen(arguments: Sequence[str], group: str, config: Mapping[str, Any]) -> Value:
    """Return which configuration of a group a command chooses, by its arguments or else by the name that it has."""
    for text in reversed(arguments):
        if text.lstrip("+").partition("=")[0] == group:
            return str(OverridesParser.create().parse_override(text).value())
    node: Any = config
    for name in group.split("/"):
        node = node.get(name) if isinstance(node, Mapping) else None
    found = node.get("name") if isinstance(node, Mapping) else None
    return found if isinstance(found, str) else None



"""Let Hydra compose the configuration of a run: policies become choices, and its complaints become one sentence."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from replay.errors import ConfigError
from replay.hardware.conf import conf_folder
from replay.policy import SLOTS, load_all, load_file, registry

NODES = ("trace", "cluster", "hardware", "model", "kv", "fabric", "stages", "speculation", "policy", "slo", "signals",
         "predictor", "prices", "scale", "failures")
SINGLE_VALUES = ("seed", "out_dir", "leap", "events", "gaps")
KEYS = (*NODES, *SINGLE_VALUES, "plugins")
# users name what stands there
OPEN_NODES = ("trace.tiers.", "trace.tenants.", "trace.kinds.", "slo.tiers.", "slo.tenants.", "stages.")
HIGHEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Settings:
    """The checked single values of a run; the nodes are checked by whoever builds from them."""

    policies: dict[str, Any]
    seed: int
    out_dir: str
    leap: bool
    events: bool
    gaps: bool


def offer_policies(overrides: Sequence[str]) -> None:
    """Make every policy, those of plug-in files included, a choice of the group policy/<slot>.

    overrides : arguments of the command line; plugins=[...] is read here, before Hydra composes, so that a plug-in's
                policy can be chosen in the same command
    raises    : PolicyError for a file that is missing, does not run or registers nothing
    """
    load_all()
    for path in plugin_paths(overrides):
        load_file(path)
    store = ConfigStore.instance()
    for slot, policies in registry().items():
        for name, policy in policies.items():
            node = {"name": name, **policy.defaults}
            store.store(group=f"policy/{slot}", name=name, node=node, package=f"policy.{slot}", provider="kvreplay")


def plugin_paths(overrides: Sequence[str]) -> list[str]:
    """Return the files that plugins=... names, in order, each once; all of them when it is swept."""
    paths: dict[str, None] = {}
    for text in overrides:
        if not re.match(r"\+{0,2}plugins=", text):
            continue
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            raise ConfigError(sentence(error, overrides)) from None
        values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
        for value in values:
            paths |= dict.fromkeys(_as_paths(value))
    return list(paths)


def _as_paths(value: Any) -> list[str]:
    if isinstance(value, str):  # a swept value comes back as the text of an override
        value = OverridesParser.create().parse_override(f"plugins={value}").value() if value[:1] == "[" else [value]
    if not isinstance(value, list):
        raise ConfigError(f"plugins must be a list of Python files, but is {value!r}. Write plugins=[my_router.py].")
    return [str(path) for path in value]


def settings(config: Mapping[str, Any]) -> Settings:
    """Check the keys and single values of a resolved configuration.

    raises : ConfigError for an unknown key or slot, or a value of another type
    """
    for key in config:
        if key not in KEYS:
            raise ConfigError(f"there is no configuration key '{key}'{near(str(key), KEYS)}")
    for node in ("trace", "policy"):
        if not isinstance(config.get(node), Mapping):
            raise ConfigError(f"{node} must be a configuration node, but is {config.get(node)!r}. Set one of its keys.")
    for slot in config["policy"]:
        if slot not in SLOTS:
            raise ConfigError(f"there is no policy slot '{slot}'{near(str(slot), SLOTS)}")
    if missing := [key for key in SINGLE_VALUES if key not in config]:
        raise ConfigError(f"the configuration key '{missing[0]}' must have a value, but it was taken away. Set it.")
    seed, out_dir = config["seed"], config["out_dir"]
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= HIGHEST_SEED:
        raise ConfigError(f"seed must be a whole number with 0 <= seed < 2^63, but is {seed!r}. Write seed=7.")
    if not isinstance(out_dir, str) or not out_dir:
        raise ConfigError(f"out_dir must be the path of a folder, but is {out_dir!r}. Write out_dir=runs/mine.")
    for key in ("leap", "events", "gaps"):
        if not isinstance(config[key], bool):
            raise ConfigError(f"{key} must be true or false, but is {config[key]!r}. Write {key}=true.")
    policies = {str(slot): policy for slot, policy in config["policy"].items()}
    return Settings(policies, seed, out_dir, config["leap"], config["events"], config["gaps"])


def sentence(error: Exception, overrides: Iterable[str]) -> str:
    """Say in one sentence what Hydra or OmegaConf found wrong.

    overrides : arguments of the command line, to look for the nearest known key in what they select
    """
    text = str(error)
    if found := re.search(r"Could not find '(.+?)'", text):
        return _no_such_choice(found[1], re.findall(r"^\t(\S+)$", text.partition("search path")[0], re.M))
    if found := re.search(r"Could not override '(.+?)'", text):
        full = re.search(r"full_key: (\S+)", str(error.__cause__))
        return _no_such_key(full[1] if full else found[1], known_keys(overrides))
    if found := re.search(r"Ambiguous value for argument '(.+?)'", text):
        return f"'{found[1]}' lists several values. Add -m to run each of them, or write key=[a,b] for a list."
    if "Config group override must be a string" in text:
        emptied = next((key for key in map(_emptied_group, overrides) if key), "a group")
        return f"{emptied} must be the name of a configuration, but is null. Leave it out for the default."
    if isinstance(error, OverrideParseException):
        broken = _broken_override(overrides) or getattr(error, "override", None)
        where = f"the argument '{broken}'" if broken else "an argument"
        return f"{where} cannot be read as key=value. Quote a value with special characters: \"trace.path='a=b.csv'\"."
    if found := re.search(r"full_key: (\S+)", text):
        return f"the configuration key '{found[1]}' cannot be resolved: {_first_line(text)}."
    return f"the configuration cannot be composed: {_first_line(text)}."


def known_keys(overrides: Iterable[str]) -> list[str]:
    """List every key and group that the chosen configurations have, for suggestions."""
    groups = [text for text in overrides if re.match(r"\+?[\w/]+=", text) and "," not in text and _is_group(text)]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_folder())):
            node = compose("config", overrides=groups)
    except (HydraException, OmegaConfBaseException):
        return [*KEYS, *(f"policy/{slot}" for slot in SLOTS)]
    return [*_leaves(node, ""), *(name for name in NODES if name != "policy"), *(f"policy/{slot}" for slot in SLOTS)]


def near(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that names the closest of the known words, or some of them."""
    known = [key for key in known if not word.startswith(f"{key}.")]
    siblings = [key for key in known if key.rpartition(".")[0] == word.rpartition(".")[0]]
    names = {key.rpartition(".")[2]: key for key in siblings}
    close = difflib.get_close_matches(word.rpartition(".")[2], names, n=1)
    found = names[close[0]] if close else None
    if found is None and (close := difflib.get_close_matches(word, known, n=1, cutoff=0.75)):
        found = close[0]
    if found is not None:
        return f". Did you mean '{found}'?"
    return f". Known there: {', '.join(siblings)}." if siblings else "."


def _is_group(text: str) -> bool:
    key = text.partition("=")[0]
    return "/" in key or key in NODES or key == "+study"


def _emptied_group(text: str) -> str | None:
    key, _, value = text.partition("=")
    return key if value in ("null", "") and _is_group(text) else None


def _leaves(node: DictConfig, prefix: str) -> Iterator[str]:
    for key in map(str, node):
        if not OmegaConf.is_interpolation(node, key) and OmegaConf.is_dict(node[key]):
            yield from _leaves(node[key], f"{prefix}{key}.")
        yield f"{prefix}{key}"


def _no_such_key(key: str, known: Sequence[str]) -> str:
    if key.startswith(OPEN_NODES):
        return f"there is no configuration key '{key}' yet. Add it with +{key}=..., or take another away with ~."
    return f"there is no configuration key '{key}'{near(key, known)}"


def _no_such_choice(choice: str, options: Sequence[str]) -> str:
    group, _, name = choice.rpartition("/")
    hint = near(name, options)
    if hint == "." or hint.startswith(". Known there"):
        hint = f". Known: {', '.join(options)}." if options else "."
    return f"there is no {group or 'configuration'} called '{name}'{hint}"


def _broken_override(overrides: Iterable[str]) -> str | None:
    parser = OverridesParser.create()
    for text in overrides:
        if text.startswith("-"):
            continue
        try:
            parser.parse_override(text)
        except HydraException:
            return text
    return None


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0].rstrip(".") if text.strip() else "no reason was given"

"""What the verbs of studies share: keys of their own before those of a run, and one run that they look at."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from replay.configuration import Settings, settings
from replay.errors import ConfigError
from replay.run import MULTIRUN, Runner
from replay.table import show
from replay.write import check_writable

HELP = ("-h", "--help")


def split(
    verb: str, arguments: Sequence[str], defaults: Mapping[str, Any], read: Callable[[str, str], Any],
    many: bool = False,
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    """Return the values of a verb's own keys, `verb.key=text`, and the other arguments.

    defaults : key -> value where it is not given
    read     : (key, text) -> value; raises ConfigError for a text that is none
    many     : the verb looks at many runs anyway, so that -m says nothing new
    raises   : ConfigError for an unknown key, or -m where it looks at one run
    """
    others = [text for text in arguments if not text.startswith(f"{verb}.")]
    if not many and any(text in MULTIRUN for text in others):
        raise ConfigError(f"{verb} looks at one run, but -m asks for many. Leave it out, or use `kvreplay run -m`.")
    if defaults and any(text in HELP for text in others):
        own = "\n".join(f"  {verb}.{key}={_told(value)}" for key, value in defaults.items())
        show(f"Keys of kvreplay {verb}, with their defaults; the others are those of kvreplay run:\n\n{own}\n")
    values = dict(defaults)
    for text in arguments:
        if text.startswith(f"{verb}."):
            key, _, value = text.removeprefix(f"{verb}.").partition("=")
            if key not in defaults:
                keys = ", ".join(defaults) or "those of kvreplay run"
                raise ConfigError(f"there is no key '{verb}.{key}'; the keys are {keys}.")
            values[key] = read(key, value)
    return values, others


def _told(value: Any) -> str:
    """Write a default as it would be given."""
    return "" if value is None else ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


class Study(Runner, ABC):
    """Looks at one composed configuration instead of replaying it."""

    def single(self, config: dict[str, Any]) -> Any:
        """Check a configuration and where its results go, then look at it."""
        checked = settings(config)
        folder = Path(checked.out_dir)
        check_writable(folder)
        self.study(config, checked, folder)

    @abstractmethod
    def study(self, config: dict[str, Any], checked: Settings, folder: Path) -> None:
        """Look at the run of a resolved configuration; what is found goes into a folder and onto the terminal."""

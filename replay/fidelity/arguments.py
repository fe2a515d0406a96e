"""The arguments of a step of `kvreplay profile` that takes keys of its own alone."""

import difflib
from collections.abc import Sequence

from replay.errors import ConfigError

FOLDER = "from"


def given(step: str, arguments: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Return key -> text of arguments key=text; --from FOLDER stands for from=FOLDER.

    raises : ConfigError for what is no key=text, or an unknown key
    """
    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        text = rest.pop(0)
        if text == f"--{FOLDER}" and rest:
            text = f"{FOLDER}={rest.pop(0)}"
        key, equals, value = text.removeprefix("--").partition("=")
        if not equals or not value:
            raise ConfigError(f"kvreplay profile {step} takes {', '.join(f'{one}=...' for one in known)}, but got "
                              f"'{text}'. See --help.")  # fmt: skip
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"The keys are {', '.join(known)}."
            raise ConfigError(f"kvreplay profile {step} has no key '{key}'. {hint}")
        found[key] = value
    return found

"""The verb `profile`: build, calibrate, observe, measure and validate hardware profiles, and what others published."""

import difflib
from collections.abc import Sequence
from importlib import import_module

from replay.errors import ConfigError

# what is asked for -> module of this package whose main(arguments) does it, and what that is
STEPS = {
    "build": ("build", "a profile file from measured kernels or iterations: --from FOLDER model=llama3_70b tp=4"),
    "calibrate": ("calibrate", "fit a profile to the log of a real engine: log=FILE"),
    "observe": ("observe", "drive an OpenAI-compatible endpoint with a trace and record its log: url=http://..."),
    "measure": ("measure", "time kernels of the local GPU through PyTorch"),
    "published": ("published", "published measurements beside what the model gives: of=mooncake,deepseek,splitwise"),
    "validate": ("validate", "replay recorded runs of real engines, and say how far off"),
}


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments of `kvreplay profile` ask for.

    returns : exit code
    raises  : ConfigError for a step that is none
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    step, *rest = arguments
    if step not in STEPS:
        close = difflib.get_close_matches(step, STEPS, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise ConfigError(f"kvreplay profile must be followed by one of {', '.join(STEPS)}, but is by '{step}'.{hint}")
    return int(import_module(f"replay.fidelity.{STEPS[step][0]}").main(rest))


def usage() -> str:
    """Return the text of --help."""
    return "usage: kvreplay profile STEP [key=value ...]\n\n" + "\n".join(
        f"  {name:<10} {text}" for name, (_, text) in STEPS.items())  # fmt: skip

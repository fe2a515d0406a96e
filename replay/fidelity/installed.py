"""Source of profiles: the kernel tables that the package aiconfigurator-core carries, where it is installed."""

from importlib.util import find_spec
from pathlib import Path

from replay.errors import ConfigError
from replay.fidelity import kernels
from replay.fidelity.asked import Asked
from replay.fidelity.kernel_model import Composed
from replay.hardware.profile import Profile

NAME, PACKAGE = "aiconfigurator", "aiconfigurator_core"


def recognises(folder: str | Path) -> bool:
    """Return whether the package is meant: from=aiconfigurator."""
    return str(folder) == NAME


def build(folder: str | Path, asked: Asked) -> Profile:
    """Compile a profile from the package's tables, as `replay.fidelity.kernels.build`."""
    return kernels.build(package_folder(), asked)


def measured(folder: str | Path, asked: Asked) -> Composed:
    """Return what the profile was compiled from."""
    return kernels.measured(package_folder(), asked)


def package_folder() -> Path:
    """Return where the package lies; none of its code runs.

    raises : ConfigError if it is not installed, or carries no tables
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError(f"from={NAME} needs the package aiconfigurator-core, which is not installed. Install "
                          f"'kvreplay[{NAME}]', or name a folder of kernel tables.")
    folder = Path(spec.origin).parent
    if not kernels.recognises(folder):
        raise ConfigError(f"from={NAME} needs kernel tables in the package aiconfigurator-core, but this version "
                          f"carries none. Install another version, or name a folder of kernel tables.")
    return folder

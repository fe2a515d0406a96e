"""Formats of engine logs: one module each, found by import.

A format is a module of this package with two functions: `sniff(path, head) -> bool` says whether a file is of it,
`read(path) -> Found` reads it. Its module name is the format's name; `table`, which takes anything, is asked last.
A module without `sniff` is a helper (`source`, `bench`).
"""

import importlib
import pkgutil
from functools import cache
from types import ModuleType

from replay.fidelity.formats.source import Found

__all__ = ["Found", "formats"]


@cache
def formats() -> dict[str, ModuleType]:
    """Return the modules of the formats by name, in the order in which they are asked."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    known = [module for module in modules if hasattr(module, "sniff")]
    known.sort(key=lambda module: (getattr(module, "PRIORITY", 0), module.__name__))
    return {module.__name__.rpartition(".")[2]: module for module in known}

"""Formats of engine logs: one module each, found by import.

A format is a module of this package with two functions: `sniff(path, head) -> bool` says whether a file is of it,
`read(path) -> Found` reads it. Its module name is the format's name; `table`, which takes anything, is asked last.
A module without `sniff` is a helper (`source`, `bench`).
"""

import sys
from functools import cache
from types import ModuleType

from replay.fidelity.formats.source import Found
from traces.formats import sniffers

__all__ = ["Found", "formats"]


@cache
def formats() -> dict[str, ModuleType]:
    """Return the modules of the formats by name, in the order in which they are asked."""
    return sniffers(sys.modules[__name__])

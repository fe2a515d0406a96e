"""Packages whose modules each read one format of a file, found by import and asked in order."""

import importlib
import pkgutil
from types import ModuleType


def sniffers(package: ModuleType) -> dict[str, ModuleType]:
    """Return the modules of a package that can tell a file of their format, by name, in the order to ask them.

    A format is a module with a function `sniff`; its name is the format's. PRIORITY gives the order, 0 where there is
    none, then the name.
    """
    names = [one.name for one in pkgutil.iter_modules(package.__path__)]
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    found = [module for module in modules if hasattr(module, "sniff")]
    found.sort(key=lambda module: (getattr(module, "PRIORITY", 0), module.__name__))
    return {module.__name__.rpartition(".")[2]: module for module in found}

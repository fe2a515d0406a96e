"""Compile with Numba, and keep compiled code only as long as nothing that it depends on has changed.

Numba's own cache looks at one file only: a helper edited elsewhere, or a bounds check switched on, would go unnoticed
(numba issue 1833). Hence the cache folder is named by a digest of every source that compiled code may inline.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

KEPT_BUILDS = 4  # compiled versions kept side by side
INTERPRETED = bool(numba.config.DISABLE_JIT)


def user_cache() -> Path:
    """Return the folder for compiled code: KVREPLAY_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("KVREPLAY_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kvreplay"


def build_id() -> str:
    """Return a digest of all that compiled code depends on; a new digest means a new, empty cache."""
    digest = hashlib.sha256()
    for part in (numba.__version__, np.__version__, os.environ.get("NUMBA_BOUNDSCHECK", "")):
        digest.update(part.encode() + b"\0")
    root = Path(__file__).resolve().parent.parent
    engine, traces = (root / "replay" / "engine").rglob("*.py"), (root / "traces").glob("*kernels.py")
    for source in sorted([*engine, root / "replay" / "policy.py", *traces, Path(__file__)]):
        if source.exists():
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _cache_folder() -> Path | None:
    folder = user_cache() / build_id()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        builds = [build for build in folder.parent.iterdir() if build.is_dir()]
        builds.sort(key=lambda build: build.stat().st_mtime, reverse=True)
        for old in builds[KEPT_BUILDS:]:
            shutil.rmtree(old, ignore_errors=True)
    except OSError:
        return None  # a read-only home: compile anew in each process
    return folder


FOLDER = Path(numba.config.CACHE_DIR) if numba.config.CACHE_DIR else _cache_folder()
if FOLDER is not None:
    numba.config.CACHE_DIR = str(FOLDER)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a helper that other compiled code calls; not callable from Python unless interpreted."""
    return numba.njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def entry(*signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function that Python calls, cached on disk where there is a folder for it."""
    return numba.njit(*signature, nogil=True, cache=FOLDER is not None)

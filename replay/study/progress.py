"""A progress bar for studies that work in steps."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress


@contextmanager
def steps(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar on a terminal; yields what moves it by a step."""
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task(what, total=total)
        yield lambda: progress.advance(bar)

"""Advance a replay: ready the compiled code, show progress, and stop well after Ctrl-C."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from replay.table import show

if TYPE_CHECKING:
    from replay.cluster import Cluster
    from replay.session import Session

EVENTS_A_SLICE = 200_000  # about a tenth of a second: how soon Ctrl-C and the progress bar see the replay
PROGRESS_AFTER_S = 1.0


def drive(session: "Session") -> bool:
    """Advance a session to its end, showing progress on a terminal once it lasts; return whether Ctrl-C cut it short.

    A first Ctrl-C ends the slice in progress, so that the state is whole; a second one stops at once.
    """
    ready()
    started_s = time.monotonic()
    with _progress() as progress, first_interrupt() as interrupted:
        bar = None
        while not session.advance(EVENTS_A_SLICE):
            if interrupted.is_set():
                return True
            if bar is None and time.monotonic() - started_s > PROGRESS_AFTER_S:
                progress.start()
                bar = progress.add_task("replaying", total=len(session.trace))
            if bar is not None:
                progress.update(bar, completed=session.gone)
    return False


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import Progress

    progress = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    try:
        yield progress
    finally:
        progress.stop()


@contextlib.contextmanager
def first_interrupt(interrupted: threading.Event | None = None) -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event that the loop reads; the handler before is back for the second."""
    interrupted = interrupted or threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def announce(cluster: "Cluster") -> None:
    """Say why a first run with a KV hierarchy, a fabric, stages or drafts takes a while."""
    from replay.engine import compile

    missing = []
    if cluster.kv is not None and not compile.is_compiled("tiers_at"):
        missing.append(("KV hierarchy", compile.USUAL_TIERS_SECONDS))
    if cluster.fabric is not None and not compile.is_compiled("fabric_at"):
        missing.append(("fabric", compile.USUAL_FABRIC_SECONDS))
    if cluster.stages and not compile.is_compiled("stages_at"):
        missing.append(("stages", compile.USUAL_STAGES_SECONDS))
    if cluster.speculation is not None and not compile.is_compiled("drafting_at"):
        missing.append(("speculative decoding", compile.USUAL_DRAFTING_SECONDS))
    for part, duration_s in missing:
        show(f"compiling the {part} once for this version (about {duration_s} s); later runs start at once",
             stderr=True)  # fmt: skip


def ready() -> None:
    """Have the event loop ready, saying why that takes a while where it must be compiled first."""
    from replay.engine import compile

    if not compile.is_compiled():
        duration = f"about {compile.USUAL_SECONDS} s"
        show(f"compiling the event core once for this version ({duration}); later runs start at once", stderr=True)
    compile.load()

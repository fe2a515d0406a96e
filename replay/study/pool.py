"""Replay many things at once on the threads of one process: compiled code runs without Python's lock."""

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")
Key = TypeVar("Key")
Value = TypeVar("Value")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    function: Callable[[Item], Found], items: Iterable[Item], workers: int | None = None, ahead: int | None = None
) -> Iterator[Found]:
    """Yield function(item) for each item, in the order of the items, computed by several threads.

    function : called from threads; an error is raised where its item's turn comes, and what had not begun is dropped
    workers  : threads; None for one a core
    ahead    : items taken beyond the one whose turn it is, for items that fill the memory; None takes all at once
    """
    left = iter(items)
    with ThreadPoolExecutor(workers or cores()) as pool:
        futures: deque[Future[Found]] = deque()
        try:
            for item in itertools.islice(left, ahead):
                futures.append(pool.submit(function, item))
            while futures:
                for item in itertools.islice(left, 1):
                    futures.append(pool.submit(function, item))
                yield futures.popleft().result()
        finally:
            for future in futures:
                future.cancel()


class Once(Generic[Key, Value]):
    """Makes a value once a key, whichever thread asks first; the others wait for it."""

    def __init__(self, make: Callable[[Key], Value], most: int | None = None) -> None:
        self._make, self._most = make, most
        self._lock = threading.RLock()
        self._kept: dict[Key, Value] = {}

    def __call__(self, key: Key) -> Value:
        """Return the value of a key; the oldest one is forgotten where there would be more than `most`."""
        with self._lock:
            if key not in self._kept:
                if self._most is not None and len(self._kept) >= self._most:
                    del self._kept[next(iter(self._kept))]
                self._kept[key] = self._make(key)
            return self._kept[key]

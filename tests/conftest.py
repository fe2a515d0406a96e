"""The order of the tests: what compiles nothing, or in a cache of its own, goes first, on one of two workers.

The other worker compiles the event core meanwhile, and both load it from then on.
"""

import pytest

FIRST = ("test_interpreted.py", "test_bounds.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of these files before all others, which keep their order."""
    items.sort(key=lambda item: item.path.name not in FIRST)

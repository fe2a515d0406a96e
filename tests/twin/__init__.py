"""The naive twin: MODEL.md and HIERARCHY.md in plain objects, event after event, nothing leapt over, no heap."""

from tests.twin.running import run

__all__ = ["run"]

"""The naive twin: MODEL.md in plain objects, one iteration after the other, nothing leapt over, no heap, no array."""

from tests.twin.model import run

__all__ = ["run"]

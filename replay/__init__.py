"""Replay LLM request traces through an exact discrete-event model of an inference cluster."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["HOLD", "NEVER", "Choice", "Result", "Session", "Span", "replay"]

_HOME = {"replay": "replay.session", "Session": "replay.session", "Result": "replay.result", "Span": "replay.policy",
         "Choice": "replay.policy", "HOLD": "replay.policy", "NEVER": "replay.policy"}


def __getattr__(name: str) -> Any:
    """Import what is asked for on first use: `import replay` itself stays instant."""
    if name not in _HOME:
        raise AttributeError(f"module 'replay' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)

"""Request traces: one Arrow schema, a reader per public format, and tools to cut, describe and fetch them."""

from traces.errors import KvreplayError, TraceError
from traces.readers import load
from traces.schema import Trace, build, check

__all__ = ["KvreplayError", "Trace", "TraceError", "build", "check", "load"]

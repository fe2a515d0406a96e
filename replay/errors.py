"""Errors of configuration, policies and the engine; the base class and TraceError live in `traces.errors`."""

from traces.errors import KvreplayError, TraceError

__all__ = ["ConfigError", "EngineError", "KvreplayError", "LogError", "PolicyError", "SweepError", "TraceError",
           "WriteError"]


class ConfigError(KvreplayError):
    """A configuration key, value or combination that cannot be run."""


class PolicyError(KvreplayError):
    """A policy has a wrong signature, raised, or returned something outside its range."""


class EngineError(KvreplayError):
    """The kernel stopped with a fault that no policy caused; a broken law is always a bug worth reporting."""


class WriteError(KvreplayError):
    """A result could not be written; nothing half-written is left behind."""


class SweepError(KvreplayError):
    """A multirun or a study ended before its jobs were done; what had finished is kept."""


class LogError(KvreplayError):
    """A recorded log of a real engine cannot be read, or breaks a rule of `replay.fidelity.logs`."""

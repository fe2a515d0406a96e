"""The errors a user can cause: each carries one sentence (rule, value, place, remedy)."""


class KvreplayError(ValueError):
    """Base of every error that the command line prints as one sentence."""


class TraceError(KvreplayError):
    """A trace file, table or generator parameter breaks a rule of `traces.schema`."""

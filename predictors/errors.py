"""The error of predictors that a user can cause."""

from traces.errors import KvreplayError


class PredictorError(KvreplayError):
    """A predictor's configuration or its target cannot be met."""

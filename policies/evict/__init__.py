"""Which unused prefix leaves a cache first."""

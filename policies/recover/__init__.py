"""How a request goes on whose instance failed."""

"""How many instances a pool should have."""

"""Studies over replays: what a decision cost, and what the best of a kind would have been."""

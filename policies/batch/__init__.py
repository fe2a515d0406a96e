"""What one iteration of an instance does."""

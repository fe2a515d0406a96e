"""Decode side: which instance takes over after prefill."""

"""Routing: which instance computes a request's prefill."""

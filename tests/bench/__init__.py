"""Benchmarks, run by hand: python -m tests.bench.speed (or memory, start, peer). No test collects them."""

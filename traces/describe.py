"""Describe a trace: one flat dictionary of numbers, and a table of them."""

import numpy as np
from rich.table import Table

from traces.reuse import first_hits, hit_tokens
from traces.schema import LABELS, Trace

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def describe(trace: Trace) -> dict[str, float]:
    """Return a trace's numbers, flat.

    returns : requests; span_s (first to last arrival), rate_per_s, gap_cv (standard deviation / mean of the gaps),
              distinct_arrivals; for prompt_tokens and output_tokens mean, p50, p90, p99, max and total;
              with prefix_blocks their size, number, unique ones, and the hit rates of an infinite cache by block and
              by token; the number of tiers, tenants, sessions, kinds; with parents the turns and think times
    """
    numbers = {"requests": len(trace), **_arrivals(trace.column("arrival_s"))}
    for name in ("prompt_tokens", "output_tokens"):
        numbers |= _distribution(name, trace.column(name))
        numbers[f"{name}_total"] = int(trace.column(name).sum(dtype=np.int64))
    if "prefix_blocks" in trace:
        numbers |= _sharing(trace)
    for name in (label for label in LABELS if label in trace):
        numbers[f"{name}s"] = len(np.unique(trace.codes(name)))
    if "sessions" in numbers:
        turns = np.unique(trace.codes("session"), return_counts=True)[1]
        numbers |= _distribution("session_turns", turns)
    if "parent" in trace:
        closed = trace.column("parent") >= 0
        numbers["closed_loop_requests"] = int(closed.sum())
        numbers |= _distribution("think_s", trace.column("think_s")[closed])
    return numbers


def render(trace: Trace, numbers: dict[str, float]) -> Table:
    """Return the numbers as a table for the terminal, with the reader's notes below."""
    notes = ", ".join(f"{name}: {value}" for name, value in trace.notes.items())
    table = Table(title=trace.name, caption=notes or None)
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name, value in numbers.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:,.6g}")
    return table


def _arrivals(arrivals: np.ndarray) -> dict[str, float]:
    gaps = np.diff(arrivals)
    span = float(arrivals[-1] - arrivals[0])
    numbers = {"span_s": span, "distinct_arrivals": int((gaps > 0).sum()) + 1}
    if span > 0:
        numbers |= {"rate_per_s": len(gaps) / span, "gap_cv": float(gaps.std() / gaps.mean())}
    return numbers


def _distribution(name: str, values: np.ndarray) -> dict[str, float]:
    if len(values) == 0:
        return {}
    points = np.quantile(values, list(QUANTILES.values()))
    spread = {f"{name}_{label}": float(point) for label, point in zip(QUANTILES, points, strict=True)}
    return {f"{name}_mean": float(values.mean()), **spread, f"{name}_max": values.max().item()}


def _sharing(trace: Trace) -> dict[str, float]:
    offsets, ids = trace.prefix()
    hits = first_hits(trace)
    total = int(hits.sum())
    prompts = trace.column("prompt_tokens").sum(dtype=np.int64)
    return {
        "block_tokens": trace.block_tokens or 0,
        "blocks": len(ids),
        "unique_blocks": len(ids) - total,
        "infinite_hit_rate_blocks": total / max(len(ids), 1),
        "infinite_hit_rate_tokens": float(hit_tokens(trace, hits).sum() / prompts),
    }

"""kv-cache-tester sessions: agentic coding with think times, replayed closed loop."""

from pathlib import Path

import numpy as np
import polars as pl

from traces.errors import TraceError
from traces.readers.chain import split_lists
from traces.readers.source import parquet_columns, read_parquet, unchecked
from traces.schema import Trace

COLUMNS = (
    *("trace_id", "agent_id", "seq", "t_abs", "input_length", "output_length"),
    *("api_time", "ttft", "think_time", "hash_ids"),
)
SORT = True
ZERO_TOKENS = "one"  # cancelled calls: their prompt was computed, and the session went on


def sniff(head: bytes, path: Path) -> bool:
    file = path / "requests.parquet" if path.is_dir() else path
    return (path.is_dir() or head.startswith(b"PAR1")) and parquet_columns(file) >= set(COLUMNS)


def read(path: Path, rate_per_s: float = 0.1, seed: int = 0, block_tokens: int = 64) -> Trace:
    """Read kv-cache-tester sessions as one closed-loop trace.

    Sessions have no common clock, so they start as a seeded Poisson process, in file order; byte-identical copies
    (`duplicate_of` in sessions.parquet, if beside) are left out. A request waits for the one before it of its agent,
    then think_s. A sub-agent's first request waits for the main agent's last request begun before it, then for the
    rest of its recorded delay; the main agent does not wait for sub-agents, because its own think_time has them in it.
    arrival_s of later turns is as recorded on the session's clock.

    path       : requests.parquet, or the folder with it
    rate_per_s : session starts per second
    seed       : of the session starts
    source     : callanjfox/kv-cache-tester, traces/
    """
    file = path / "requests.parquet" if path.is_dir() else path
    if not (rate_per_s > 0 and np.isfinite(rate_per_s)):
        raise TraceError(f"rate_per_s must be positive and finite, but got {rate_per_s}.")
    frame, dropped = _without_copies(pl.DataFrame(read_parquet(file, COLUMNS)), file)
    frame = frame.sort("trace_id", "agent_id", "seq", maintain_order=True)
    if frame.height == 0:
        raise TraceError(f"a trace must have at least one request, but {file.name} has none. Fetch it again.")
    parent, think = _turns(frame)
    sessions, session = np.unique(frame["trace_id"].to_numpy(), return_inverse=True)
    starts = np.cumsum(np.random.default_rng(seed).exponential(1.0 / rate_per_s, len(sessions)))
    offsets, ids = split_lists(frame["hash_ids"].cast(pl.List(pl.Int64)).to_arrow())
    columns = {
        "arrival_s": starts[session] + frame["t_abs"].to_numpy(),
        "prompt_tokens": frame["input_length"].to_numpy(),
        "output_tokens": frame["output_length"].to_numpy(),
        "prefix_blocks": (offsets, _apart(ids, offsets, session)),
        "session": frame["trace_id"].to_arrow(),
        "kind": np.where(frame["agent_id"].to_numpy() == "", "main", "sub-agent"),
        "parent": parent,
        "think_s": think,
        "ttft_s": frame["ttft"].cast(pl.Float64).fill_null(np.nan).to_numpy(),
        "e2e_s": frame["api_time"].cast(pl.Float64).fill_null(np.nan).to_numpy(),
    }
    notes = {"format": "kv_cache_tester", "duplicates_dropped": dropped, "rate_per_s": rate_per_s, "seed": seed}
    return unchecked(file, columns, block_tokens, notes)


def _apart(ids: np.ndarray, offsets: np.ndarray, session: np.ndarray) -> np.ndarray:
    """Move each session's ids to a range of their own, (blocks,) int64: a hash means something in its session only."""
    counts = np.diff(offsets)
    tops = np.zeros(int(session.max()) + 1, np.int64)
    rows = np.flatnonzero(counts)
    if len(rows):
        np.maximum.at(tops, session[rows], np.maximum.reduceat(ids, offsets[:-1][rows]) + 1)
    base = np.cumsum(tops) - tops
    return ids + np.repeat(base[session], counts)


def _without_copies(frame: pl.DataFrame, file: Path) -> tuple[pl.DataFrame, int]:
    """Return the frame without duplicate sessions, and how many were left out."""
    beside = file.with_name("sessions.parquet")
    if parquet_columns(beside) < {"trace_id", "duplicate_of"}:
        return frame, 0
    sessions = pl.DataFrame(read_parquet(beside, ("trace_id", "duplicate_of")))
    copies = sessions.filter(pl.col("duplicate_of").is_not_null())["trace_id"]
    present = copies.filter(copies.is_in(frame["trace_id"].unique().implode()))
    return frame.filter(~pl.col("trace_id").is_in(present.implode())), len(present)


def _turns(frame: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return parent (requests,) int64 and think_s (requests,) float64 of rows sorted by session, agent, turn."""
    trace, agent = frame["trace_id"].to_numpy(), frame["agent_id"].to_numpy()
    begun = frame["t_abs"].to_numpy()
    served = frame["api_time"].cast(pl.Float64).fill_null(0.0).to_numpy()
    same = np.zeros(len(trace), bool)
    same[1:] = (trace[1:] == trace[:-1]) & (agent[1:] == agent[:-1])
    parent = np.where(same, np.arange(len(trace)) - 1, -1)
    for row in np.flatnonzero(~same & (agent != "")):
        main = np.flatnonzero((trace == trace[row]) & (agent == "") & (begun <= begun[row]))
        parent[row] = main[-1] if len(main) else -1
    gap = np.where(parent >= 0, np.maximum(begun - begun[parent] - served[parent], 0.0), 0.0)
    recorded = frame["think_time"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    return parent, np.where(same & ~np.isnan(recorded), recorded, gap)

"""What is known of a request when it arrives, and of the requests that had finished by then: one builder for all.

Nothing in a row depends on what arrives or finishes later: a test changes the future and compares.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from predictors.errors import PredictorError
from traces.schema import Trace
from traces.trie import Trie, compress, prefix_ids, previous

UNKNOWN = -1.0  # of a feature that nothing is known about yet
PREFIX_DEPTHS = (1, 4, 16, 64)  # trace blocks
LABELS = ("session", "tenant", "kind", "tier")
HALF_LIFE = 8  # completions after which one counts half in the mean of its group
HALF_LIFE_ALL = 64
MOST_KNOWN = 16  # completions of a group beyond which their number says no more
MOST_TURNS = 64
BINS_AN_OCTAVE = 8  # of prompts of similar length
DAY_S = 86_400.0
LOADS_S = (10, 60)
META = ("arrival_s", "finish_s", "prompt_tokens", "output_tokens", "tier", "kind")  # beside the features


@dataclass(frozen=True)
class Pace:
    """When a request is taken to finish: as recorded, else so long after its arrival; both at least 0."""

    first_token_s: float = 1.0
    token_s: float = 0.03

    def __post_init__(self) -> None:
        for name, value in (("first_token_s", self.first_token_s), ("token_s", self.token_s)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
                raise PredictorError(f"predictor.{name} must be a number from 0 to 10^6, but is {value!r}.")

    def finish_s(self, trace: Trace) -> np.ndarray:
        """Return when each request has finished, float64 (requests,) [s]."""
        arrival_s = trace.column("arrival_s")
        finish_s = arrival_s + self.first_token_s + self.token_s * trace.column("output_tokens")
        if "e2e_s" not in trace:
            return finish_s
        recorded_s = arrival_s + trace.column("e2e_s")
        return np.where(np.isfinite(recorded_s), recorded_s, finish_s)


def build(trace: Trace, pace: Pace | None = None, trie: Trie | None = None) -> pl.DataFrame:
    """Return the features of every request, and META.

    pace    : when requests finish, if not recorded; their outputs are known from then on
    trie    : of the trace, if it is at hand
    returns : float32 features, by name (see `feature_names`), one row a request in trace order; log-lengths are natural
    cost    : O(n log n) a group
    """
    trie = trie if trie is not None else compress(trace)
    pace = pace or Pace()
    base = pl.DataFrame(
        {
            "row": np.arange(len(trace)),
            "arrival_s": trace.column("arrival_s"),
            "finish_s": pace.finish_s(trace),
            "output_log": np.log(np.maximum(trace.column("output_tokens"), 1)),
        }
    )
    columns: dict[str, Any] = {"prompt_log": np.log(np.maximum(trace.column("prompt_tokens"), 1))}
    for name, codes in groups(trace, trie).items():
        columns |= _history(base, name, codes)
    columns |= _history(base, "all", np.zeros(len(trace), np.int64), HALF_LIFE_ALL)
    del columns["all_known"]  # it only grows: a model would learn the time of its training
    if len(trie.parent):
        columns |= _prefix(trace, trie, base)
    columns |= _load(base) | _day(base["arrival_s"].to_numpy())
    features = pl.DataFrame({name: np.asarray(values, np.float32) for name, values in columns.items()})
    return features.with_columns(
        base["arrival_s"],
        base["finish_s"],
        pl.Series("prompt_tokens", trace.column("prompt_tokens")),
        pl.Series("output_tokens", trace.column("output_tokens")),
        *(
            pl.Series(name, trace.column(name) if name in trace else ["all"] * len(trace), pl.String)
            for name in ("tier", "kind")
        ),
    )


def feature_names(frame: pl.DataFrame) -> list[str]:
    """Return the names of the features of a frame, in its order."""
    return [name for name in frame.columns if name not in META]


def needs(features: list[str]) -> list[str]:
    """Return the optional columns that a trace must have for these features."""
    columns = {f"{name}_{part}": name for name in LABELS for part in ("recent", "known")}
    columns |= {name: "prefix_blocks" for name in features if name.startswith(("prefix_", "shared_", "fresh_"))}
    return list(dict.fromkeys(columns[name] for name in features if name in columns))


def groups(trace: Trace, trie: Trie) -> dict[str, np.ndarray]:
    """Return group -> int64 (requests,), equal for requests of the same group, -1 for none."""
    prompt = np.maximum(trace.column("prompt_tokens"), 1)
    found: dict[str, np.ndarray] = {}
    if len(trie.parent):
        ids = prefix_ids(trie, PREFIX_DEPTHS)
        found |= {f"prefix_{depth}": ids[:, k] for k, depth in enumerate(PREFIX_DEPTHS)}
    found |= {name: trace.codes(name).astype(np.int64) for name in LABELS if name in trace}
    found["similar"] = np.rint(np.log2(prompt) * BINS_AN_OCTAVE).astype(np.int64)
    found["same"] = prompt.astype(np.int64)
    return found


def _history(base: pl.DataFrame, name: str, codes: np.ndarray, half_life: int = HALF_LIFE) -> dict[str, pl.Series]:
    """Return what the completions of a request's group say: their recent mean log-output, and how many are known."""
    frame = base.with_columns(group=pl.Series(codes))
    done = (
        frame.filter(pl.col("group") >= 0)
        .sort("finish_s", "row")
        .select(
            "finish_s",
            "group",
            recent=pl.col("output_log").ewm_mean(half_life=half_life).over("group"),
            known=pl.int_range(1, pl.len() + 1).over("group"),
        )
    )
    seen = (
        frame.select("row", "arrival_s", "group")
        .join_asof(
            done,
            left_on="arrival_s",
            right_on="finish_s",
            by="group",
            strategy="backward",
            allow_exact_matches=False,
            check_sortedness=False,
        )
        .sort("row")
    )
    return {
        f"{name}_recent": seen["recent"].fill_null(UNKNOWN),
        f"{name}_known": seen["known"].fill_null(0).clip(0, MOST_KNOWN),
    }


def _prefix(trace: Trace, trie: Trie, base: pl.DataFrame) -> dict[str, np.ndarray]:
    """Return what the earlier prompt says that shares the most blocks: usually the turn before."""
    rows, blocks = previous(trie)
    prompt = trace.column("prompt_tokens").astype(np.float64)
    arrival_s, finish_s = base["arrival_s"].to_numpy(), base["finish_s"].to_numpy()
    there, shared = rows >= 0, blocks * float(trie.block_tokens)
    known = there & (finish_s[rows] < arrival_s)
    return {
        "shared_log": np.log1p(shared),
        "fresh_log": np.log1p(np.maximum(prompt - shared, 0.0)),
        "prefix_growth_tokens": np.where(there, prompt - prompt[rows], UNKNOWN),
        "prefix_since_log_s": np.where(there, np.log1p(np.maximum(arrival_s - arrival_s[rows], 0.0)), UNKNOWN),
        "prefix_output_log": np.where(known, base["output_log"].to_numpy()[rows], UNKNOWN),
        "prefix_turn": _turns(rows),
    }


def _turns(rows: np.ndarray) -> np.ndarray:
    """Return how many prompts came before each on its chain of previous rows, at most MOST_TURNS."""
    turns = np.zeros(len(rows), np.float32)
    above = rows.copy()
    for _ in range(MOST_TURNS):
        there = above >= 0
        if not there.any():
            break
        turns += there
        above = np.where(there, rows[above], -1)
    return turns


def _load(base: pl.DataFrame) -> dict[str, np.ndarray]:
    """Return how many requests arrived in the last seconds before each, and how many of the earlier still run."""
    arrival_s = base["arrival_s"].to_numpy()
    before = np.searchsorted(arrival_s, arrival_s, "left")
    loads = {f"arrivals_{width}s": before - np.searchsorted(arrival_s, arrival_s - width, "left") for width in LOADS_S}
    done = np.searchsorted(np.sort(base["finish_s"].to_numpy()), arrival_s, "left")
    return {**loads, "in_flight": np.maximum(before - done, 0)}


def _day(arrival_s: np.ndarray) -> dict[str, np.ndarray]:
    """Return the time of day as a point on a circle, (0, 0) on the first day: it could only say how late it is."""
    angle, later = 2.0 * np.pi * arrival_s / DAY_S, arrival_s >= DAY_S
    return {"day_sin": np.where(later, np.sin(angle), 0.0), "day_cos": np.where(later, np.cos(angle), 0.0)}

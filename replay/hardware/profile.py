"""A hardware profile: what one engine iteration costs on one instance, in exact integers.

With p prefill tokens, D decoding requests, K the sum of their contexts and Q the sum of b^2 - a^2 over prefill
chunks [a, b), an iteration takes

    token_table(p + D) + prefill_token_ps p + decode_request_ps D + prefill_token_sq_fs Q // 1000 + kv_table(K)  ps;

where nothing is prefilled, decode_table(D) stands for token_table(D) if there is one: engines replay such iterations
as captured graphs of a few batch sizes, so that they cost less of the host and as much as the next larger size. Where
something is, mixed_kv_table(K) stands for kv_table(K) if there is one, and mixed_request_ps D comes on top: kernels for
batches that prefill read the KV of decoding requests more slowly than those for decoding alone.

Of `ranks` that step together this is what one takes by itself. Beside the slowest they then take together_table(all
their tokens) + fullest_table(those of the fullest rank)  ps, or where none of them prefills captured_table(those of the
fullest rank): experts that are spread over them, and what they send each other.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from replay.errors import ConfigError
from replay.hardware.units import LARGEST_INT64, PS_PER_S

SEGMENT = np.dtype([("start", "i8"), ("base_ps", "i8"), ("slope_ps", "i8")])
USUAL_LONGEST_TOKENS = 2**17
NOMINAL_TOKENS = 2048
SHARED = ("together_table", "fullest_table", "captured_table")
COSTS = ("prefill_token_ps", "prefill_token_sq_fs", "decode_request_ps", "mixed_request_ps", "kv_token_bytes")
# Half of int64, so that the clock itself can be added to the largest iteration.
LARGEST_ITERATION_PS = LARGEST_INT64 // 2


@dataclass(frozen=True, eq=False)
class Profile:
    """The costs, memory and links of one instance.

    token_table, kv_table : SEGMENT rows (num_segments,) read only; at x the value is base_ps + slope_ps (x - start)
    decode_table, mixed_kv_table : the same, None where they are token_table and kv_table
    ranks                 : instances that step together; together_table, fullest_table, captured_table: what they then
                            take beside the slowest, None where that is nothing
    kv_capacity_tokens    : None when memory sets no limit
    price_per_hour        : USD for the whole instance, 0 when unknown
    idle_w, busy_w        : power of each GPU at rest and while an iteration runs, None when unknown
    interpolation_error   : largest relative error of the tables against the formula they were made from
    raises                : ConfigError when a table is malformed, a cost is negative, or an iteration could be free
    """

    name: str
    token_table: np.ndarray
    kv_table: np.ndarray
    prefill_token_ps: int
    prefill_token_sq_fs: int
    decode_request_ps: int
    kv_token_bytes: int
    kv_capacity_tokens: int | None
    gpus: int
    price_per_hour: float
    nic_bytes_per_s: float
    nic_latency_s: float
    interpolation_error: float
    provenance: str
    idle_w: float | None = None
    busy_w: float | None = None
    decode_table: np.ndarray | None = None
    mixed_kv_table: np.ndarray | None = None
    mixed_request_ps: int = 0
    ranks: int = 1
    together_table: np.ndarray | None = None
    fullest_table: np.ndarray | None = None
    captured_table: np.ndarray | None = None

    def __post_init__(self) -> None:
        _check_table(self.token_table, f"token_table of profile '{self.name}'")
        _check_table(self.kv_table, f"kv_table of profile '{self.name}'")
        for name in ("decode_table", "mixed_kv_table", *SHARED):
            if getattr(self, name) is not None:
                _check_table(getattr(self, name), f"{name} of profile '{self.name}'")
        for field in COSTS:
            if getattr(self, field) < 0:
                raise ConfigError(f"{field} of profile '{self.name}' must be >= 0, but is {getattr(self, field)}.")
        _check_never_free(self)


def table(segments: Iterable[tuple[int, int, int]]) -> np.ndarray:
    """Make a read-only piecewise-affine table.

    segments : (start [tokens], base_ps, slope_ps) with starts rising from 0
    returns  : SEGMENT rows (num_segments,)
    """
    rows = np.array(list(segments), dtype=SEGMENT)
    rows.flags.writeable = False
    return rows


def table_ps(rows: np.ndarray, tokens: int) -> int:
    """Return the value of a table at `tokens` >= 0, in ps."""
    row = rows[int(np.searchsorted(rows["start"], tokens, side="right")) - 1]
    return int(row["base_ps"]) + int(row["slope_ps"]) * (int(tokens) - int(row["start"]))


def iteration_ps(profile: Profile, p: int, D: int, K: int, Q: int) -> int:
    """Cost one iteration in plain Python integers; the honest twin of the kernel's arithmetic.

    p : prefill tokens        D : decoding requests
    K : KV tokens read by the decoding requests      Q : sum of b^2 - a^2 over prefill chunks [a, b) [tokens^2]
    returns : int [ps], 0 for an empty iteration; of ranks in step, as if all ran the same
    """
    if p == 0 and D == 0:
        return 0
    quadratic_ps = profile.prefill_token_sq_fs * int(Q) // 1000
    request_ps = profile.decode_request_ps + (profile.mixed_request_ps if p > 0 else 0)
    linear_ps = profile.prefill_token_ps * int(p) + request_ps * int(D)
    rows = profile.decode_table if p == 0 and profile.decode_table is not None else profile.token_table
    kv_rows = profile.mixed_kv_table if p > 0 and profile.mixed_kv_table is not None else profile.kv_table
    own_ps = table_ps(rows, p + D) + linear_ps + quadratic_ps + table_ps(kv_rows, K)
    return own_ps + shared_ps(profile, profile.ranks * (p + D), p + D, p)


def shared_ps(profile: Profile, tokens: int, fullest: int, prefills: int) -> int:
    """Return what an iteration of ranks in step takes beside the slowest of them.

    tokens : of all ranks; fullest : of the rank with the most; prefills : how many of them are of prompts
    """
    tables = ((profile.together_table, tokens), (profile.fullest_table, fullest)) if prefills else (
        (profile.captured_table, fullest),)  # fmt: skip
    return sum(table_ps(rows, at) for rows, at in tables if rows is not None)


def prefill_s(profile: Profile, tokens: int, cached: int = 0) -> float:
    """Return the seconds of one prompt prefilled alone in one iteration, its first `cached` tokens found in cache."""
    quadratic = tokens * tokens - cached * cached
    return iteration_ps(profile, tokens - cached, 0, 0, quadratic) / PS_PER_S


def decode_s(profile: Profile, context_tokens: int, batch: int = 1) -> float:
    """Return the seconds of one decode iteration of `batch` requests with `context_tokens` each."""
    return iteration_ps(profile, 0, batch, batch * context_tokens, 0) / PS_PER_S


def nominal(profile: Profile) -> dict[str, float]:
    """Summarise a profile by the plain coefficients that a router may believe.

    For a linear profile these are its coefficients; for a compiled one, secants at 2048 tokens.

    returns : iteration_s, prefill_token_s, prefill_token_sq_s, decode_request_s, kv_token_s and
              prefill_tokens_per_s (rate of a prompt of 2048 tokens prefilled alone)
    """
    first_ps, many_ps = (table_ps(profile.token_table, tokens) + shared_ps(profile, profile.ranks * tokens, tokens, 1)
                         for tokens in (1, NOMINAL_TOKENS))  # fmt: skip
    token_ps = (many_ps - first_ps) / (NOMINAL_TOKENS - 1)
    decodes = profile.token_table if profile.decode_table is None else profile.decode_table
    few_ps = (table_ps(decodes, 64) + shared_ps(profile, 0, 64, 0)
              - table_ps(decodes, 1) - shared_ps(profile, 0, 1, 0)) / 63  # fmt: skip
    kv_tokens = 64 * NOMINAL_TOKENS
    kv_ps = (table_ps(profile.kv_table, kv_tokens) - table_ps(profile.kv_table, 0)) / kv_tokens
    return {
        "iteration_s": first_ps / PS_PER_S,
        "prefill_token_s": (token_ps + profile.prefill_token_ps) / PS_PER_S,
        "prefill_token_sq_s": profile.prefill_token_sq_fs / (1000 * PS_PER_S),
        "decode_request_s": (few_ps + profile.decode_request_ps) / PS_PER_S,
        "kv_token_s": kv_ps / PS_PER_S,
        "prefill_tokens_per_s": NOMINAL_TOKENS / prefill_s(profile, NOMINAL_TOKENS),
    }


def refuse_overflow(profile: Profile, token_budget: int, max_batch: int, longest_tokens: int) -> None:
    """Refuse a profile whose largest possible iteration would leave int64.

    longest_tokens : longest context (prompt + output) of the trace
    raises         : ConfigError with the bound and its parts
    """
    tokens = min(token_budget, max_batch * longest_tokens)
    # A chunk [a, b) adds (b - a)(b + a); neither the budget nor the batch can be exceeded.
    quadratic = min(2 * tokens * longest_tokens, max_batch * longest_tokens**2)
    largest_ps = iteration_ps(profile, tokens, max_batch, max_batch * longest_tokens, quadratic)
    if max(largest_ps, profile.prefill_token_sq_fs * quadratic) > LARGEST_ITERATION_PS:
        raise ConfigError(
            f"the largest iteration on profile '{profile.name}' must stay below {LARGEST_ITERATION_PS / PS_PER_S:.3g} "
            f"s (int64 ps), but {tokens} prefill tokens and {max_batch} requests of {longest_tokens} tokens could take "
            f"{largest_ps / PS_PER_S:.3g} s. Lower cluster.token_budget, cluster.max_batch or the coefficients."
        )


def _check_table(rows: np.ndarray, place: str) -> None:
    if rows.dtype != SEGMENT or rows.ndim != 1 or len(rows) == 0 or rows["start"][0] != 0:
        raise ConfigError(f"{place} must be a list of segments (start, base_ps, slope_ps) whose first start is 0.")
    if (np.diff(rows["start"]) <= 0).any():
        raise ConfigError(f"{place} must have strictly rising starts, but they are {rows['start'].tolist()}.")
    if (rows["base_ps"] < 0).any() or (rows["slope_ps"] < 0).any():
        raise ConfigError(f"{place} must have no negative base or slope: more tokens cannot cost less.")
    for row, following in zip(rows[:-1], rows[1:], strict=True):
        before = int(row["base_ps"]) + int(row["slope_ps"]) * (int(following["start"]) - int(row["start"]))
        if int(following["base_ps"]) < before:
            raise ConfigError(
                f"{place} must not fall, but drops from {before} to {int(following['base_ps'])} ps at "
                f"{int(following['start'])} tokens. Correct the measurement or merge the segments."
            )


def _check_never_free(profile: Profile) -> None:
    smallest = {
        "prefill token": iteration_ps(profile, 1, 0, 0, 0),
        "decoding request": iteration_ps(profile, 0, 1, 1, 0),
    }
    for what, cost_ps in smallest.items():
        if cost_ps < 1:
            remedy = "prefill_token_s" if what == "prefill token" else "decode_request_s"
            raise ConfigError(
                f"an iteration must cost at least 1 ps, but one {what} on profile '{profile.name}' costs 0 ps. "
                f"Set hardware.iteration_s or hardware.{remedy} to 1e-12 s or more."
            )

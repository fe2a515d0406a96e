"""Give requests a tier, tenant or kind by rule: no public trace records tiers.

A rule is one of
    {gold: 0.2, silver: 0.3, bronze: 0.5}                                  shares, drawn session by session
    {column: model, map: {gpt-4: gold}, default: bronze}                   by the value of a label column
    {column: prompt_tokens, below: {gold: 1000, silver: 4000}, default: bronze}   by a number, lowest limit first
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from traces.errors import TraceError
from traces.params import given, number
from traces.schema import COLUMNS, LABELS, Trace, rebuild
from traces.window import roots_of

ASSIGNED = ("tier", "tenant", "kind")
SHARE_TOLERANCE = 1e-6


def assign(trace: Trace, column: str, rule: Mapping[str, Any], seed: int = 0) -> Trace:
    """Return the trace with a label column set by a rule; a column it had is replaced.

    column : "tier", "tenant" or "kind"
    rule   : one of the three forms above; entries that are null do not count
    seed   : for shares only; the draw is keyed by (seed, column, session), so a session keeps its label in every
             window, and rows without a session are keyed by their row (turns by the row that began their chain)
    raises : TraceError on a rule that is none of these, or shares that do not add up to 1
    """
    if column not in ASSIGNED:
        raise TraceError(f"a rule sets one of {', '.join(ASSIGNED)}, but got '{column}'.")
    if not isinstance(rule, Mapping):
        raise TraceError(f"the rule for '{column}' must be shares like {{gold: 0.2, bronze: 0.8}}, but got {rule!r}.")
    entries = given(rule)
    if "column" in entries:
        codes, names = _by_column(trace, column, entries)
    else:
        codes, names = _by_share(trace, column, entries, seed)
    labels = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(names, pa.string()))
    table = trace.table
    if column in trace:
        table = table.set_column(table.column_names.index(column), column, labels)
    else:
        table = table.append_column(column, labels)
    ordered = table.select([name for name in COLUMNS if name in table.column_names])
    return rebuild(trace, ordered, {f"{column}_rule": entries})


def _by_share(trace: Trace, column: str, shares: Mapping[str, Any], seed: int) -> tuple[np.ndarray, list[str]]:
    """Draw labels by share: the draw of a key falls into one of consecutive intervals of [0, 1)."""
    values = np.array([number(f"{column} share of {name}", share, 0.0, 1.0) for name, share in shares.items()])
    if abs(values.sum() - 1.0) > SHARE_TOLERANCE:
        raise TraceError(
            f"shares must add up to 1, but those of '{column}' add up to {values.sum():g} ({dict(shares)}). "
            "Set every share, or set the ones you do not want to null."
        )
    draws = _draws(trace, column, seed)
    codes = np.searchsorted(np.cumsum(values), draws, side="right")
    last = int(np.flatnonzero(values)[-1])
    return np.minimum(codes, last), list(shares)


def _draws(trace: Trace, column: str, seed: int) -> np.ndarray:
    """Return a number in [0, 1) per request, a pure function of (seed, column, session or row)."""
    if not 0 <= seed < 2**64:
        raise TraceError(f"a seed must be an integer in 0 .. 2^64 - 1, but got seed={seed!r}.")
    salt = np.uint64(_hash64(f"{seed}/{column}"))
    if "session" in trace:
        keys = np.array([_hash64(label) for label in trace.labels("session")], np.uint64)[trace.codes("session")]
    elif "parent" in trace:
        keys = roots_of(trace.column("parent")).astype(np.uint64)
    else:
        keys = np.arange(len(trace), dtype=np.uint64)
    return (_mix(_mix(keys) ^ salt) >> np.uint64(11)).astype(float) * 2.0**-53


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mix(keys: np.ndarray) -> np.ndarray:
    """Mix 64-bit keys so that neighbours become unrelated.

    source : finalizer of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014)
    """
    mixed = keys + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _by_column(trace: Trace, column: str, entries: dict[str, Any]) -> tuple[np.ndarray, list[str]]:
    """Label by another column: `map` for its values, `below` for its numbers, `default` for the rest."""
    unknown = sorted(set(entries) - {"column", "map", "below", "default"})
    if unknown or ("map" in entries) == ("below" in entries):
        wrong = f"it has '{unknown[0]}'" if unknown else "it has " + ("both" if "map" in entries else "neither")
        raise TraceError(f"a rule by column has 'column', 'default' and one of 'map' and 'below', but {wrong}.")
    source = entries["column"]
    form = "map" if "map" in entries else "below"
    if source not in trace or source == "prefix_blocks" or (source in LABELS) != (form == "map"):
        kind = "a label" if form == "map" else "a number"
        has = ", ".join(name for name in trace.table.column_names if name != "prefix_blocks")
        raise TraceError(f"'{form}' needs {kind} column of the trace, but got column {source!r} (it has {has}).")
    if not isinstance(entries[form], Mapping):
        raise TraceError(f"'{form}' of the rule for '{column}' must be a mapping, but got {entries[form]!r}.")
    rows = _mapped(trace, source, given(entries[form])) if form == "map" else _limited(trace, source, entries["below"])
    codes, names = rows
    if (codes < 0).any():
        if "default" not in entries:
            row = int(np.argmax(codes < 0))
            raise TraceError(
                f"the rule for '{column}' must cover every request, but request {row} has {source} "
                f"{trace.column(source)[row]!s}. Give a 'default'."
            )
        default = str(entries["default"])
        names = names if default in names else [*names, default]
        codes = np.where(codes < 0, names.index(default), codes)
    return codes, names


def _mapped(trace: Trace, source: str, label_of: dict[str, Any]) -> tuple[np.ndarray, list[str]]:
    names = list(dict.fromkeys(str(label) for label in label_of.values()))
    of_code = [names.index(str(label_of[value])) if value in label_of else -1 for value in trace.labels(source)]
    return np.array(of_code, np.int64)[trace.codes(source)], names


def _limited(trace: Trace, source: str, limits: Mapping[str, Any]) -> tuple[np.ndarray, list[str]]:
    tops = {name: number(f"{source} limit of {name}", top) for name, top in given(limits).items()}
    names = sorted(tops, key=lambda name: tops[name])
    codes = np.searchsorted(np.array([tops[name] for name in names]), trace.column(source), side="right")
    return np.where(codes < len(names), codes, -1), names

"""From the resolved `trace` node of a configuration to a trace, recorded or synthetic."""

from collections.abc import Mapping
from typing import Any

from traces.assign import assign
from traces.errors import TraceError
from traces.importer import sidecar
from traces.params import accept, choose, given, names, number, text, whole
from traces.readers import load
from traces.schema import Trace, check
from traces.synthetic.kinds import KINDS
from traces.synthetic.make import COMMON, make
from traces.trie import Trie, compress
from traces.trie import load as load_trie
from traces.window import scale_rate, slice_rows, slice_time

DEFAULT_REQUESTS = 20_000
RULES = {"tiers": "tier", "tenants": "tenant", "kinds": "kind"}
WHOLE_TRACE = ("path", "format", "columns", "kind", "requests", "window", "rate_scale", *RULES)


def from_config(config: Mapping[str, Any], seed: int) -> Trace:
    """Load or make the trace that a `trace` node describes.

    config  : path, format, columns  recorded trace; a null path makes a synthetic one
              kind                   synthetic kind; its parameters stand beside it (and rest unused with a path)
              requests               rows; null is all of a recorded trace, 20,000 of a synthetic one
              window                 {start_s, end_s}, either may be null
              rate_scale             arrivals are divided by it
              tiers, tenants, kinds  rules of `traces.assign`; null leaves the column as it is
    seed    : of the draws and the rules
    returns : checked Trace
    raises  : TraceError on any unknown name, wrong type or value out of range
    """
    if not isinstance(config, Mapping):
        raise TraceError(f"the trace node must be a mapping such as {{kind: poisson}}, but got {config!r}.")
    node = given(config)
    kind = node.get("kind")
    if kind is None and "path" not in node:
        raise TraceError(f"a trace needs trace.path or trace.kind (one of {', '.join(KINDS)}), but both are null.")
    maker = choose("trace.kind", kind, KINDS) if kind is not None else None
    known = [*WHOLE_TRACE, *(names(maker, COMMON) if maker else ())]
    unknown = [name for name in node if name not in known]
    if unknown:
        raise TraceError(f"the trace node has {', '.join(known)}, but got 'trace.{unknown[0]}'. Remove it.")
    trace = _recorded(node) if "path" in node else _synthetic(node, seed)
    trace = _cut(trace, node)
    for name, column in RULES.items():
        if name in node:
            trace = assign(trace, column, node[name], seed)
    return check(trace, chains=False)


def trie_from_config(config: Mapping[str, Any], trace: Trace) -> Trie:
    """Return the trie of a trace that `from_config` made: mapped from the import's sidecar where that still fits.

    Labels and the rate do not touch prefixes, so they leave the sidecar valid; a window or fewer requests do not.

    config : the node that `from_config` got
    raises : TraceError if the sidecar was made for another trace
    """
    node = given(config)
    if "path" in node and "window" not in node:
        beside = sidecar(text("path", node["path"]))
        if beside.exists():
            source = _recorded(node)
            if len(source) == len(trace):
                return load_trie(beside, source.digest())
    return compress(trace)


def _recorded(node: dict[str, Any]) -> Trace:
    form, columns = node.get("format"), node.get("columns")
    if columns is not None:
        if not isinstance(columns, Mapping):
            raise TraceError(f"trace.columns must be a column map like {{arrival_s: t}}, but got {columns!r}.")
        columns = {str(name): text(f"columns.{name}", source) for name, source in given(columns).items()}
    return load(text("path", node["path"]), None if form is None else text("format", form), columns)


def _synthetic(node: dict[str, Any], seed: int) -> Trace:
    for name in ("format", "columns"):
        if name in node:
            raise TraceError(f"trace.{name} goes with trace.path, but trace.path is null. Set the path or drop {name}.")
    params = {name: value for name, value in node.items() if name not in WHOLE_TRACE}
    return make(node["kind"], node.get("requests", DEFAULT_REQUESTS), seed, **params)


def _cut(trace: Trace, node: dict[str, Any]) -> Trace:
    """Apply window, requests and rate_scale, in this order."""
    if "window" in node:
        if not isinstance(node["window"], Mapping):
            raise TraceError(f"trace.window must be {{start_s: ..., end_s: ...}}, but got {node['window']!r}.")

        def parameters(start_s: float = 0.0, end_s: float = 1e12) -> tuple[float, float]:
            return number("window.start_s", start_s, low=0.0), number("window.end_s", end_s, above=0.0)

        trace = slice_time(trace, *parameters(**accept("trace.window", node["window"], parameters, skip=0)))
    if "requests" in node and whole("requests", node["requests"]) < len(trace):
        trace = slice_rows(trace, 0, int(node["requests"]))
    factor = number("rate_scale", node.get("rate_scale", 1.0), above=0.0)
    return trace if factor == 1.0 else scale_rate(trace, factor)

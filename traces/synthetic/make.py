"""Make a synthetic trace by kind."""

import json
from typing import Any

from traces.errors import TraceError
from traces.params import accept, choose, stream, whole
from traces.schema import Trace, assemble, check
from traces.synthetic.kinds import KINDS

COMMON = 2  # leading arguments of every kind: seed, requests


def make(kind: str, requests: int, seed: int, **params: Any) -> Trace:
    """Draw a synthetic trace.

    kind     : one of `KINDS`
    requests : rows of the trace
    seed     : 0 .. 2^64 - 1
    params   : keywords of the kind's function in `traces.synthetic.kinds`
    returns  : checked Trace named by its kind; its notes say how it was made
    raises   : TraceError on an unknown kind or parameter, or a value out of range
    cost     : about 0.2 us a request, and 3 to 10 us with prefixes
    """
    maker = choose("trace.kind", kind, KINDS)
    count = whole("requests", requests)
    stream(seed, "")
    values = accept(f"trace kind '{kind}'", params, maker, COMMON)
    try:
        columns, block_tokens = maker(seed, count, **values)
    except MemoryError:
        raise TraceError(f"{count} requests of kind '{kind}' do not fit into memory. Ask for fewer.") from None
    notes = {"kind": kind, "seed": int(seed), "parameters": json.loads(json.dumps(params, default=_plain))}
    return check(assemble(kind, columns, block_tokens, notes), chains=False)


def _plain(value: Any) -> Any:
    """Turn NumPy values into what JSON can hold; anything else into its text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)

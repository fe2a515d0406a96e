"""Readers of public trace formats: one module each, found by import.

A reader is a module of this package with two functions: `sniff(head, path) -> bool` says whether a file is of its
format, `read(path, **options) -> Trace` reads it. Its module name is the format's name. A module without `sniff`
is a helper (`source`, `json_lines`, `chain`). A reader may also name `PRIORITY` (order of sniffing, default 0; the
generic `table` is last), `SORT` and `ZERO_TOKENS` (what its public files need by default).
"""

import inspect
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from traces.errors import TraceError
from traces.formats import sniffers
from traces.readers.source import first_line, read_head, settle_zeros
from traces.rules import check_columns
from traces.schema import Trace, check
from traces.window import sort_arrivals


@cache
def readers() -> dict[str, ModuleType]:
    """Return the reader modules by format name, in the order in which they sniff."""
    return sniffers(sys.modules[__name__])


def load(path: str | Path, format: str | None = None, columns: dict[str, str] | None = None, **options: Any) -> Trace:
    """Read a trace file of any known format.

    path    : file (plain, .gz or .zst) or, for formats of several files, their folder
    format  : name of a reader; None looks at the content
    columns : column map {"arrival_s": "t", ...}; given, the generic `table` reader is used
    options : for all formats `zero_tokens` ("refuse", "drop" or "one": rows of 0 tokens) and `sort` (by arrival;
              False refuses an unsorted file); others go to the reader (see its docstring)
    returns : checked Trace
    raises  : TraceError if the file is missing, of no known format or breaks a rule
    """
    path = Path(path)
    if not path.exists():
        raise TraceError(f"a trace file must exist, but there is none at {path}. Check the path.")
    if columns is not None:
        options["columns"] = columns
        format = format or "table"
    name = _reading(path, detect, path) if format is None else format
    if name not in readers():
        raise TraceError(f"the trace format must be one of {', '.join(readers())}, but got '{name}'.")
    reader = readers()[name]
    zero_tokens = options.pop("zero_tokens", getattr(reader, "ZERO_TOKENS", "refuse"))
    sort = options.pop("sort", getattr(reader, "SORT", False))
    _check_options(name, reader, options)
    trace = _reading(path, reader.read, path, **options)
    check_columns(trace)
    trace = settle_zeros(trace, zero_tokens)
    trusted = hasattr(reader, "trusted") and reader.trusted(trace)
    return check(sort_arrivals(trace) if sort else trace, chains=not trusted)


def _reading(path: Path, act: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    try:
        return act(*arguments, **options)
    except OSError as error:
        raise TraceError(f"a trace file must be readable, but {path} is not: {error.strerror or error}.") from None
    except (pa.ArrowException, UnicodeError, OverflowError) as error:
        raise TraceError(
            f"a trace file must hold values of its format's types, but {path.name} does not: {first_line(error)}."
        ) from None


def _check_options(name: str, reader: ModuleType, options: dict[str, Any]) -> None:
    known = ["zero_tokens", "sort", *list(inspect.signature(reader.read).parameters)[1:]]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TraceError(f"the {name} reader has the options {', '.join(known)}, but got '{unknown[0]}'.")


def detect(path: Path) -> str:
    """Return the name of the first reader that recognises a file's content; raise TraceError if none does."""
    head = read_head(path)
    for name, module in readers().items():
        if module.sniff(head, path):
            return name
    raise TraceError(
        f"no reader recognises {path.name}. Name its format ({', '.join(readers())}) with --format, "
        "or map its columns with --column arrival_s=... --column prompt_tokens=... --column output_tokens=..."
    )

"""The command `kvreplay traces`: import, describe, window, catalog, fetch."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from traces import catalog, describe, importer, window
from traces.errors import KvreplayError, TraceError
from traces.readers import load, readers
from traces.reuse import command
from traces.schema import Trace


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0 done, 1 bad data (one sentence on stderr), 2 bad usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        options.act(options)
    except KvreplayError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kvreplay traces", description="Read, cut, describe and fetch traces.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _add_import(verbs)
    _add_describe(verbs)
    _add_window(verbs)
    verbs.add_parser("catalog", help="list the public traces that fetch knows").set_defaults(act=_catalog)
    fetch = verbs.add_parser("fetch", help="download a public trace, or verify a copy on disk")
    fetch.add_argument("name")
    fetch.add_argument("--folder", default=".", help="where to put it (default: here)")
    fetch.add_argument("--from", dest="from_path", metavar="FILE", help="verify and copy this file; no download")
    fetch.add_argument("--accept-unverified", action="store_true", help="take a file whose checksum is not known")
    fetch.set_defaults(act=_fetch)
    return parser


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE", help="plain, .gz or .zst; a folder for formats of several files")
    parser.add_argument("--format", metavar="F", help=f"one of {', '.join(readers())}; default: by content")
    parser.add_argument("--column", action="append", metavar="NAME=SOURCE", help="map a column, e.g. arrival_s=t")
    parser.add_argument("--option", action="append", metavar="NAME=VALUE", help="reader option, e.g. zero_tokens=drop")


def _add_import(verbs: Any) -> None:
    parser = verbs.add_parser("import", help="convert a trace to memory-mapped Arrow with its prefix trie")
    _add_source(parser)
    parser.add_argument("target", metavar="TARGET.arrow")
    parser.set_defaults(act=_import)


def _add_describe(verbs: Any) -> None:
    parser = verbs.add_parser("describe", help="print a trace's numbers")
    _add_source(parser)
    parser.add_argument("--json", action="store_true", help="flat JSON instead of a table")
    command.add_flags(parser)
    parser.set_defaults(act=_describe)


def _add_window(verbs: Any) -> None:
    parser = verbs.add_parser("window", help="cut, thin and speed up a trace, in this order")
    _add_source(parser)
    parser.add_argument("target", metavar="TARGET.arrow")
    parser.add_argument("--time", metavar="START:END", help="keep arrivals START <= t < END, in seconds")
    parser.add_argument("--rows", metavar="START:END", help="keep rows START <= row < END")
    parser.add_argument("--thin", type=float, metavar="KEEP", help="keep this share of the requests, sessions whole")
    parser.add_argument("--seed", type=int, default=0, help="of --thin (default 0)")
    parser.add_argument("--rate", type=float, metavar="FACTOR", help="multiply the arrival rate")
    parser.set_defaults(act=_window)


def _load(options: argparse.Namespace) -> Trace:
    columns = _pairs(options.column, "--column") or None
    extra = {name: _value(text) for name, text in _pairs(options.option, "--option").items()}
    reserved = {"path", "format", "columns"} & set(extra)
    if reserved:
        raise TraceError(f"--option sets reader options, but got '{min(reserved)}'. Use the flag of that name.")
    return load(options.source, options.format, columns, **extra)


def _import(options: argparse.Namespace) -> None:
    trace = importer.write_trace(_load(options), options.target)
    print(f"{options.target}: {len(trace):,} requests, digest {trace.digest()[:16]}")


def _describe(options: argparse.Namespace) -> None:
    trace = _load(options)
    numbers = describe.describe(trace)
    if options.lru is not None:
        numbers |= _lru(trace, options.lru)
    told = command.reuse(trace, options) if command.asked(options) else command.Told([], {})
    if options.json:
        print(json.dumps(numbers | told.numbers, indent=2))
    else:
        Console().print(describe.render(trace, numbers), *told.tables, sep="\n")


def _lru(trace: Trace, text: str) -> dict[str, float]:
    from traces.reuse import lru_curve

    sizes = command.capacities(text, "--lru")
    curve = lru_curve(trace)
    return {f"lru_hit_rate_blocks_{size:.0f}": curve.rate(size) for size in sizes}


def _window(options: argparse.Namespace) -> None:
    trace = _load(options)
    if options.time:
        trace = window.slice_time(trace, *_range(options.time, float, "--time"))
    if options.rows:
        trace = window.slice_rows(trace, *_range(options.rows, int, "--rows"))
    if options.thin is not None:
        trace = window.thin(trace, options.thin, options.seed)
    if options.rate is not None:
        trace = window.scale_rate(trace, options.rate)
    written = importer.write_trace(trace, options.target)
    print(f"{options.target}: {len(written):,} requests, digest {written.digest()[:16]}")


def _catalog(options: argparse.Namespace) -> None:
    Console().print(catalog.render())


def _fetch(options: argparse.Namespace) -> None:
    path = catalog.fetch(options.name, options.folder, options.from_path, options.accept_unverified)
    print(f"{path}: sha256 {catalog.checksum(path)}")


def _pairs(texts: list[str] | None, flag: str) -> dict[str, str]:
    pairs = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise TraceError(f"{flag} takes NAME=VALUE, but got '{text}'.")
        pairs[name] = value
    return pairs


def _value(text: str) -> Any:
    """Read an option's value as the JSON it looks like (true, 0.5, 64), else as text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _range(text: str, kind: type, flag: str) -> tuple[Any, Any]:
    start, _, end = text.partition(":")
    try:
        return kind(start), kind(end)
    except ValueError:
        raise TraceError(f"{flag} takes START:END, but got '{text}'.") from None


if __name__ == "__main__":
    sys.exit(main())

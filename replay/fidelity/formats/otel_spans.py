"""OpenTelemetry spans of GenAI requests, as OTLP JSON: one document, or one a line as collectors write it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from replay.errors import LogError
from replay.fidelity.formats.source import Found, finite, json_lines, record_of, text_of, whole

NS_PER_S = 1_000_000_000
# what a request needs and may have -> attributes that say it, the first one found; later ones are older names
INPUT = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
OUTPUT = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")
FIRST = ("gen_ai.server.time_to_first_token", "gen_ai.latency.time_to_first_token",
         "gen_ai.response.time_to_first_chunk")  # fmt: skip
LAST = ("gen_ai.server.request.duration", "gen_ai.latency.e2e")
QUEUE = ("gen_ai.latency.time_in_queue",)
SESSION, TENANT = ("gen_ai.conversation.id", "session.id"), ("enduser.id", "user.id")
ERROR_CODE = 2


def sniff(path: Path, head: bytes) -> bool:
    return b'"resourceSpans"' in head


def read(path: Path) -> Found:
    """Read the spans that state the tokens of a request; other spans are counted in the notes.

    A span's start is the arrival; the end of the request is its duration attribute where stated, else the span's end.

    source : OpenTelemetry semantic conventions for generative AI; vLLM's spans `llm_request`
    """
    text = text_of(path)
    try:
        documents = [(path.name, json.loads(text))] if text.count('"resourceSpans"') == 1 else None
    except (ValueError, RecursionError):
        documents = None
    if documents is None or not isinstance(documents[0][1], dict):
        documents = list(json_lines(path)) if "\n" in text.strip() else [(path.name, record_of(text, path.name))]
    names = ("arrival_s", "prompt_tokens", "output_tokens", "scheduled_s", "first_token_s", "last_token_s", "session",
             "tenant", "error")  # fmt: skip
    columns: dict[str, list[Any]] = {name: [] for name in names}
    places, others, epoch_ns = [], 0, None
    for place, span in _spans(documents):
        attributes = _attributes(span, place)
        if not _first(attributes, INPUT) or not _first(attributes, OUTPUT):
            others += 1
            continue
        start_ns = _clock_ns(span, "startTimeUnixNano", place)
        epoch_ns = start_ns if epoch_ns is None else epoch_ns  # whole ns: no digit is lost in seconds since 1970
        for name, value in zip(names, _row(span, attributes, start_ns, epoch_ns, place), strict=True):
            columns[name].append(value)
        places.append(place)
    return Found(columns, places, notes={"other_spans": others})


def _row(span: Mapping[str, Any], attributes: Mapping[str, Any], start_ns: int, epoch_ns: int, place: str) -> list[Any]:
    """Return the values of one request in the order of the columns."""
    arrival_s = (start_ns - epoch_ns) / NS_PER_S

    def after(keys: tuple[str, ...], otherwise_s: float | None = None) -> float | None:
        key = _first(attributes, keys)
        wait_s = finite(attributes[key], f"'{key}' of {place}") if key else otherwise_s
        return None if wait_s is None else arrival_s + wait_s

    def tokens(keys: tuple[str, ...]) -> int:
        key = str(_first(attributes, keys))
        return whole(attributes[key], f"'{key}' of {place}")

    lasted_s = (_clock_ns(span, "endTimeUnixNano", place) - start_ns) / NS_PER_S
    status = span.get("status") or {}
    failed = isinstance(status, dict) and status.get("code") in (ERROR_CODE, "STATUS_CODE_ERROR")
    error = str(attributes.get("error.type") or status.get("message") or "error") if failed else None
    labels = [str(attributes[key]) if (key := _first(attributes, keys)) else None for keys in (SESSION, TENANT)]
    return [arrival_s, tokens(INPUT), tokens(OUTPUT), after(QUEUE), after(FIRST),
            None if failed else after(LAST, lasted_s), *labels, error]  # fmt: skip


def _spans(documents: list[tuple[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    number = 0
    for place, document in documents:
        for resource in _list(document, "resourceSpans", place):
            for scope in _list(resource, "scopeSpans", place):
                for span in _list(scope, "spans", place):
                    yield f"span {number} ({place})", span
                    number += 1


def _list(node: Any, key: str, place: str) -> list[Mapping[str, Any]]:
    value = node.get(key, []) if isinstance(node, dict) else None
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise LogError(f"'{key}' of {place} must be a list of records, as OTLP JSON has it.")
    return value


def _attributes(span: Mapping[str, Any], place: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in _list(span, "attributes", place):
        value = pair.get("value")
        if not isinstance(value, dict) or "key" not in pair:
            raise LogError(f"the attributes of {place} must be {{key, value}} records, as OTLP JSON has them.")
        for kind, plain in value.items():
            found[str(pair["key"])] = _number(plain) if kind == "intValue" else plain
    return found


def _number(text: Any) -> Any:
    """Return the whole number that OTLP JSON writes as text; what is none stays as it is, to be refused by its key."""
    try:
        return int(text)
    except (TypeError, ValueError):
        return text


def _clock_ns(span: Mapping[str, Any], key: str, place: str) -> int:
    value = _number(span.get(key))
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**63:
        raise LogError(f"'{key}' of {place} must be nanoseconds since 1970, but is {span.get(key)!r:.60}.")
    return value


def _first(attributes: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((key for key in keys if attributes.get(key) is not None), None)

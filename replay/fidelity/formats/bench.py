"""The lists that benchmark clients of vLLM and SGLang write: one item a request, in the order of sending."""

import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from replay.errors import LogError
from replay.fidelity.formats.source import Found, finite, first_record, items, whole

LISTS = ("input_lens", "output_lens", "ttfts", "itls")


def has_lists(head: bytes) -> bool:
    """Say whether a head looks like such a file: its first record has the lists or, cut off, begins them."""
    record = first_record(head)
    return set(LISTS) <= set(record) if record else head.lstrip()[:1] == b"{" and b'"input_lens"' in head


def read_lists(record: Mapping[str, Any], place: str) -> Found:
    """Turn the lists of one run into the columns of a log; a request with an error, or of no token, is a row too.

    raises : LogError where lists do not match, or arrivals are unknown: no start_times and a finite request rate
    """
    count = len(items(record, "input_lens", place))
    lists = {name: items(record, name, place, count) for name in LISTS}
    errors = items(record, "errors", place, count) if record.get("errors") else [""] * count
    arrivals_s = _arrivals_s(record, count, place)
    columns: dict[str, list[Any]] = {name: [] for name in (
        "arrival_s", "prompt_tokens", "output_tokens", "first_token_s", "last_token_s", "error")}  # fmt: skip
    for row in range(count):
        where = f"request {row} of {place}"
        output_tokens = whole(lists["output_lens"][row], f"output_lens of {where}")
        gaps_s = _gaps_s(lists["itls"][row], where)
        failed = str(errors[row]) or (None if output_tokens else "no token came back")
        first_s = None if failed else arrivals_s[row] + finite(lists["ttfts"][row], f"ttfts of {where}")
        columns["arrival_s"].append(arrivals_s[row])
        columns["prompt_tokens"].append(whole(lists["input_lens"][row], f"input_lens of {where}"))
        columns["output_tokens"].append(output_tokens)
        columns["first_token_s"].append(first_s)
        columns["last_token_s"].append(None if first_s is None else list(accumulate([first_s, *gaps_s]))[-1])
        columns["error"].append(failed)
    notes = {key: record[key] for key in ("backend", "model_id", "date", "request_rate") if key in record}
    return Found(columns, [f"request {row} of {place}" for row in range(count)], notes=notes)


def _gaps_s(value: Any, where: str) -> list[float]:
    if not isinstance(value, list):
        raise LogError(f"itls of {where} must be a list of seconds, but is {value!r:.60}.")
    return [finite(gap_s, f"itls of {where}") for gap_s in value]


def _arrivals_s(record: Mapping[str, Any], count: int, place: str) -> list[float]:
    if record.get("start_times"):
        starts = items(record, "start_times", place, count)
        return [finite(start_s, f"start_times of request {row} of {place}") for row, start_s in enumerate(starts)]
    at_once = str(record.get("request_rate")) == "inf" or record.get("request_rate") == math.inf
    most = record.get("max_concurrency")
    if at_once and (most is None or (isinstance(most, int) and most >= count)):
        return [0.0] * count
    raise LogError(f"{place} must say when its requests were sent, but has no 'start_times', and its request rate is "
                   f"{record.get('request_rate')!r} with max_concurrency {most!r}. Record it again with a client that "
                   f"writes them, or with request rate inf and no limit of concurrency.")

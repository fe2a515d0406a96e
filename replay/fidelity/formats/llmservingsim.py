"""vLLM runs as LLMServingSim records them: requests.jsonl, with timeseries.csv and meta.json beside it."""

from pathlib import Path
from typing import Any

import polars as pl

from replay.errors import LogError
from replay.fidelity.formats.source import Found, first_record, json_lines, record_of, seconds, text_of, tokens

KEYS = ("input_toks", "output_toks", "arrival_time", "first_token_ts", "last_token_ts")
TIMES = {"queued_s": "queued_ts", "scheduled_s": "scheduled_ts", "first_token_s": "first_token_ts",
         "last_token_s": "last_token_ts"}  # fmt: skip
# gauge -> column of timeseries.csv, and its factor
GAUGES = {"t_s": ("t", 1.0), "running": ("running", 1.0), "waiting": ("waiting", 1.0),
          "kv_used": ("kv_cache_pct", 0.01)}  # fmt: skip
# key of kvreplay run -> where meta.json states it
SETTINGS = {"cluster.max_batch": ("engine_kwargs", "max_num_seqs"),
            "cluster.token_budget": ("engine_kwargs", "max_num_batched_tokens"),
            "cluster.kv_blocks": ("kv_cache", "num_gpu_blocks"),
            "cluster.block_tokens": ("kv_cache", "block_size")}  # fmt: skip


def sniff(path: Path, head: bytes) -> bool:
    return set(KEYS) <= set(first_record(head))


def read(path: Path) -> Found:
    """Read one run.

    Arrivals are on the wall clock, all later times on the engine's monotonic one. The two are aligned by the request
    that reached the queue soonest: its way there is taken to last no time.

    source : LLMServingSim (Cho et al., IISWC 2024), bench/examples
    """
    records = json_lines(path)
    columns: dict[str, list[Any]] = {name: [] for name in ("arrival_s", "prompt_tokens", "output_tokens", *TIMES)}
    for place, record in records:
        columns["arrival_s"].append(seconds(record, "arrival_time", place))
        columns["prompt_tokens"].append(tokens(record, "input_toks", place))
        columns["output_tokens"].append(tokens(record, "output_toks", place))
        for name, key in TIMES.items():
            columns[name].append(seconds(record, key, place, needed=name == "first_token_s"))
    both = zip(columns["queued_s"], columns["arrival_s"], strict=True)
    ways_s = [queued_s - arrival_s for queued_s, arrival_s in both if queued_s is not None]
    if records and not ways_s:
        raise LogError(f"the clocks of {path.name} are aligned by 'queued_ts', but no record has it.")
    columns["arrival_s"] = [arrival_s + min(ways_s) for arrival_s in columns["arrival_s"]]
    meta = path.with_name("meta.json")
    stated = record_of(text_of(meta), meta.name) if meta.is_file() else {}
    notes: dict[str, Any] = {key: stated[key] for key in ("model", "vllm_version", "started_at") if key in stated}
    gauges = _gauges(path.with_name("timeseries.csv"), path)
    return Found(columns, [place for place, _ in records], gauges, settings=_settings(stated), notes=notes)


def _settings(stated: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for key, (section, name) in SETTINGS.items():
        part = stated.get(section)
        if isinstance(part, dict) and isinstance(part.get(name), int):
            found[key] = part[name]
    return found


def _gauges(path: Path, requests: Path) -> pl.DataFrame | None:
    if not path.is_file():
        return None
    try:
        frame = pl.read_csv(path)
        return frame.select((pl.col(key).cast(pl.Float64) * factor).alias(name) for name, (key, factor)
                            in GAUGES.items())  # fmt: skip
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise LogError(f"{path.name} beside {requests.name} must have the columns "
                       f"{', '.join(key for key, _ in GAUGES.values())}: {reason}. Mend it or move it away.") from None



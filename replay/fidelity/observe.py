"""`kvreplay profile observe`: drive an OpenAI-compatible endpoint with a trace, and record a log."""

import asyncio
import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import polars as pl
from rich import box
from rich.table import Table

from replay.driving import first_interrupt
from replay.errors import ConfigError
from replay.fidelity import logs
from replay.fidelity.deviation import COMPARED, STATISTICS, statistics
from replay.fidelity.driver import Sent, drive
from replay.fidelity.endpoint import APIS, LINE_BYTES, Endpoint, headers
from replay.fidelity.prompts import Vocabulary, prompt, salted, vocabulary
from replay.run import INTERRUPTED, OK
from replay.study.composed import compose_all
from replay.study.progress import steps
from replay.study.verb import split
from replay.table import number, show
from replay.write import check_writable, together
from traces.schema import Trace

OWN = ("url", "model", "out")
DEFAULTS: dict[str, Any] = {"limit_s": math.inf, "timeout_s": 600.0, "api": "completions", "salt": 0}
LATE_S = 0.01
USAGE = """usage: kvreplay profile observe url=http://HOST:PORT/v1 out=FOLDER [key=value ...]

  url=...                  an OpenAI-compatible endpoint; the environment's OPENAI_API_KEY is its key
  model=NAME               of those it serves; by default the first
  out=FOLDER               log.parquet, a log that calibrate reads, and meta.json
  trace=... trace.path=... trace.requests=...     the load, as of kvreplay run; later turns of sessions wait for the
                           turn before and their think time, all else arrives on time
  observe.limit_s=60       nothing is sent later than so many seconds after the start
  observe.timeout_s=600    a request may last so long
  observe.api=completions  or chat, whose templates make prompts longer than asked
  observe.salt=0           another number makes other text of the same trace, which no cache of the server knows yet"""


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments of `kvreplay profile observe` ask for.

    returns : exit code
    raises  : ConfigError, TraceError, WriteError
    """
    if not arguments or any(text in ("-h", "--help") for text in arguments):
        print(USAGE)
        return OK if arguments else 2
    own, others = _own(arguments)
    values, others = split("observe", others, DEFAULTS, _read)
    try:
        import aiohttp  # noqa: F401
    except ImportError:
        raise ConfigError("observe needs the package aiohttp. Install it: pip install 'kvreplay[observe]'.") from None
    found, runner = compose_all(others)
    if len(found) != 1:
        raise ConfigError(f"observe records one run, but the arguments ask for {len(found)}.")
    folder = Path(own["out"])
    check_writable(folder)
    trace = runner.trace(found[0].config["trace"], found[0].checked.seed)
    with ExitStack() as stack:
        told = stack.enter_context(steps("requests answered", len(trace)))
        stopped = stack.enter_context(first_interrupt())
        record = asyncio.run(observed(trace, own, values, (stopped.is_set, told)))
    frame, meta = record
    if not frame.height:
        show("nothing was answered: nothing was written", stderr=True)
        return INTERRUPTED if stopped.is_set() else 1
    save(folder, frame, meta, trace.block_tokens)
    report(folder, frame, meta)
    return INTERRUPTED if stopped.is_set() else OK


async def observed(trace: Trace, own: dict[str, str], values: dict[str, Any], hooks: tuple[Any, Any]) -> tuple[
        pl.DataFrame, dict[str, Any]]:  # fmt: skip
    """Find out what the endpoint can do, drive it, and return the rows of the log and what is known of the run.

    hooks : asked whether to stop; called after each answer
    """
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=values["timeout_s"])
    options: dict[str, Any] = {"timeout": timeout, "headers": headers(), "read_bufsize": LINE_BYTES}
    # A connection a request: one kept from before may be closed by the server just as it is used again.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True), **options) as http:
        endpoint = Endpoint(http, own["url"], own.get("model"), values["api"])
        await endpoint.find()
        words = await vocabulary(await endpoint.tokenizer(), endpoint.charged if endpoint.counts else None)
        slots = await endpoint.slots()
        key = salted(trace, values["salt"])
        texts = [prompt(trace, row, words, key) for row in range(len(trace))]
        asked = trace.column("output_tokens").tolist()
        started_at = datetime.now(UTC).isoformat()
        start_s, sent = await drive(trace, lambda row: endpoint.complete(texts[row], asked[row]), values["limit_s"],
                                    *hooks)  # fmt: skip
    frame = rows(trace, start_s, sent)
    return frame, {
        "format": "kvreplay log 1", "url": _plain(own["url"]), "model": endpoint.model, "api": endpoint.api,
        "trace": trace.name, "trace_digest": trace.digest(), "salt": values["salt"],
        "started_at": started_at,
        "requests": len(trace), "answered": int(frame["error"].null_count()),
        "failed": frame.height - int(frame["error"].null_count()), "not_sent": len(trace) - frame.height,
        "extras": list(endpoint.extras), "tokens_from": "usage" if endpoint.counts else "pieces of the stream",
        **_lengths(frame, words), **_lateness(frame),
        "settings": {} if slots is None else {"cluster.max_batch": slots},
    }  # fmt: skip


def rows(trace: Trace, start_s: float, sent: Sequence[Sent | None]) -> pl.DataFrame:
    """Make the rows of a log: the columns of `logs.COLUMNS`, and how the request was meant; unsent ones have none.

    Beyond a log's columns: row of the trace, planned_s, lateness_s, asked_prompt_tokens, asked_output_tokens, and
    token_s, the time of each piece of the answer.
    """
    kept = [row for row, one in enumerate(sent) if one is not None]
    found = [one for one in sent if one is not None]
    asked: dict[str, list[int]] = {name: trace.column(name)[kept].tolist() if kept else []
                                   for name in ("prompt_tokens", "output_tokens")}  # fmt: skip
    answers = [one.answer for one in found]
    times = [[moment - start_s for moment in answer.token_s] for answer in answers]
    columns: dict[str, Any] = {
        "arrival_s": [answer.sent_s - start_s for answer in answers],
        "prompt_tokens": [_stated(answer.prompt_tokens, asked["prompt_tokens"][k]) for k, answer in enumerate(answers)],
        "output_tokens": [_stated(answer.output_tokens, len(answer.token_s)) for answer in answers],
        "first_token_s": [moments[0] if moments else None for moments in times],
        "last_token_s": [moments[-1] if moments else None for moments in times],
    }
    columns |= {name: [str(trace.column(name)[row]) for row in kept] for name in ("session", "tenant", "tier")
                if name in trace}  # fmt: skip
    columns["error"] = [answer.error for answer in answers]
    if "prefix_blocks" in trace:
        offsets, ids = trace.prefix()
        columns["prefix_blocks"] = [ids[offsets[row] : offsets[row + 1]].tolist() for row in kept]
    types = {name: logs.COLUMNS[name] for name in columns}
    columns |= {"row": kept, "planned_s": [one.planned_s - start_s for one in found]}
    columns |= {"lateness_s": [one.answer.sent_s - one.planned_s for one in found]}
    columns |= {f"asked_{name}": asked[name] for name in asked} | {"token_s": times}
    types |= {"row": pl.Int64, "planned_s": pl.Float64, "lateness_s": pl.Float64, "asked_prompt_tokens": pl.Int64,
              "asked_output_tokens": pl.Int64, "token_s": pl.List(pl.Float64)}  # fmt: skip
    return pl.DataFrame(columns, schema=types, strict=False)


def save(folder: Path, frame: pl.DataFrame, meta: dict[str, Any], block_tokens: int | None) -> None:
    """Write log.parquet, the block size in its schema, and meta.json."""
    import pyarrow.parquet

    table = frame.to_arrow()
    known = {} if block_tokens is None else {"block_tokens": str(block_tokens)}
    with together(folder) as place:
        pyarrow.parquet.write_table(table.replace_schema_metadata(known), place("log.parquet"))
        place("meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def report(folder: Path, frame: pl.DataFrame, meta: dict[str, Any]) -> None:
    """Show what was recorded, and say what was not as asked."""
    served = logs.measured(frame).filter(pl.col("error").is_null())
    found = statistics(served)
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    for place, heading in enumerate(("", *STATISTICS)):
        made.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for metric, (name, unit, factor) in COMPARED.items():
        made.add_row(f"{name} {unit}", *(number(found[f"{metric}_{one}"], factor) for one in STATISTICS))
    counts = f"{meta['answered']:,} answered, {meta['failed']:,} failed, {meta['not_sent']:,} not sent"
    late = f"sent {number(meta['lateness_s_p50'], 1e3)} ms late (p50), {number(meta['lateness_s_p99'], 1e3)} ms (p99)"
    show(made, "", f"{meta['requests']:,} requests to {meta['model']}: {counts}; {late}", f"log in {folder}")
    for sentence in warnings(frame, meta):
        show(sentence, stderr=True)


def warnings(frame: pl.DataFrame, meta: dict[str, Any]) -> list[str]:
    """Return a sentence for each thing that is not as the trace asked."""
    told = []
    if meta["lateness_s_p99"] is not None and meta["lateness_s_p99"] > LATE_S:
        told.append(f"the sender was late: {number(meta['lateness_s_p99'], 1e3)} ms at p99; times count from the "
                    f"moment of sending, but the load was not the trace's")  # fmt: skip
    if not meta["exact_prompts"]:
        told.append("the server counts no tokens, so that a word was taken for a token: prompts are about as long as "
                    "asked")  # fmt: skip
    if meta["prompts_of_other_length"]:
        told.append(f"{meta['prompts_of_other_length']:,} prompts were of another length than asked, by "
                    f"{number(meta['prompt_tokens_off_mean'])} tokens on average")  # fmt: skip
    if meta["answers_cut_short"]:
        told.append(f"{meta['answers_cut_short']:,} answers ended before the asked length: the server does not take "
                    f"ignore_eos")  # fmt: skip
    reasons = frame.filter(pl.col("error").is_not_null())["error"].value_counts(sort=True).rows()
    return told + [f"{count:,} failed: {reason}" for reason, count in reasons[:3]]


def _lengths(frame: pl.DataFrame, words: Vocabulary) -> dict[str, Any]:
    served = frame.filter(pl.col("error").is_null())
    off = (served["prompt_tokens"] - served["asked_prompt_tokens"]).to_numpy()
    short = served["output_tokens"] < served["asked_output_tokens"]
    return {"exact_prompts": words.exact, "prompts_of_other_length": int((off != 0).sum()),
            "prompt_tokens_off_mean": float(off.mean()) if len(off) else None,
            "answers_cut_short": int(short.sum())}  # fmt: skip


def _lateness(frame: pl.DataFrame) -> dict[str, float | None]:
    late = frame.filter(pl.col("error").is_null() | (pl.col("lateness_s") > 0.0))["lateness_s"].to_numpy()
    return {f"lateness_s_{name}": float(np.quantile(late, share)) if len(late) else None
            for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}  # fmt: skip


def _stated(value: int | None, otherwise: int) -> int:
    return int(otherwise) if value is None else int(value)


def _plain(url: str) -> str:
    """Return a URL without what it may say of a user."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def _own(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    own = {key: text.partition("=")[2] for text in arguments for key in OWN if text.startswith(f"{key}=")}
    url = urlsplit(own.get("url", ""))
    if url.scheme not in ("http", "https") or not url.netloc:
        raise ConfigError(f"kvreplay profile observe needs an endpoint, url=http://HOST:PORT/v1, but url is "
                          f"'{own.get('url', '')}'.")  # fmt: skip
    if not own.get("out"):
        raise ConfigError("kvreplay profile observe needs the folder of its log: out=FOLDER.")
    return own, [text for text in arguments if text.partition("=")[0] not in OWN]


def _read(key: str, text: str) -> Any:
    if key == "api":
        if text not in APIS:
            raise ConfigError(f"observe.api must be one of {', '.join(APIS)}, but is '{text}'.")
        return text
    if key == "salt":
        if not text.isdigit() or len(text) > 9:
            raise ConfigError(f"observe.salt must be a whole number from 0 to 999999999, but is '{text}'.")
        return int(text)
    try:
        duration_s = float(text)
    except ValueError:
        duration_s = 0.0
    if not 0.0 < duration_s < math.inf:
        raise ConfigError(f"observe.{key} must be a time above 0 s, but is '{text}'.")
    return duration_s
